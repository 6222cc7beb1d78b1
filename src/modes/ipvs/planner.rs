//! Making a plan. One piece of code, whatever is known: with nothing known it looks at everything, for one change at the
//! places that the change can concern.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};

use super::Settings;
use super::drain::Drains;
use super::held::{Held, Owner};
use super::names::Set;
use super::plan::{Outcome, Owners, Plan};
use super::render::{self, Key, Server};
use super::servers::{self, Difference};
use super::skeleton::Rules;
use super::work::Work;
use crate::kernel::ipset::{Element, Member};
use crate::kernel::ipvs::VirtualServer;
use crate::model::{Changes, Family, Frontend, ServicePort, ServicePortName, ServiceTable};

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
        owners: Owners::new(),
        scope,
        names: Set::ALL.map(|set| set.name(want.family()).into()),
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
pub struct Touched {
    pub(super) keys: BTreeSet<Key>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Of endpoints that may reach themselves.
    pub(super) hairpin: BTreeSet<IpAddr>,
    /// ServicePorts that may short-circuit.
    pub(super) names: BTreeSet<ServicePortName>,
    /// Virtual servers with endpoints whose connections have ended, and those that are nobody's.
    pub(super) servers: BTreeSet<VirtualServer>,
}

pub struct Planner<'a> {
    pub(super) settings: &'a Settings,
    pub(super) held: &'a Held,
    pub(super) drains: &'a Drains,
    pub(super) want: &'a ServiceTable,
    pub(super) now: Instant,
    pub(super) scope: Scope,
    /// The names of all sets, by their place in `Set::ALL`.
    pub(super) names: [Arc<str>; Set::ALL.len()],
    pub(super) touched: Touched,
    pub(super) outcome: Outcome,
    pub(super) owners: Owners,
    pub(super) new_marks: BTreeMap<u32, ServicePortName>,
    /// What gives connections a way, and what takes one.
    pub(super) up: Vec<Work>,
    pub(super) down: Vec<Work>,
}

impl<'a> Planner<'a> {
    pub(super) fn family(&self) -> Family {
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
        for (server, _) in self.drains.over() {
            self.touched.servers.insert(*server);
            if let VirtualServer::Mark { mark, .. } = server {
                self.touched.names.extend(self.held.marks.owner(*mark).cloned());
            }
        }
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
        let addresses = |set| held.members(set).filter_map(|member| address_of(&member.element));
        self.touched.addresses.extend(addresses(Set::VirtualIps));
        self.touched.hairpin.extend(addresses(Set::Hairpin));
        for set in Set::OF_FRONTENDS.into_iter().chain([Set::SourceRanges]) {
            self.touched.keys.extend(held.members(set).filter_map(|member| key_of(&member.element)));
        }
        self.touched.servers.extend(held.servers.keys());
    }

    /// What is said of a key is asked for once: the members of sets, and the virtual server.
    fn keys(&mut self) {
        for key in std::mem::take(&mut self.touched.keys) {
            let wanted = render::of_key(self.want, key, &|name| self.mark_of(name));
            for set in Set::OF_FRONTENDS {
                let held = self.held.member(set, &key.element());
                self.members(set, held.as_slice(), &wanted.members);
            }
            let ranges: Vec<_> = self.source_ranges(key).collect();
            self.members(Set::SourceRanges, &ranges, &wanted.members);
            self.touched.servers.remove(&key.server());
            self.server(key.server(), wanted.server);
        }
    }

