//! One address and port, several Services: who has it, who waits for it.
//!
//! The winner is the same whatever the order in which Services came: a ClusterIP before anything else, as the API server
//! gave it to that Service alone; then the oldest Service, then by uid and name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Destination, Frontend, FrontendKey, Protocol, ServiceName, ServiceTable};
use crate::sync::store::Store;

/// What keeps a frontend from a Service that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Another Service has this address and port.
    Key(FrontendKey),
    /// The address is another Service's ClusterIP.
    ClusterIp(IpAddr),
}

/// A ClusterIP weighs more than any other claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    ClusterIp,
    Other,
}

impl Weight {
    pub fn of(frontend: &Frontend) -> Weight {
        match frontend {
            Frontend::ClusterIp(_) => Weight::ClusterIp,
            _ => Weight::Other,
        }
    }
}

/// Who waits for what. Only contested frontends stand here, so it is empty in most clusters.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    claimants: BTreeMap<Wait, BTreeMap<ServiceName, Weight>>,
    waits: BTreeMap<ServiceName, BTreeSet<Wait>>,
}

impl Waiting {
    pub fn on(&self, wait: Wait) -> impl Iterator<Item = (&ServiceName, Weight)> {
        self.claimants.get(&wait).into_iter().flatten().map(|(name, weight)| (name, *weight))
    }

    /// Sets what a Service waits for, and returns what it does not wait for any longer.
    pub fn replace(&mut self, service: &ServiceName, waits: &BTreeMap<Wait, Weight>) -> Vec<Wait> {
        let before = self.waits.remove(service).unwrap_or_default();
        let given_up: Vec<Wait> = before.into_iter().filter(|wait| !waits.contains_key(wait)).collect();
        for wait in &given_up {
            self.remove(*wait, service);
        }
        for (wait, weight) in waits {
            self.claimants.entry(*wait).or_default().insert(service.clone(), *weight);
        }
        if !waits.is_empty() {
            self.waits.insert(service.clone(), waits.keys().copied().collect());
        }
        given_up
    }

    fn remove(&mut self, wait: Wait, service: &ServiceName) {
        if let Some(claimants) = self.claimants.get_mut(&wait) {
            claimants.remove(service);
            if claimants.is_empty() {
                self.claimants.remove(&wait);
            }
        }
    }
}

/// A Service that has what another asks for, or has the better right to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rival {
    pub service: ServiceName,
    pub has_it: bool,
}

/// How a claim stands against those of other Services.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Won { from: Option<ServiceName> },
    Lost(Rival),
}

/// Decides one claim by what the table and the waiting Services say. A rival that is not there any more is no rival.
pub(super) fn stand(
    store: &Store,
    table: &ServiceTable,
    waiting: &Waiting,
    service: &ServiceName,
    (key, weight): (FrontendKey, Weight),
) -> Standing {
    let owner = table.frontends().get(&key).map(|port| {
        let frontend = port.frontends.iter().find(|frontend| port.key(frontend) == key);
        (port.name.service_name(), frontend.map_or(Weight::Other, Weight::of))
    });
    let owner = owner.filter(|(owner, _)| owner != service);
    let has_it = owner.iter().map(|(owner, weight)| (owner, *weight, true));
    let waits = waiting.on(Wait::Key(key)).filter(|(other, _)| *other != service);
    let best = has_it
        .chain(waits.map(|(other, weight)| (other, weight, false)))
        .filter_map(|(other, weight, has_it)| Some((rank(store, other, weight)?, has_it)))
        .min_by(|(a, _), (b, _)| a.cmp(b));
    match (best, rank(store, service, weight)) {
        (Some((other, has_it)), Some(own)) if other < own => {
            Standing::Lost(Rival { service: other.name().clone(), has_it })
        }
        _ => Standing::Won { from: owner.map(|(owner, _)| owner) },
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a>(Weight, i64, &'a str, &'a ServiceName);

impl<'a> Rank<'a> {
    fn name(&self) -> &'a ServiceName {
        self.3
    }
}

fn rank<'a>(store: &'a Store, service: &ServiceName, weight: Weight) -> Option<Rank<'a>> {
    let service = store.service(service)?;
    Some(Rank(weight, service.created, &service.uid, &service.name))
}

/// The frontends of other Services at an address.
fn others_at<'a>(
    table: &'a ServiceTable,
    address: IpAddr,
    service: &'a ServiceName,
) -> impl Iterator<Item = (ServiceName, Weight)> + 'a {
    let key = |protocol, port| FrontendKey { destination: Destination::Address(address), protocol, port };
    table
        .frontends()
        .range(key(Protocol::Tcp, 0)..=key(Protocol::Sctp, u16::MAX))
        .filter(|(_, port)| !port.name.is_of(service))
        .map(|(key, port)| {
            let frontend = port.frontends.iter().find(|frontend| port.key(frontend) == *key);
            (port.name.service_name(), frontend.map_or(Weight::Other, Weight::of))
        })
}

/// The other Service whose ClusterIP this is.
pub(super) fn cluster_ip_of(table: &ServiceTable, address: IpAddr, not: &ServiceName) -> Option<ServiceName> {
    others_at(table, address, not).find(|(_, weight)| *weight == Weight::ClusterIp).map(|(name, _)| name)
}

/// The Services that have to leave an address because it became the ClusterIP of `service`.
pub(super) fn squatters(table: &ServiceTable, address: IpAddr, service: &ServiceName) -> Vec<ServiceName> {
    others_at(table, address, service)
        .filter(|(_, weight)| *weight == Weight::Other)
        .map(|(name, _)| name)
        .collect()
}
