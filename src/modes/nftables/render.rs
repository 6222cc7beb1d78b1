//! From a table to what has to be in the kernel for one frontend or one address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::classes::{Class, Memory, Pick, Turn};
use super::member::{Leads, Member};
use super::names::{Keying, Set, SlotMap};
use super::slots::{self, Target};
use super::traffic::Counting;
use crate::model::{
    Affinity, Destination, Family, Frontend, FrontendKey, ServicePort, ServiceTable, TrafficPolicy, Verdict,
};

/// What a frontend needs. Nothing, if it is nobody's.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    pub port: Option<&'a Arc<ServicePort>>,
    pub members: Vec<(Member, Option<Goal>)>,
    /// The endpoints of each policy that has traffic here, with their numbers of slots.
    shares: Vec<(TrafficPolicy, Vec<(Target, u32)>)>,
    /// The classes that members lead to.
    pub classes: Vec<Class>,
}

/// Where a member leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// One of [`Wanted::classes`].
    Class(usize),
    /// Nowhere: the packet is left as it is.
    Accept,
}

impl Wanted<'_> {
    pub fn shares(&self, policy: TrafficPolicy) -> &[(Target, u32)] {
        let found = self.shares.iter().find(|(of, _)| *of == policy);
        found.map(|(_, shares)| &shares[..]).unwrap_or_default()
    }

    /// Whom clients may be remembered for; `None` for nobody.
    pub fn remembered(&self) -> Option<Vec<Target>> {
        self.port?.affinity?;
        let all = self.shares.iter().flat_map(|(_, shares)| shares);
        Some(all.map(|(target, _)| *target).collect())
    }
}

/// Whether what goes to a chain gets this node's source address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Masquerade {
    Yes,
    No,
}

/// `volume` tells in which volume the frontend's slots of a policy are, by their number.
pub fn of_place<'a>(
    table: &'a ServiceTable,
    place: FrontendKey,
    counting: Counting,
    volume: &dyn Fn(TrafficPolicy, u32) -> u32,
) -> Wanted<'a> {
    let found = table.frontends().get(&place).and_then(|port| {
        let frontend = port.frontends.iter().find(|frontend| port.key(frontend) == place)?;
        Some((port, frontend))
    });
    let Some((port, frontend)) = found else { return Wanted::default() };
    let wanted = Wanted { port: Some(port), ..Wanted::default() };
    let mut rendering = Rendering { port, place, volume, wanted };
    rendering.frontend(table, frontend);
    if counting == Counting::On {
        rendering.count(frontend);
    }
    rendering.wanted
}

struct Rendering<'a, 'v> {
    port: &'a Arc<ServicePort>,
    place: FrontendKey,
    volume: &'v dyn Fn(TrafficPolicy, u32) -> u32,
    wanted: Wanted<'a>,
}

impl Rendering<'_, '_> {
    fn frontend(&mut self, table: &ServiceTable, frontend: &Frontend) {
        let port = self.port;
        let is_external = !matches!(frontend, Frontend::ClusterIp(_));
        let short_circuit = is_external && port.short_circuit();
        if frontend.address().is_some_and(|address| !table.is_virtual(address)) {
            self.member(Set::Claimed);
        }
        match port.verdict(frontend) {
            Verdict::Forward(policy) => {
                let is_masqueraded = is_external && policy == TrafficPolicy::Cluster;
                let masquerade = if is_masqueraded { Masquerade::Yes } else { Masquerade::No };
                self.lead(Set::Services, policy, masquerade);
            }
            Verdict::Drop if short_circuit => self.member(Set::DropOutside),
            Verdict::Drop => self.member(Set::Drop),
            Verdict::Reject => self.reject(table),
        }
        self.remember();
        if short_circuit {
            self.lead(Set::ShortCircuits, TrafficPolicy::Cluster, Masquerade::No);
            // The address may be one of the node's own, and then it is the source too: an endpoint could not answer it.
            self.lead(Set::OwnShortCircuits, TrafficPolicy::Cluster, Masquerade::Yes);
        }
        // A Service without endpoints has nothing to guard: everybody is told so.
        if let Some(sources) = port.admits(frontend).filter(|_| port.external != Verdict::Reject) {
            self.guard(sources, table.family());
        }
    }

