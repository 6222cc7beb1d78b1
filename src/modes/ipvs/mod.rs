//! The IPVS mode: Services as virtual servers of the kernel's load balancer. `README.md` shows the packet's way.

mod apply;
mod base;
mod cleanup;
mod departure;
mod doors;
mod drain;
mod error;
mod held;
mod kube_proxy;
mod marks;
mod names;
mod observe;
mod plan;
mod planner;
mod render;
mod servers;
mod skeleton;
mod steps;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::kernel::iptables;
use crate::kernel::ipvs::{Service, VirtualServer};
use crate::kernel::sysctl::NodeSettings;
use crate::kernel::virtual_addresses::AddressChange;
use crate::model::{Family, Scheduler, ServiceTable};
use crate::modes::iptables::{Settings as RuleSettings, remove_kube_proxy};
use crate::modes::{Drift, Leftovers, Mode, Predecessors, Subject};

pub use cleanup::Remains;
pub use departure::LONGEST_DEPARTURE;
pub use doors::Doors;
pub use error::Error;
pub use kube_proxy::{DeviceUse, KubeProxy};
pub use plan::Plan;

use drain::Drains;
use held::{Held, Owner};
use names::ServiceMarks;
use planner::Scope;
use skeleton::Skeleton;

/// Virtual servers that are compared with the kernel at each look for drift, at least. The kernel tells of no change to
/// them, so all are looked at in turn.
const COMPARED: usize = 16;

/// Looks in which all have had their turn: those of a minute.
const ROUND: usize = 240;

/// What the operator chose.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub iptables: RuleSettings,
    /// `--ipvs-exclude-cidrs`: virtual servers at these addresses are never removed.
    pub exclude: Vec<IpNet>,
    /// `--ipvs-drain-timeout`: how long connections of an endpoint that left are waited for; `None` is for ever.
    pub drain_timeout: Option<Duration>,
    pub virtual_addresses: VirtualAddressing,
}

/// How the node comes to take packets to virtual addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtualAddressing {
    /// By routes of type local.
    #[default]
    Routes,
    /// By addresses of a device that nothing is behind, as kube-proxy does it.
    Device,
}

impl Settings {
    /// The source of the node's own packets to virtual addresses. An address of a device comes with none.
    fn source_hint(&self, table: &ServiceTable) -> Option<IpAddr> {
        match self.virtual_addresses {
            VirtualAddressing::Routes => table.node().primary(table.family()),
            VirtualAddressing::Device => None,
        }
    }

    fn marks(&self) -> ServiceMarks {
        ServiceMarks::new(1 << self.iptables.masquerade_bit)
    }
}

/// Whether the destinations of virtual servers are as they were written, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// A plan failed half way, or one of them was found to be different.
    Lost,
    /// Each is compared in its turn. Reading all of them takes a request for each virtual server.
    Kept,
}

type Occupied = BTreeMap<IpAddr, Option<IpAddr>>;

/// The IPVS mode for one address family.
#[derive(Debug)]
pub struct Ipvs<D> {
    family: Family,
    settings: Settings,
    doors: Doors,
    skeleton: Skeleton<D>,
    held: Held,
    scope: Scope,
    trust: Trust,
    drains: Drains,
    /// Virtual addresses that the node has for another reason, with the source that they were to have.
    occupied: Occupied,
    /// The last virtual server that was compared with the kernel.
    compared: Option<VirtualServer>,
    /// Whether kube-proxy's chains were there when rules were last read.
    kube_proxy: bool,
    predecessors: Predecessors,
    /// What others may change under it, if it is to care.
    node_settings: Option<Box<dyn NodeSettings>>,
}

impl<D: iptables::Door> Ipvs<D> {
    pub fn new(rules: D, doors: Doors, settings: Settings) -> Self {
        Ipvs {
            family: rules.family(),
            skeleton: Skeleton::new(rules, settings.iptables),
            doors,
            held: Held::default(),
            scope: Scope::Everything,
            trust: Trust::Lost,
            drains: Drains::new(settings.drain_timeout),
            occupied: Occupied::new(),
            compared: None,
            kube_proxy: false,
            predecessors: Predecessors::default(),
            node_settings: None,
            settings,
        }
    }

