//! Making a plan. One piece of code, whatever is known: with nothing known it looks at everything, for one change at the
//! places that the change can concern.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};

use super::Settings;
use super::drain::Drains;
use super::held::{Held, Owner};
use super::names::Set;
use super::plan::{Outcome, Owners, Plan, Step};
use super::render::{self, Key, Server};
use super::servers::{self, Difference};
use super::skeleton::Rules;
use crate::kernel::ipset::{Change, Element, Member};
use crate::kernel::ipvs::{Command, VirtualServer};
use crate::kernel::virtual_addresses::AddressChange;
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
    scope: Scope,
    /// The names of all sets, by their place in `Set::ALL`.
    names: [Arc<str>; Set::ALL.len()],
    touched: Touched,
    outcome: Outcome,
    owners: Owners,
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

    /// First those that have a mark, so that no other gets it.
    fn marks(&mut self) {
        let names = std::mem::take(&mut self.touched.names);
        let new: Vec<_> = names.into_iter().filter(|name| !self.keeps_mark(name)).collect();
        let marks = self.settings.marks();
        for name in new {
            let mark = marks.choose(&name, |mark| self.is_taken(mark));
            self.set_mark(name, Some(mark));
        }
    }

    /// A ServicePort that short-circuits keeps its mark, and one that ceases to until its connections have ended. One that
    /// begins to gets the one that its frontends have already; `false` if they have none.
    fn keeps_mark(&mut self, name: &ServicePortName) -> bool {
        let before = self.held.marks.of(name);
        let mark = match render::of_short_circuit(self.want, name) {
            None => None,
            Some(server) if !server.port.short_circuit() => {
                before.filter(|mark| self.drains_behind(*mark, &server))
            }
            Some(server) => match before.or_else(|| self.mark_in_use(server.port)) {
                None => return false,
                found => found,
            },
        };
        self.set_mark(name.clone(), mark);
        true
    }

    fn set_mark(&mut self, name: ServicePortName, mark: Option<u32>) {
        let before = self.held.marks.of(&name);
        let family = self.family();
        let servers = [before, mark].into_iter().flatten().map(|mark| VirtualServer::Mark { family, mark });
        self.touched.servers.extend(servers);
        if mark != before {
            mark.and_then(|mark| self.new_marks.insert(mark, name.clone()));
            self.outcome.marks.insert(name, mark);
        }
    }

    fn behind(&self, mark: u32) -> VirtualServer {
        VirtualServer::Mark { family: self.family(), mark }
    }

    fn drains_behind(&self, mark: u32, wanted: &Server<'_>) -> bool {
        let at = self.behind(mark);
        let held = self.held.servers.get(&at);
        servers::difference(at, held, Some(wanted), self.drains).after.is_some()
    }

    fn is_taken(&self, mark: u32) -> bool {
        // One of ours without a ServicePort is what an earlier process meant for the one that is about to get it.
        let server = self.held.servers.get(&self.behind(mark));
        server.is_some_and(|server| server.owner == Owner::Others)
            || self.held.marks.owner(mark).is_some()
            || self.new_marks.contains_key(&mark)
    }

    /// The mark that an earlier process gave.
    fn mark_in_use(&self, port: &ServicePort) -> Option<u32> {
        let given = Key::all_of(port, self.want)
            .filter(|key| key.owner(self.want).is_some_and(|owner| owner.name == port.name))
            .find_map(|key| self.held.member(Set::ShortCircuit, &key.element())?.mark)?;
        let is_free = self.held.marks.owner(given).is_none() && !self.new_marks.contains_key(&given);
        (self.settings.marks().is_ours(given) && is_free).then_some(given)
    }

    fn mark_of(&self, name: &ServicePortName) -> u32 {
        let new = self.outcome.marks.get(name).copied();
        // Whoever short-circuits has one: it was touched when it began to.
        new.unwrap_or_else(|| self.held.marks.of(name)).unwrap_or_default()
    }

    fn keys(&mut self) {
        for key in std::mem::take(&mut self.touched.keys) {
            let wanted = render::of_key(self.want, key, &|name| self.mark_of(name)).members;
            for set in Set::OF_FRONTENDS {
                let held = self.held.member(set, &key.element());
                self.members(set, held, &wanted);
            }
            let ranges: Vec<_> = self.source_ranges(key).collect();
            self.members(Set::SourceRanges, ranges, &wanted);
            self.touched.servers.insert(key.server());
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
        for at in std::mem::take(&mut self.touched.servers) {
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
            let is_virtual = render::is_virtual_ip(self.want, address);
            self.element(Set::VirtualIps, Element::Ip(address), is_virtual);
            let wanted = is_virtual.then_some(source);
            if self.held.addresses.get(&address).copied() != wanted {
                self.outcome.addresses.insert(address, wanted);
            }
        }
    }

    fn hairpin(&mut self) {
        for address in std::mem::take(&mut self.touched.hairpin) {
            let wanted = self.want.hairpin().contains_key(&address);
            self.element(Set::Hairpin, render::of_hairpin(address), wanted);
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
        vec![
            self.adding(|set, element| !self.admits(set, element)),
            Step::Servers(std::mem::take(&mut self.up)),
            self.adding(|set, element| self.admits(set, element)),
            rules.map_or(Step::Sets(vec![]), Step::Rules),
            self.address_changes(|(address, after)| {
                after.map(|source| AddressChange::Add { address: *address, source })
            }),
        ]
    }

    /// The same backwards.
    fn closing(&mut self) -> Vec<Step> {
        vec![
            self.removing(|set, element| self.admits(set, element)),
            Step::Servers(std::mem::take(&mut self.down)),
            self.removing(|set, element| set != Set::VirtualIps && !self.admits(set, element)),
            self.address_changes(|(address, after)| {
                after.is_none().then_some(AddressChange::Remove(*address))
            }),
            self.removing(|set, _| set == Set::VirtualIps),
        ]
    }

    /// Whether a member lets traffic in that was kept out. At an address of the node's own a frontend that is served only
    /// tells that its virtual server is ours, which has to be known as long as that is there.
    fn admits(&self, set: Set, element: &Element) -> bool {
        match set {
            Set::ShortCircuit => true,
            Set::Served => key_of(element).is_some_and(|key| {
                self.held.has(Set::VirtualIps, &Element::Ip(key.address))
                    || render::is_virtual_ip(self.want, key.address)
            }),
            _ => false,
        }
    }

    fn adding(&self, which: impl Fn(Set, &Element) -> bool) -> Step {
        let mut added: Vec<_> =
            self.outcome.added.iter().filter(|(set, member)| which(*set, &member.element)).collect();
        added.sort_by_key(|(set, _)| *set);
        let add = |(set, member): &(Set, Member)| Change::Add { set: self.name(*set), member: *member };
        Step::Sets(added.into_iter().map(add).collect())
    }

    /// In the opposite order.
    fn removing(&self, which: impl Fn(Set, &Element) -> bool) -> Step {
        let mut removed: Vec<_> =
            self.outcome.removed.iter().filter(|(set, element)| which(*set, element)).collect();
        removed.sort_by_key(|(set, _)| Reverse(*set));
        let remove =
            |(set, element): &(Set, Element)| Change::Remove { set: self.name(*set), element: *element };
        Step::Sets(removed.into_iter().map(remove).collect())
    }

    fn name(&self, set: Set) -> Arc<str> {
        Arc::clone(&self.names[set as usize])
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
