//! Routes to the pods of other nodes: observe, plan, apply.

mod answers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use super::claims::Claims;
use super::node::Peer;
use super::nodes::Nodes;
use super::plan::{Held, Plan, Wanted};
use super::problem::Obstacle;
use crate::kernel::routes::{Notice, ROUTE_PROTOCOL, Refusal, Route, RouteChange, Routes, RoutesError, Way};
use crate::model::Family;
use crate::sync::objects::Event;

/// Owns what is known of Nodes, and the way of it into the kernel.
pub struct HostGw<R> {
    node_name: Arc<str>,
    door: R,
    nodes: Nodes,
    claims: Claims,
    ways: BTreeMap<IpAddr, Way>,
    /// Addresses of other nodes whose way is to be asked for.
    unknown: BTreeSet<IpAddr>,
    wanted: Wanted,
    obstacles: BTreeMap<IpNet, Obstacle>,
    held: Held,
    observed: Observed,
    /// Networks to be decided about.
    dirty: BTreeSet<IpNet>,
    /// Whether somebody else changed routes since the last sync.
    disturbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observed {
    /// All routes have to be read.
    Nothing,
    Routes,
}

/// What one sync did.
#[derive(Debug, Default)]
pub struct Synced {
    pub plan: Plan,
    pub refusals: usize,
    /// The plan undoes what somebody else did.
    pub repaired: bool,
}

impl<R: Routes> HostGw<R> {
    pub fn new(node_name: Arc<str>, door: R) -> Self {
        HostGw {
            node_name,
            door,
            nodes: Nodes::default(),
            claims: Claims::default(),
            ways: BTreeMap::new(),
            unknown: BTreeSet::new(),
            wanted: Wanted::new(),
            obstacles: BTreeMap::new(),
            held: Held::new(),
            observed: Observed::Nothing,
            dirty: BTreeSet::new(),
            disturbed: false,
        }
    }

    pub fn handle(&mut self, event: &Event, now: Instant) {
        self.nodes.handle(event, now);
    }