    /// With what goes once its own virtual servers and rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Ipvs { predecessors: Predecessors::new(leftovers), ..self }
    }

    /// Holds the node to these whenever it reads back what the kernel holds.
    pub fn on_node(self, settings: Box<dyn NodeSettings>) -> Self {
        Ipvs { node_settings: Some(settings), ..self }
    }

    /// An address that the node had for another reason may be free now. Nobody tells of that, so it is tried.
    fn try_occupied(&mut self) {
        let before = std::mem::take(&mut self.occupied);
        let changes: Vec<_> =
            before.iter().map(|(&address, &source)| AddressChange::Add { address, source }).collect();
        if !changes.is_empty() {
            let changed = self.doors.addresses.change(self.family, &changes);
            // If it failed in another way, the next plan meets that too and tells.
            let _ = apply::taken(changed, &changes, &mut self.occupied);
        }
    }

    /// Whether the virtual servers whose turn it is are as they were written.
    fn compare_some(&mut self) -> Result<Drift, Error> {
        let count = COMPARED.max(self.held.servers.len().div_ceil(ROUND));
        let from = self.compared.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.held.servers.range((from, Bound::Unbounded));
        let ours = later.filter(|(_, server)| server.owner == Owner::Us);
        let some: Vec<_> = ours.map(|(at, _)| *at).take(count).collect();
        self.compared = if some.len() < count { None } else { some.last().copied() };
        for at in some {
            if observe::destinations(&mut self.doors, &at)? != self.held.servers[&at].destinations {
                self.trust = Trust::Lost;
                return Ok(Drift::Suspected);
            }
        }
        if self.compared.is_some() { Ok(Drift::None) } else { self.compare_shapes() }
    }

    /// Whether each virtual server chooses as it was told to. One that is not listed may only be left out of the list; if it
    /// is gone, so are its destinations.
    fn compare_shapes(&mut self) -> Result<Drift, Error> {
        let (held, mut same) = (&self.held.servers, true);
        let mut note = |service: &Service, _: &_| {
            let ours = held.get(&service.server).filter(|held| held.owner == Owner::Us);
            same &= ours.is_none_or(|ours| ours.shape == observe::shape(service));
        };
        self.doors.ipvs.services(&mut note).map_err(error::observing)?;
        Ok(if same { Drift::None } else { Drift::Suspected })
    }

    /// Whether each set has as many members as it was given.
    fn compare_sets(&mut self) -> Result<Drift, Error> {
        let headers = self.doors.sets.headers(names::OURS).map_err(error::observing)?;
        let is_as_held = |(set, held): (&names::Set, &held::HeldSet)| {
            let name = set.name(self.family);
            let found = headers.iter().find(|header| *header.name == *name);
            found.is_some_and(|header| header.elements as usize == held.members.len())
        };
        let same = self.held.sets.iter().all(is_as_held);
        Ok(if same { Drift::None } else { Drift::Suspected })
    }
}

/// The whole of what a kernel that holds nothing needs for a table: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    let rules = skeleton::from_scratch(&settings.iptables, table);
    let (held, drains) = (Held::default(), Drains::new(settings.drain_timeout));
    // Nothing drains where nothing is, so that the time does not matter.
    let known =
        planner::Known { held: &held, drains: &drains, scope: Scope::Everything, now: Instant::now() };
    planner::plan(settings, known, table, Some(rules)).to_string()
}

