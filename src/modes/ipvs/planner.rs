//! Making a plan. One piece of code, whatever is known: with nothing known it looks at everything, for one change at the
//! places that the change can concern.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};

use super::Settings;
use super::drain::Drains;
use super::held::{Held, Owner};
use super::names::{ServiceMarks, Set};
use super::plan::{Outcome, Plan, Step};
use super::render::{self, Key};
use super::servers::{self, Difference};
use super::skeleton::Rules;
use crate::kernel::ipset::{Change, Element, Member};
use crate::kernel::ipvs::{Command, VirtualServer};
use crate::kernel::virtual_addresses::AddressChange;
use crate::model::{Changes, Family, Frontend, ServicePort, ServicePortName, ServiceTable};

/// Sets whose elements are frontends.
const OF_KEYS: [Set; 6] =
    [Set::Guarded, Set::Drop, Set::Masquerade, Set::ShortCircuit, Set::Served, Set::Reject];

/// What a planner looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Changes,
}

/// What a plan is made from.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub held: &'a Held,
    pub drains: &'a Drains,
    pub scope: Scope,
    pub now: Instant,
}

/// Decides everything. `rules` is what the skeleton needs.
pub fn plan(settings: &Settings, known: Known<'_>, want: &ServiceTable, rules: Option<Rules>) -> Plan {
    let Known { held, drains, scope, now } = known;
    let mut planner = Planner {
        now,
        settings,
        held,
        drains,
        want,
        touched: Touched::default(),
        outcome: Outcome::default(),
        owners: BTreeMap::new(),
        new_marks: BTreeMap::new(),
        up: Vec::new(),
        down: Vec::new(),
    };
    match (scope, want.changes()) {
        (Scope::Changes, Changes::Some(_)) => planner.touch_changes(),
        _ => planner.touch_everything(),
    }
    planner.marks();
    planner.keys();
    planner.servers();
    planner.addresses();
    planner.hairpin();
    planner.health_checks();
    planner.finish(rules)
}

/// The places that may differ.
#[derive(Debug, Default)]
struct Touched {
    keys: BTreeSet<Key>,
    addresses: BTreeSet<IpAddr>,
    /// Of endpoints that may reach themselves.
    hairpin: BTreeSet<IpAddr>,
    /// ServicePorts that may short-circuit.
    names: BTreeSet<ServicePortName>,
    /// Virtual servers with endpoints whose connections have ended, and those that are nobody's.
    servers: BTreeSet<VirtualServer>,
}

struct Planner<'a> {
    settings: &'a Settings,
    held: &'a Held,
    drains: &'a Drains,
    want: &'a ServiceTable,
    now: Instant,
    touched: Touched,
    outcome: Outcome,
    owners: BTreeMap<VirtualServer, ServicePortName>,
    new_marks: BTreeMap<u32, ServicePortName>,
    /// What gives connections a way, and what takes one.
    up: Vec<Command>,
    down: Vec<Command>,
}

impl<'a> Planner<'a> {
    fn family(&self) -> Family {
        self.want.family()
    }

    fn touch_changes(&mut self) {
        let want = self.want;
        if let Changes::Some(changes) = want.changes() {
            for (name, change) in changes {
                self.touched.names.insert(name.clone());
                for port in change.before.iter().chain(want.get(name)) {
                    self.touch(port);
                }
            }
        }
        self.touched.servers = self.drains.over().map(|(server, _)| *server).collect();
    }

    fn touch(&mut self, port: &Arc<ServicePort>) {
        self.touched.keys.extend(Key::all_of(port, self.want));
        self.touched.addresses.extend(port.frontends.iter().filter_map(Frontend::address));
        self.touched.hairpin.extend(port.hairpin_addresses());
    }