    fn source_ranges(&self, key: Key) -> impl Iterator<Item = Member> + use<'a> {
        let least = IpNet::V4(Ipv4Net::default());
        let first = Element::IpPortNet(key.address, key.protocol, key.port, least);
        let held = self.held.sets.get(&Set::SourceRanges);
        let ranges = held.into_iter().flat_map(move |held| held.members.range(first..));
        let ranges = ranges.map(|(element, _)| Member::from(*element));
        ranges.take_while(move |member| key_of(&member.element) == Some(key))
    }

    /// Brings what a set holds for one place to what is wanted of it there. Both are sorted, and nearly always of one.
    fn members(&mut self, set: Set, held: &[Member], wanted: &[(Set, Member)]) {
        let wanted = || wanted.iter().filter(|(of, _)| *of == set).map(|(_, member)| member);
        let added = wanted().filter(|member| held.binary_search(member).is_err());
        self.outcome.added.extend(added.map(|member| (set, *member)));
        let gone = held.iter().filter(|gone| !wanted().any(|member| member.element == gone.element));
        self.outcome.removed.extend(gone.map(|member| (set, member.element)));
    }

    /// Those that no key stands for: behind marks, and what nobody wants at an address.
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
            self.server(at, wanted);
        }
    }

    fn server(&mut self, at: VirtualServer, wanted: Option<Server<'_>>) {
        if let Some(server) = &wanted {
            self.owners.insert(at, server.port.name.clone());
        }
        let held = self.held.servers.get(&at);
        if wanted.is_none() && held.is_some_and(|held| !self.may_remove(&at, held.owner)) {
            return;
        }
        let difference = servers::difference(at, held, wanted.as_ref(), self.drains);
        self.take(at, difference);
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
        let held = self.held.servers.get(&at);
        match &difference.after {
            Some(new) if held.is_none() && new.is_plain() => self.up.push(Work::Whole(at)),
            _ => self.up.extend(difference.up.into_iter().map(Work::from)),
        }
        self.down.extend(difference.down.into_iter().map(Work::from));
        self.outcome.draining.extend(difference.draining.into_iter().map(|of| (at, of)));
        self.outcome.drained.extend(difference.drained.into_iter().map(|of| (at, of)));
        let is_as_held = match (held, &difference.after) {
            (Some(held), Some(after)) => held == after && held.destinations.are_one_with(&after.destinations),
            (None, None) => true,
            _ => false,
        };
        if !is_as_held {
            self.outcome.servers.insert(at, difference.after);
        }
    }

    fn addresses(&mut self) {
        let source = self.settings.source_hint(self.want);
        for address in std::mem::take(&mut self.touched.addresses) {
            let is_virtual = render::is_virtual_ip(self.want, address);
            self.element(Set::VirtualIps, Element::Ip(address), is_virtual);
            let wanted = is_virtual.then_some(source);
            if self.held.addresses.get(&address).copied() != wanted {
                self.outcome.addresses.insert(address, wanted);
            }
        }
    }

    /// A member goes with the destination that it was for: where one endpoint takes the place of another on this node,
    /// that is a message less.
    fn hairpin(&mut self) {
        self.touched.hairpin.extend(self.outcome.drained.iter().map(|(_, to)| to.ip()));
        let draining: BTreeSet<_> = self.outcome.draining.iter().map(|(_, to)| to.ip()).collect();
        for address in std::mem::take(&mut self.touched.hairpin) {
            let element = render::of_hairpin(address);
            let stays = draining.contains(&address) && self.held.has(Set::Hairpin, &element);
            let wanted = stays || self.want.hairpin().contains_key(&address);
            self.element(Set::Hairpin, element, wanted);
        }
    }

    fn element(&mut self, set: Set, element: Element, wanted: bool) {
        match (self.held.has(set, &element), wanted) {
            (false, true) => self.outcome.added.push((set, element.into())),
            (true, false) => self.outcome.removed.push((set, element)),
            _ => {}
        }
    }

    fn health_checks(&mut self) {
        if self.scope == Scope::Changes && !self.want.has_new_health_check_ports() {
            return;
        }
        let ports = self.want.health_checks().values().map(|check| Element::Port(check.node_port));
        let wanted: Vec<_> = ports.map(|port| (Set::HealthChecks, Member::from(port))).collect();
        let held: Vec<_> = self.held.members(Set::HealthChecks).collect();
        self.members(Set::HealthChecks, &held, &wanted);
    }
}

fn address_of(element: &Element) -> Option<IpAddr> {
    match element {
        Element::Ip(address) => Some(*address),
        Element::NetNet(host, _) => Some(host.addr()),
        _ => None,
    }
}

pub(super) fn key_of(element: &Element) -> Option<Key> {
    match *element {
        Element::IpPort(address, protocol, port) | Element::IpPortNet(address, protocol, port, _) => {
            Some(Key { address, protocol, port })
        }
        _ => None,
    }
}