impl<D: iptables::Door> Mode for Ipvs<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] = &[
        Scheduler::RoundRobin,
        Scheduler::LeastConnection,
        Scheduler::SourceHash,
        Scheduler::WeightedRoundRobin,
        Scheduler::WeightedLeastConnection,
        Scheduler::DestinationHash,
        Scheduler::ShortestExpectedDelay,
        Scheduler::NeverQueue,
        Scheduler::Maglev,
        Scheduler::LocalityLeastConnection,
        Scheduler::LocalityLeastConnectionReplicated,
        Scheduler::WeightedFailover,
        Scheduler::WeightedOverflow,
        Scheduler::PowerOfTwo,
    ];

    fn observe(&mut self) -> Result<(), Error> {
        if let Some(settings) = &mut self.node_settings {
            settings.hold();
        }
        self.skeleton.observe().map_err(error::observing)?;
        self.kube_proxy |= self.skeleton.has_kube_proxys();
        // What others do to addresses while we read counts as drift.
        self.doors.addresses.disturbed().map_err(error::observing)?;
        self.try_occupied();
        let known = match self.trust {
            Trust::Kept => Some(&self.held.servers),
            Trust::Lost => None,
        };
        let observed = observe::observe(&mut self.doors, self.family, self.settings.marks(), known)?;
        self.trust = Trust::Kept;
        let marks = std::mem::take(&mut self.held.marks);
        // What a ServicePort's mark is stands only in a set, which somebody may have flushed.
        self.held = Held { marks, ..observed };
        for (address, source) in &self.occupied {
            self.held.addresses.entry(*address).or_insert(*source);
        }
        let held = &self.held;
        self.drains.retain(|(at, to)| {
            let server = held.servers.get(at);
            server.is_some_and(|server| server.destination(*to).is_some())
        });
        self.scope = Scope::Everything;
        Ok(())
    }

    fn refresh(&mut self, now: Instant) -> Result<(), Error> {
        let due = self.drains.due(now);
        // The next look is set before anything can fail, or a kernel that does not answer would be asked without pause.
        let mut counts: BTreeMap<VirtualServer, Option<Vec<(SocketAddr, u32)>>> =
            due.iter().map(|(at, _)| (*at, None)).collect();
        let mut failed = Ok(());
        for (at, count) in &mut counts {
            match observe::connections(&mut self.doors, at) {
                Ok(counted) => *count = Some(counted),
                Err(error) => failed = Err(error),
            }
        }
        for (at, to) in due {
            let counted = counts.get(&at).and_then(Option::as_ref).map(|counted| {
                let found = counted.iter().find(|(there, _)| *there == to);
                found.map_or(0, |(_, connections)| *connections)
            });
            self.drains.counted(&(at, to), counted, now);
        }
        failed
    }

    fn plan(&self, want: &ServiceTable, now: Instant) -> Plan {
        let known = planner::Known { held: &self.held, drains: &self.drains, scope: self.scope, now };
        planner::plan(&self.settings, known, want, self.skeleton.plan(want))
    }

    fn apply(&mut self, mut plan: Plan) -> Result<(), Error> {
        let trust = std::mem::replace(&mut self.trust, Trust::Lost);
        apply::carry_out(&mut plan, &mut self.doors, &mut self.skeleton, &mut self.occupied)?;
        self.trust = trust;
        let gone = |address: &IpAddr| plan.outcome.addresses.get(address).is_some_and(Option::is_none);
        self.occupied.retain(|address, _| !gone(address));
        plan.outcome.learn(&mut self.held, &mut self.drains, plan.made);
        self.scope = Scope::Changes;
        Ok(())
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn operations_by_subject(plan: &Plan) -> BTreeMap<Subject, usize> {
        plan.operations_by_subject()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        let rules = self.skeleton.drift().map_err(error::observing)?;
        let disturbed = self.doors.addresses.disturbed().map_err(error::observing)?;
        if rules == Drift::Suspected || disturbed || self.compare_sets()? == Drift::Suspected {
            return Ok(Drift::Suspected);
        }
        self.compare_some()
    }

    fn make_way(&mut self, now: Instant) {
        self.predecessors.make_way(now);
    }

    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Error> {
        let here = match self.kube_proxy {
            true => {
                self.skeleton.rules.forget();
                remove_kube_proxy(self.skeleton.rules.door())
            }
            false => Ok(()),
        };
        self.kube_proxy &= here.is_err();
        let there = self.predecessors.retire(now).map_err(Error::Leftovers);
        // Those that kube-proxy's device had are free now.
        self.try_occupied();
        here.map_err(|error| Error::Cleanup(error.into())).and(there)
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.predecessors.wake()
    }

    fn draining(&self) -> usize {
        self.drains.len()
    }

    fn wake(&self) -> Option<Instant> {
        self.drains.wake()
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        self.scope = Scope::Everything;
        self.trust = Trust::Lost;
        cleanup::remove_ours(self.skeleton.rules.door(), &mut self.doors, self.family)
    }
}
