//! Whose frontends there are: what the listeners ask for each connection and the sync thread changes.
//!
//! A lookup takes a shard's lock for reading for a few nanoseconds, and never waits for the making of a Service.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::balancer::{Member, Service};
use super::served::Edit;
use crate::model::{
    ByName, Destination, Family, Frontend, FrontendKey, NodePolicy, Protocol, ServicePort, ServicePortName,
};

const SHARDS: usize = 16;

/// A NodePort is another one in each family.
type Key = (Family, FrontendKey);
type Shard = RwLock<HashMap<Key, Arc<Service>, foldhash::fast::FixedState>>;

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
    services: [Mutex<BTreeSet<ByName<Service>>>; 2],
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
        self.node(family).reached(address, protocol, port, |key| self.of_key(family, key))
    }

    /// What a NodePort is for, whatever the address.
    pub fn of_node_port(&self, family: Family, protocol: Protocol, port: u16) -> Option<Reached> {
        self.of_key(family, FrontendKey { destination: Destination::Node, protocol, port })
    }

    fn of_key(&self, family: Family, key: FrontendKey) -> Option<Reached> {
        let of_family = (family, key);
        let service = read(self.shard(&of_family)).get(&of_family).cloned()?;
        let frontend = *service.port.frontend(&key)?;
        Some(Reached { service, frontend })
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
            let Some(ByName(before)) = lock(&self.services[family as usize]).take(name) else { continue };
            self.take_out(family, &before.port);
            self.note_leaving(family, before.leave(None));
        }
    }

    fn set(&self, family: Family, port: &Arc<ServicePort>) {
        let services = &self.services[family as usize];
        let before = lock(services).get(&port.name).map(|ByName(before)| Arc::clone(before));
        let service = Arc::new(Service::new(port, before.as_deref()));
        for frontend in &port.frontends {
            let key = (family, port.key(frontend));
            write(self.shard(&key)).insert(key, Arc::clone(&service));
        }
        lock(services).replace(ByName(service));
        if let Some(before) = before {
            let gone = before.port.frontends.iter().map(|frontend| before.port.key(frontend));
            gone.filter(|key| port.frontend(key).is_none())
                .for_each(|key| self.take((family, key), &before.port.name));
            self.note_leaving(family, before.leave(Some(port)));
        }
    }

    fn take_out(&self, family: Family, port: &ServicePort) {
        let keys = port.frontends.iter().map(|frontend| port.key(frontend));
        keys.for_each(|key| self.take((family, key), &port.name));
    }

    /// A frontend may have gone to another ServicePort already, which then keeps it.
    fn take(&self, key: Key, owner: &ServicePortName) {
        let mut shard = write(self.shard(&key));
        if shard.get(&key).is_some_and(|service| service.port.name == *owner) {
            shard.remove(&key);
        }
    }

    fn note_leaving(&self, family: Family, members: Vec<Arc<Member>>) {
        let since = Instant::now();
        lock(&self.leaving).extend(members.into_iter().map(|member| Leaving { family, member, since }));
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
        let of_family = |services: &Mutex<BTreeSet<ByName<Service>>>| {
            let services = lock(services);
            services.iter().map(|ByName(service)| Arc::clone(service)).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of_family).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held_memory::held;
    use crate::model::Endpoint;
    use crate::modes::userspace::tests::port;

    /// A node with 10,000 Services of 10 endpoints each uses few of them.
    #[test]
    fn a_service_that_nobody_uses_takes_less_than_400_bytes_whatever_its_endpoints() {
        const SERVICES: u32 = 2_000;
        let one = port(1, &[1]);
        let set = (0..SERVICES).map(|number| {
            let mut port = one.clone();
            port.name.service = format!("web-{number}").into();
            let address = std::net::Ipv4Addr::from_bits(0x0a60_0000 + number);
            port.frontends = [Frontend::ClusterIp(address.into())].into();
            port.cluster = std::iter::repeat_n(one.cluster[0], 10).collect::<Box<[Endpoint]>>();
            Arc::new(port)
        });
        let edit = Edit { set: set.collect(), ..Edit::default() };
        let frontends = Frontends::default();
        let before = held();
        frontends.tell(Family::V4, &edit);
        let each = (held() - before) as f64 / f64::from(SERVICES);
        assert!((64.0..400.0).contains(&each), "{each} bytes");
        assert_eq!(frontends.services().len(), SERVICES as usize);
    }
}