    fn touch_everything(&mut self) {
        let (want, held) = (self.want, self.held);
        for port in want.ports() {
            self.touched.names.insert(port.name.clone());
            self.touch(port);
        }
        self.touched.names.extend(held.marks.names().cloned());
        self.touched.addresses.extend(held.addresses.keys());
        for set in [Set::VirtualIps, Set::ClusterIps] {
            self.touched.addresses.extend(held.members(set).filter_map(|member| address_of(&member.element)));
        }
        self.touched
            .hairpin
            .extend(held.members(Set::Hairpin).filter_map(|member| address_of(&member.element)));
        for set in OF_KEYS.into_iter().chain([Set::SourceRanges]) {
            self.touched.keys.extend(held.members(set).filter_map(|member| key_of(&member.element)));
        }
        self.touched.servers.extend(held.servers.keys());
    }

    /// Each ServicePort that short-circuits keeps its mark; one that begins to gets one, if possible the one that its
    /// frontends have already.
    fn marks(&mut self) {
        let marks = self.settings.marks();
        for name in std::mem::take(&mut self.touched.names) {
            let wanted = render::of_short_circuit(self.want, &name);
            let before = self.held.marks.of(&name);
            let mark = wanted.as_ref().map(|server| {
                let found = before.or_else(|| self.mark_in_use(marks, server.port));
                found.unwrap_or_else(|| marks.choose(&name, |mark| self.is_taken(mark)))
            });
            let family = self.family();
            let servers =
                [before, mark].into_iter().flatten().map(|mark| VirtualServer::Mark { family, mark });
            self.touched.servers.extend(servers);
            if mark != before {
                mark.and_then(|mark| self.new_marks.insert(mark, name.clone()));
                self.outcome.marks.insert(name, mark);
            }
        }
    }

    fn is_taken(&self, mark: u32) -> bool {
        let server = VirtualServer::Mark { family: self.family(), mark };
        self.held.servers.contains_key(&server) || self.new_marks.contains_key(&mark)
    }

    /// The mark that an earlier process gave.
    fn mark_in_use(&self, marks: ServiceMarks, port: &ServicePort) -> Option<u32> {
        let given = Key::all_of(port, self.want)
            .find_map(|key| self.held.member(Set::ShortCircuit, &key.element())?.mark)?;
        let is_free = self.held.marks.owner(given).is_none() && !self.new_marks.contains_key(&given);
        (marks.is_ours(given) && is_free).then_some(given)
    }

    fn mark_of(&self, name: &ServicePortName) -> u32 {
        let new = self.outcome.marks.get(name).copied();
        // Whoever short-circuits has one: it was touched when it began to.
        new.unwrap_or_else(|| self.held.marks.of(name)).unwrap_or_default()
    }

    fn keys(&mut self) {
        for key in std::mem::take(&mut self.touched.keys) {
            let wanted = render::of_key(self.want, key, &|name| self.mark_of(name)).members;
            for set in OF_KEYS {
                let held = self.held.member(set, &key.element());
                self.members(set, held, &wanted);
            }
            let ranges: Vec<_> = self.source_ranges(key).collect();
            self.members(Set::SourceRanges, ranges, &wanted);
            self.touched.servers.insert(key.server());
        }
    }