    /// Unless nobody gets anywhere.
    fn count(&mut self, frontend: &Frontend) {
        let is_external = !matches!(frontend, Frontend::ClusterIp(_));
        let is_forwarded = matches!(self.port.verdict(frontend), Verdict::Forward(_));
        if is_forwarded || is_external && self.port.short_circuit() {
            Set::COUNTING.into_iter().for_each(|set| self.member(set));
        }
    }

    fn member(&mut self, set: Set) {
        self.wanted.members.push((Member::Place(set, self.place), None));
    }

    fn lead_to(&mut self, set: Set, goal: Goal) {
        self.wanted.members.push((Member::Place(set, self.place), Some(goal)));
    }

    /// At a virtual address, what is not served is refused anyway. At another one, NodePorts must not take it.
    fn reject(&mut self, table: &ServiceTable) {
        match self.place.destination {
            Destination::Address(address) if table.is_virtual(address) => {}
            Destination::Address(_) => {
                self.member(Set::Reject);
                self.lead_to(Set::Services, Goal::Accept);
            }
            Destination::Node => self.member(Set::Reject),
        }
    }

    fn lead(&mut self, set: Set, policy: TrafficPolicy, masquerade: Masquerade) {
        let slots = self.share(policy);
        let pick = Pick {
            map: SlotMap {
                keying: Keying::of(&self.place),
                policy,
                slots,
                volume: (self.volume)(policy, slots),
            },
            turn: Turn::of(self.port.scheduler, slots, &self.port.name),
            memory: if self.port.affinity.is_some() { Memory::Sticky } else { Memory::None },
        };
        let class = if masquerade == Masquerade::Yes { Class::Masquerade(pick) } else { Class::Pick(pick) };
        self.lead_to_class(set, class);
    }

    fn lead_to_class(&mut self, set: Set, class: Class) {
        self.lead_to(set, Goal::Class(self.wanted.classes.len()));
        self.wanted.classes.push(class);
    }

    fn remember(&mut self) {
        if let Some(Affinity { timeout_seconds }) = self.port.affinity {
            self.lead_to_class(Set::Sticky, Class::Remember(timeout_seconds));
        }
    }

    /// Tells the number of slots.
    fn share(&mut self, policy: TrafficPolicy) -> u32 {
        if !self.wanted.shares.iter().any(|(of, _)| *of == policy) {
            let shares = slots::shares(self.port.endpoints(policy));
            self.wanted.shares.push((policy, shares));
        }
        slots::count(self.wanted.shares(policy))
    }

    fn guard(&mut self, sources: &[IpNet], family: Family) {
        let own: Vec<IpNet> = sources.iter().copied().filter(|network| family.contains(network)).collect();
        // The kernel refuses intervals that overlap.
        let ranges = IpNet::aggregate(&own);
        if ranges.iter().any(|network| network.prefix_len() == 0) {
            return;
        }
        self.member(Set::Guarded);
        let place = self.place;
        self.wanted.members.extend(ranges.into_iter().map(|network| (Member::Range(place, network), None)));
    }
}

/// The networks that ClusterIPs are taken from.
pub fn of_service_networks(table: &ServiceTable) -> Vec<(Member, Option<Leads>)> {
    let own = table.node().service_networks.iter().filter(|network| table.family().contains(network));
    own.map(|network| (Member::ServiceNetwork(*network), None)).collect()
}

/// The sets that an address is in.
pub fn of_address(table: &ServiceTable, address: IpAddr) -> Vec<(Member, Option<Leads>)> {
    let is_cluster_ip = |port: &ServicePort| port.frontends.contains(&Frontend::ClusterIp(address));
    let sets = [
        table.is_virtual(address).then_some(Set::VirtualIps),
        table.at_address(address).any(|(_, port)| is_cluster_ip(port)).then_some(Set::ClusterIps),
        table.hairpin().contains_key(&address).then_some(Set::Hairpin),
    ];
    sets.into_iter().flatten().map(|set| (Member::Address(set, address), None)).collect()
}
