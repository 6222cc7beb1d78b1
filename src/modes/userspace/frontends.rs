//! Whose frontends there are: what the listeners ask for each connection and the sync thread changes.
//!
//! A lookup takes a shard's lock for reading for a few nanoseconds, and never waits for the making of a Service.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::balancer::{Member, Service};
use super::served::Edit;
use crate::model::{
    Destination, Family, Frontend, FrontendKey, NodePolicy, Protocol, ServicePort, ServicePortName,
};

const SHARDS: usize = 16;

/// A NodePort is another one in each family.
type Key = (Family, FrontendKey);
type Shard = RwLock<HashMap<Key, Reached, foldhash::fast::FixedState>>;

/// A Service by one of its frontends.
#[derive(Clone, Debug)]
pub struct Reached {
    pub service: Arc<Service>,
    pub frontend: Frontend,
}

/// Of both families.
#[derive(Debug, Default)]
pub struct Frontends {
    shards: [Shard; SHARDS],
    hasher: foldhash::fast::FixedState,
    nodes: [RwLock<Arc<NodePolicy>>; 2],
    services: Mutex<BTreeMap<(Family, ServicePortName), Arc<Service>>>,
    leaving: Mutex<Vec<Leaving>>,
    /// Families of which everything was told once.
    open: watch::Sender<[bool; 2]>,
}

/// An endpoint that left its Service and has connections still.
#[derive(Debug)]
struct Leaving {
    family: Family,
    member: Arc<Member>,
    since: Instant,
}

impl Frontends {
    /// What a packet to this address is for.
    pub fn reached(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<Reached> {
        let family = Family::of(address);
        self.node(family).reached(address, protocol, port, |key| {
            let key = (family, key);
            read(self.shard(&key)).get(&key).cloned()
        })
    }

    /// What a NodePort is for, whatever the address.
    pub fn of_node_port(&self, family: Family, protocol: Protocol, port: u16) -> Option<Reached> {
        let key = (family, FrontendKey { destination: Destination::Node, protocol, port });
        read(self.shard(&key)).get(&key).cloned()
    }

    pub fn node(&self, family: Family) -> Arc<NodePolicy> {
        Arc::clone(&read(&self.nodes[family as usize]))
    }

    /// Takes over what is new. What is to go stays until [`forget`](Self::forget).
    pub fn tell(&self, family: Family, edit: &Edit) {
        if let Some(node) = &edit.node {
            *write(&self.nodes[family as usize]) = Arc::new(node.clone());
        }
        edit.set.iter().for_each(|port| self.set(family, port));
    }

    pub fn forget(&self, family: Family, names: &[ServicePortName]) {
        for name in names {
            let Some(before) = lock(&self.services).remove(&(family, name.clone())) else { continue };
            self.take_out(family, &before.port);
            self.note_leaving(family, &before, None);
        }
    }

    fn set(&self, family: Family, port: &Arc<ServicePort>) {
        let name = (family, port.name.clone());
        let before = lock(&self.services).get(&name).cloned();
        let service = Arc::new(Service::new(port, before.as_deref()));
        for frontend in &port.frontends {
            let reached = Reached { service: Arc::clone(&service), frontend: *frontend };
            let key = (family, port.key(frontend));
            write(self.shard(&key)).insert(key, reached);
        }
        lock(&self.services).insert(name, Arc::clone(&service));
        if let Some(before) = before {
            let gone = before.port.frontends.iter().map(|frontend| before.port.key(frontend));
            gone.filter(|key| port.frontend(key).is_none())
                .for_each(|key| self.take((family, key), &before.port.name));
            self.note_leaving(family, &before, Some(&service));
        }
    }

    fn take_out(&self, family: Family, port: &ServicePort) {
        let keys = port.frontends.iter().map(|frontend| port.key(frontend));
        keys.for_each(|key| self.take((family, key), &port.name));
    }

    /// A frontend may have gone to another ServicePort already, which then keeps it.
    fn take(&self, key: Key, owner: &ServicePortName) {
        let mut shard = write(self.shard(&key));
        if shard.get(&key).is_some_and(|reached| reached.service.port.name == *owner) {
            shard.remove(&key);
        }
    }

    fn note_leaving(&self, family: Family, before: &Service, after: Option<&Service>) {
        let stays = |member: &Arc<Member>| {
            after.is_some_and(|after| after.members().any(|kept| Arc::ptr_eq(kept, member)))
        };
        let gone = before.members().filter(|member| member.connections() > 0 && !stays(member));
        let mut leaving = lock(&self.leaving);
        for member in gone {
            if !leaving.iter().any(|known| Arc::ptr_eq(&known.member, member)) {
                leaving.push(Leaving { family, member: Arc::clone(member), since: Instant::now() });
            }
        }
    }

    /// How many endpoints left their Service and have connections still.
    pub fn draining(&self, family: Family) -> usize {
        lock(&self.leaving)
            .iter()
            .filter(|left| left.family == family && left.member.connections() > 0)
            .count()
    }

    /// Ends connections of endpoints that left longer ago than this.
    pub fn end_drains(&self, now: Instant, limit: Option<Duration>) {
        let mut leaving = lock(&self.leaving);
        leaving.retain(|left| left.member.connections() > 0);
        let Some(limit) = limit else { return };
        let over = leaving.iter().filter(|left| now.saturating_duration_since(left.since) >= limit);
        over.for_each(|left| left.member.end.notify_waiters());
    }

    /// All Services of a family are known: its listeners may accept, as those of an earlier process may have clients.
    pub fn open(&self, family: Family) {
        self.open.send_if_modified(|open| !std::mem::replace(&mut open[family as usize], true));
    }

    pub async fn wait_until_open(&self, family: Family) {
        // The sender lives as long as this.
        let _ = self.open.subscribe().wait_for(|open| open[family as usize]).await;
    }

    pub fn services(&self) -> Vec<Arc<Service>> {
        lock(&self.services).values().cloned().collect()
    }

    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