    fn source_ranges(&self, key: Key) -> impl Iterator<Item = Member> + use<'a> {
        // The least of all networks.
        let least = IpNet::V4(Ipv4Net::from(Ipv4Addr::UNSPECIFIED));
        let least = IpNet::new(least.addr(), 0).unwrap_or(least);
        let first = Element::IpPortNet(key.address, key.protocol, key.port, least);
        let held = self.held.sets.get(&Set::SourceRanges);
        let ranges = held.into_iter().flat_map(move |held| held.members.range(first..));
        let ranges = ranges.map(|(element, _)| Member::from(*element));
        ranges.take_while(move |member| key_of(&member.element) == Some(key))
    }

    /// Brings what a set holds for one place to what is wanted of it there.
    fn members(&mut self, set: Set, held: impl IntoIterator<Item = Member>, wanted: &[(Set, Member)]) {
        let held: BTreeSet<Member> = held.into_iter().collect();
        let wanted: BTreeSet<Member> =
            wanted.iter().filter(|(of, _)| *of == set).map(|(_, member)| *member).collect();
        self.outcome.added.extend(wanted.difference(&held).map(|member| (set, *member)));
        let stays = |gone: &Member| wanted.iter().any(|member| member.element == gone.element);
        let gone = held.difference(&wanted).filter(|member| !stays(member));
        self.outcome.removed.extend(gone.map(|member| (set, member.element)));
    }

    fn servers(&mut self) {
        let bypass = VirtualServer::Mark { family: self.family(), mark: self.settings.marks().bypass() };
        if !self.held.servers.contains_key(&bypass) {
            self.touched.servers.insert(bypass);
        }
        for at in std::mem::take(&mut self.touched.servers) {
            if at == bypass {
                let difference = servers::bypass(at, self.held.servers.get(&at));
                self.take(at, difference);
                continue;
            }
            let wanted = match at {
                VirtualServer::Address { address, protocol, port } => {
                    let key = Key { address, protocol, port };
                    render::of_key(self.want, key, &|name| self.mark_of(name)).server
                }
                VirtualServer::Mark { mark, .. } => {
                    let name = self.name_of(mark);
                    name.and_then(|name| render::of_short_circuit(self.want, &name))
                }
            };
            if let Some(server) = &wanted {
                self.owners.insert(at, server.port.name.clone());
            }
            let held = self.held.servers.get(&at);
            if wanted.is_none() && held.is_some_and(|held| !self.may_remove(&at, held.owner)) {
                continue;
            }
            let difference = servers::difference(at, held, wanted.as_ref(), self.drains);
            self.take(at, difference);
        }
    }

    /// Whose mark it is after this plan.
    fn name_of(&self, mark: u32) -> Option<ServicePortName> {
        let kept = || self.held.marks.owner(mark).filter(|name| !self.outcome.marks.contains_key(*name));
        self.new_marks.get(&mark).or_else(kept).cloned()
    }

    fn may_remove(&self, at: &VirtualServer, owner: Owner) -> bool {
        let is_excluded = match at {
            VirtualServer::Address { address, .. } => {
                self.settings.exclude.iter().any(|network| network.contains(address))
            }
            VirtualServer::Mark { .. } => false,
        };
        owner == Owner::Us && !is_excluded
    }

    fn take(&mut self, at: VirtualServer, difference: Difference) {
        self.up.extend(difference.up);
        self.down.extend(difference.down);
        self.outcome.draining.extend(difference.draining.into_iter().map(|of| (at, of)));
        self.outcome.drained.extend(difference.drained.into_iter().map(|of| (at, of)));
        if self.held.servers.get(&at) != difference.after.as_ref() {
            self.outcome.servers.insert(at, difference.after);
        }
    }

    fn addresses(&mut self) {
        let source = self.settings.source_hint(self.want);
        for address in std::mem::take(&mut self.touched.addresses) {
            let wanted = render::of_address(self.want, address);
            for set in [Set::VirtualIps, Set::ClusterIps] {
                let held = self.held.member(set, &Element::Ip(address));
                self.members(set, held, &wanted);
            }
            let is_virtual = wanted.iter().any(|(set, _)| *set == Set::VirtualIps);
            let wanted = is_virtual.then_some(source);
            if self.held.addresses.get(&address).copied() != wanted {
                self.outcome.addresses.insert(address, wanted);
            }
        }
    }

    fn hairpin(&mut self) {
        for address in std::mem::take(&mut self.touched.hairpin) {
            let element = render::of_hairpin(address);
            match (self.held.has(Set::Hairpin, &element), self.want.hairpin().contains_key(&address)) {
                (false, true) => self.outcome.added.push((Set::Hairpin, element.into())),
                (true, false) => self.outcome.removed.push((Set::Hairpin, element)),
                _ => {}
            }
        }
    }

    fn health_checks(&mut self) {
        let ports = self.want.health_checks().values().map(|check| Element::Port(check.node_port));
        let wanted: Vec<_> = ports.map(|port| (Set::HealthChecks, Member::from(port))).collect();
        self.members(Set::HealthChecks, self.held.members(Set::HealthChecks), &wanted);
    }

    fn finish(mut self, rules: Option<Rules>) -> Plan {
        let mut steps = self.sets();
        steps.extend(self.opening(rules));
        steps.extend(self.closing());
        let steps = steps.into_iter().filter(|step| !step.is_empty());
        let steps = steps.fold(Vec::new(), merged);
        Plan { family: self.family(), steps, outcome: self.outcome, made: self.now, owners: self.owners }
    }

    fn sets(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for set in Set::ALL {
            let definition = set.definition(self.family());
            match self.held.sets.get(&set) {
                None => {
                    self.outcome.created.push(set);
                    steps.push(Step::Create(definition));
                }
                Some(held) if held.is_of_another_shape => {
                    steps.push(Step::Replace(definition, self.held.members(set).collect()));
                }
                Some(_) => {}
            }
        }
        steps
    }

    /// What keeps traffic out or changes it comes before what lets it in, and the way to an address last. Rules come when
    /// virtual servers are there, since those of an earlier proxy go with them.
    fn opening(&mut self, rules: Option<Rules>) -> Vec<Step> {
        use Set::*;
        let admit = [ShortCircuit, Served, VirtualIps];
        let before = Set::ALL.into_iter().filter(|set| !admit.contains(set));
        vec![
            self.adding(before),
            Step::Servers(std::mem::take(&mut self.up)),
            self.adding(admit),
            rules.map_or(Step::Sets(vec![]), Step::Rules),
            self.address_changes(|(address, after)| {
                after.map(|source| AddressChange::Add { address: *address, source })
            }),
        ]
    }

    /// The same backwards.
    fn closing(&mut self) -> Vec<Step> {
        use Set::*;
        vec![
            self.removing([Served, ShortCircuit]),
            Step::Servers(std::mem::take(&mut self.down)),
            self.removing([
                Reject,
                Masquerade,
                ClusterIps,
                Hairpin,
                HealthChecks,
                Drop,
                Guarded,
                SourceRanges,
            ]),
            self.address_changes(|(address, after)| {
                after.is_none().then_some(AddressChange::Remove(*address))
            }),
            self.removing([VirtualIps]),
        ]
    }

    fn adding(&self, sets: impl IntoIterator<Item = Set>) -> Step {
        let mut changes = Vec::new();
        for set in sets {
            let name: Arc<str> = set.name(self.family()).into();
            let members = self.outcome.added.iter().filter(|(of, _)| *of == set);
            changes
                .extend(members.map(|(_, member)| Change::Add { set: Arc::clone(&name), member: *member }));
        }
        Step::Sets(changes)
    }

    fn removing(&self, sets: impl IntoIterator<Item = Set>) -> Step {
        let mut changes = Vec::new();
        for set in sets {
            let name: Arc<str> = set.name(self.family()).into();
            let elements = self.outcome.removed.iter().filter(|(of, _)| *of == set);
            changes.extend(
                elements.map(|(_, element)| Change::Remove { set: Arc::clone(&name), element: *element }),
            );
        }
        Step::Sets(changes)
    }

    fn address_changes(
        &self,
        change: impl Fn((&IpAddr, &Option<Option<IpAddr>>)) -> Option<AddressChange>,
    ) -> Step {
        Step::Addresses(self.outcome.addresses.iter().filter_map(change).collect())
    }
}

/// Neighbours for the same door become one step.
fn merged(mut steps: Vec<Step>, step: Step) -> Vec<Step> {
    match (steps.last_mut(), step) {
        (Some(Step::Sets(last)), Step::Sets(more)) => last.extend(more),
        (Some(Step::Servers(last)), Step::Servers(more)) => last.extend(more),
        (Some(Step::Addresses(last)), Step::Addresses(more)) => last.extend(more),
        (_, step) => steps.push(step),
    }
    steps
}

fn address_of(element: &Element) -> Option<IpAddr> {
    match element {
        Element::Ip(address) => Some(*address),
        Element::NetNet(host, _) => Some(host.addr()),
        _ => None,
    }
}

fn key_of(element: &Element) -> Option<Key> {
    match *element {
        Element::IpPort(address, protocol, port) | Element::IpPortNet(address, protocol, port, _) => {
            Some(Key { address, protocol, port })
        }
        _ => None,
    }
}