    /// Takes in what others did to routes, links and addresses. Most of it, such as what pods' own links do, means nothing.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::OwnRoute(_) => {
                self.observed = Observed::Nothing;
                self.disturbed = true;
            }
            Notice::OtherRoute(network) => {
                self.forget_ways(|address, _| network.contains(&address));
                self.dirty.extend(self.wanted.contains_key(&network).then_some(network));
            }
            Notice::Link(link) | Notice::Address { link, .. } => {
                if self.ways.values().any(|way| *way == Way::OnLink(link)) {
                    self.forget_everything();
                    self.disturbed = true;
                }
            }
            Notice::Lost => {
                self.forget_everything();
                self.disturbed = true;
            }
        }
    }

    /// Reads everything again at the next sync.
    pub fn forget_everything(&mut self) {
        self.observed = Observed::Nothing;
        self.forget_ways(|_, _| true);
    }

    fn forget_ways(&mut self, forgotten: impl Fn(IpAddr, Way) -> bool) {
        let mut of_forgotten = BTreeSet::new();
        self.ways.retain(|address, way| {
            let stays = !forgotten(*address, *way);
            if !stays {
                of_forgotten.insert(*address);
            }
            stays
        });
        if of_forgotten.is_empty() {
            return;
        }
        self.unknown.extend(&of_forgotten);
        for peer in self.nodes.iter() {
            if peer.addresses.iter().any(|address| of_forgotten.contains(address)) {
                self.dirty.extend(&peer.pod_cidrs);
            }
        }
    }

    /// Whether a sync would have anything to look at.
    pub fn is_due(&self, now: Instant) -> bool {
        let is_open = !self.dirty.is_empty() || !self.unknown.is_empty();
        self.observed == Observed::Nothing || is_open || self.nodes.has_changed(now)
    }

    pub fn wake(&self) -> Option<Instant> {
        self.nodes.wake()
    }

    pub fn is_listed(&self) -> bool {
        self.nodes.is_listed()
    }

    /// Learns what there is to be known, and changes nothing. What fails is met again by [`sync`](Self::sync).
    pub fn look(&mut self, now: Instant) {
        self.take_changes(now);
        let _ = self.learn_ways();
    }

    /// Brings the kernel to what the Nodes say. To be called once all of them are listed.
    pub fn sync(&mut self, now: Instant) -> Result<Synced, RoutesError> {
        self.take_changes(now);
        let result = self.observe().and_then(|()| {
            self.decide();
            let plan = self.plan();
            self.apply(plan)
        });
        if result.is_err() {
            self.forget_everything();
        }
        result
    }

    fn take_changes(&mut self, now: Instant) {
        for name in self.nodes.take_changed(now) {
            let seen = self.nodes.get(&name);
            let addresses =
                seen.filter(|_| name != self.node_name).map_or(&[][..], |seen| &seen.peer.addresses);
            self.unknown.extend(addresses.iter().filter(|address| !self.ways.contains_key(address)));
            self.dirty.extend(self.claims.set(&name, seen));
        }
    }

    fn observe(&mut self) -> Result<(), RoutesError> {
        if self.observed == Observed::Nothing {
            self.held.clear();
            for family in Family::ALL {
                for route in self.door.list(family)? {
                    self.held.entry(route.destination).or_default().insert(route);
                }
            }
            self.observed = Observed::Routes;
            self.dirty.extend(self.held.keys());
            self.dirty.extend(self.claims.owners().map(|(network, _)| network));
        }
        self.learn_ways()
    }

    /// Asks for the ways that are not known.
    fn learn_ways(&mut self) -> Result<(), RoutesError> {
        while let Some(address) = self.unknown.first().copied() {
            self.ways.insert(address, self.door.way(address)?);
            self.unknown.remove(&address);
        }
        Ok(())
    }

    fn decide(&mut self) {
        for network in &self.dirty {
            let (mut route, mut obstacle) = (None, None);
            let owner = self.claims.owner(*network).filter(|owner| **owner != self.node_name);
            if let Some(seen) = owner.and_then(|owner| self.nodes.get(owner)) {
                match route_to(*network, seen.peer, &self.ways) {
                    Ok(found) => route = Some(found),
                    Err(found) => obstacle = Some(found),
                }
            }
            put(&mut self.wanted, *network, route);
            put(&mut self.obstacles, *network, obstacle);
        }
    }

    fn plan(&self) -> Plan {
        Plan::new(&self.dirty, &self.wanted, &self.held)
    }

    fn apply(&mut self, plan: Plan) -> Result<Synced, RoutesError> {
        let refusals = match plan.is_empty() {
            true => Vec::new(),
            false => self.door.change(&plan.changes)?,
        };
        let refused: BTreeSet<RouteChange> = refusals.iter().map(|refusal| refusal.change).collect();
        for change in plan.changes.iter().filter(|change| !refused.contains(change)) {
            learn(&mut self.held, change);
        }
        self.verify(&refused)?;
        self.dirty.clear();
        let repaired = std::mem::take(&mut self.disturbed) && !plan.is_empty();
        let count = refusals.len();
        refusals.into_iter().for_each(|refusal| self.note_refusal(refusal));
        self.forget_unused_ways();
        Ok(Synced { plan, refusals: count, repaired })
    }

    /// Asks the kernel where packets to each network that was decided about go now.
    fn verify(&mut self, refused: &BTreeSet<RouteChange>) -> Result<(), RoutesError> {
        let refused: BTreeSet<IpNet> = refused.iter().map(|change| change.route().destination).collect();
        for network in self.dirty.difference(&refused) {
            let Some(wanted) = self.wanted.get(network) else { continue };
            let chosen = self.door.chosen(*network)?;
            match chosen {
                Some(chosen)
                    if chosen.protocol == ROUTE_PROTOCOL && chosen.gateway == Some(wanted.gateway) => {}
                Some(chosen)
                    if chosen.protocol != ROUTE_PROTOCOL && network.contains(&chosen.destination) =>
                {
                    let preferred = Obstacle::Preferred { protocol: chosen.protocol };
                    self.obstacles.insert(*network, preferred);
                }
                // Somebody was faster. The notification of it is on its way; reading again does not wait for it.
                _ => self.observed = Observed::Nothing,
            }
        }
        Ok(())
    }

    fn note_refusal(&mut self, Refusal { change, source }: Refusal) {
        // What was to be replaced is gone, or what is to be added has come: what is known of the kernel is not true.
        self.observed = Observed::Nothing;
        self.obstacles.insert(change.route().destination, Obstacle::Refused(source.to_string()));
    }

    fn forget_unused_ways(&mut self) {
        let addresses = self.nodes.iter().map(|peer| peer.addresses.len()).sum::<usize>();
        if self.ways.len() > 2 * addresses + 16 {
            let used: BTreeSet<IpAddr> =
                self.nodes.iter().flat_map(|peer| peer.addresses.iter().copied()).collect();
            self.ways.retain(|address, _| used.contains(address));
        }
    }

    #[cfg(test)]
    pub fn door_mut(&mut self) -> &mut R {
        &mut self.door
    }
}

/// By way of the first InternalIP on a segment with this node; else, what is wrong with the first one.
fn route_to(network: IpNet, owner: &Peer, ways: &BTreeMap<IpAddr, Way>) -> Result<Route, Obstacle> {
    let family = Family::of(network.addr());
    let mut obstacle = None;
    for gateway in owner.addresses_of(family) {
        let found = match ways.get(&gateway) {
            Some(Way::OnLink(link)) => return Ok(Route { destination: network, gateway, link: *link }),
            Some(Way::Gateway(router)) => Obstacle::BehindGateway { address: gateway, gateway: *router },
            Some(Way::Local) => Obstacle::OwnAddress(gateway),
            Some(Way::Unreachable) | None => Obstacle::Unreachable(gateway),
        };
        obstacle.get_or_insert(found);
    }
    Err(obstacle.unwrap_or(Obstacle::NoAddress(family)))
}

fn put<T>(map: &mut BTreeMap<IpNet, T>, network: IpNet, value: Option<T>) {
    match value {
        Some(value) => map.insert(network, value),
        None => map.remove(&network),
    };
}

fn learn(held: &mut Held, change: &RouteChange) {
    let route = change.route();
    let routes = held.entry(route.destination).or_default();
    match change {
        RouteChange::Add(_) => drop(routes.insert(route)),
        RouteChange::Replace(_) => *routes = [route].into(),
        RouteChange::Remove(_) => drop(routes.remove(&route)),
    }
    if routes.is_empty() {
        held.remove(&route.destination);
    }
}
