//! One address and port, several Services: who has it, who waits for it.
//!
//! The winner is the same whatever the order in which Services came: a ClusterIP before anything else, as the API server
//! gave it to that Service alone; then the oldest Service, then by uid and name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Destination, Frontend, FrontendKey, Protocol, ServiceName, ServiceTable};
use crate::sync::objects::{Service, Uid};
use crate::sync::store::Store;

/// What keeps a frontend from a Service that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Another Service has this address and port.
    Key(FrontendKey),
    /// The address is another Service's ClusterIP.
    ClusterIp(IpAddr),
}

impl Wait {
    /// The Service that has it.
    pub fn owner(self, table: &ServiceTable, not: &ServiceName) -> Option<ServiceName> {
        match self {
            Wait::Key(key) => table.frontends().get(&key).map(|port| port.name.service_name()),
            Wait::ClusterIp(address) => cluster_ip_of(table, address, not),
        }
    }
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

/// The right to a frontend. The lesser has the better one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    weight: Weight,
    created: i64,
    uid: Uid,
    pub service: ServiceName,
}

impl Rank {
    pub fn new(service: &Service, weight: Weight) -> Self {
        Rank { weight, created: service.created, uid: service.uid.clone(), service: service.name.clone() }
    }
}

/// Who waits for what. Only contested frontends stand here, so it is empty in most clusters.
///
/// Ranks are of when a Service was last compiled. One that changed since is yet to be compiled, and puts right then what
/// others took from here.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    claimants: BTreeMap<Wait, BTreeSet<Rank>>,
    waits: BTreeMap<ServiceName, BTreeMap<Wait, Rank>>,
}

impl Waiting {
    /// Those that wait for something, best first.
    fn on(&self, wait: Wait) -> impl Iterator<Item = &Rank> {
        self.claimants.get(&wait).into_iter().flatten()
    }

    /// Those to look at again when something became free. A frontend is for one of them alone, an address is not.
    pub fn to_wake(&self, wait: Wait) -> impl Iterator<Item = &ServiceName> {
        let most = match wait {
            Wait::Key(_) => 1,
            Wait::ClusterIp(_) => usize::MAX,
        };
        self.on(wait).take(most).map(|rank| &rank.service)
    }

    /// Sets what a Service waits for, and returns what it does not wait for any longer.
    pub fn replace(&mut self, service: &ServiceName, waits: BTreeMap<Wait, Rank>) -> Vec<Wait> {
        let before = self.waits.remove(service).unwrap_or_default();
        for (wait, rank) in &before {
            self.remove(*wait, rank);
        }
        for (wait, rank) in &waits {
            self.claimants.entry(*wait).or_default().insert(rank.clone());
        }
        let given_up = before.into_keys().filter(|wait| !waits.contains_key(wait)).collect();
        if !waits.is_empty() {
            self.waits.insert(service.clone(), waits);
        }
        given_up
    }

    fn remove(&mut self, wait: Wait, rank: &Rank) {
        if let Some(claimants) = self.claimants.get_mut(&wait) {
            claimants.remove(rank);
            if claimants.is_empty() {
                self.claimants.remove(&wait);
            }
        }
    }
}

/// How a claim stands against those of other Services.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Won {
        from: Option<ServiceName>,
    },
    /// To the owner, or to one that waits: then it is woken by the owner's release, or is queued already.
    Lost,
}

/// Decides one claim by what the table and the waiting Services say.
pub(super) fn stand(
    store: &Store,
    table: &ServiceTable,
    waiting: &Waiting,
    key: FrontendKey,
    own: &Rank,
) -> Standing {
    let owner = table.frontends().get(&key).filter(|port| !port.name.is_of(&own.service)).map(|port| {
        let frontend = port.frontends.iter().find(|frontend| port.key(frontend) == key);
        (port.name.service_name(), frontend.map_or(Weight::Other, Weight::of))
    });
    // An owner that is gone from the store has no rank and no right.
    let of_owner = owner.as_ref().and_then(|(owner, weight)| Some(Rank::new(store.service(owner)?, *weight)));
    let of_waiting = waiting.on(Wait::Key(key)).find(|other| other.service != own.service);
    if of_owner.iter().chain(of_waiting).any(|rival| rival < own) {
        return Standing::Lost;
    }
    Standing::Won { from: owner.map(|(owner, _)| owner) }
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
