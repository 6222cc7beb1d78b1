//! A ServicePort as the listeners see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::lasting::Lasting;
use super::member::{Consequence, Lease, Member};
use super::pool::Pool;
use super::{Arrival, hash};
use crate::model::{Named, ServicePort, ServicePortName, TrafficPolicy};
use crate::modes::userspace::figures::Meter;

/// It never changes: a change of the ServicePort makes another one, which takes over what has to last.
///
/// Most Services of a cluster are never used by way of one node. One without a connection is little more than its
/// ServicePort; the rest is made for the first one.
#[derive(Debug)]
pub struct Service {
    pub port: Arc<ServicePort>,
    cluster: OnceLock<Box<Pool>>,
    local: OnceLock<Box<Pool>>,
    /// The same before and after a change, so that a connection that comes just then is not lost to what follows.
    lasting: Arc<OnceLock<Box<Lasting>>>,
}

/// For whom an endpoint is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    pub policy: TrafficPolicy,
    pub client: SocketAddr,
    /// What did not answer this connection yet. It moves the client's affinity.
    pub tried: &'a [SocketAddr],
    /// Any number.
    pub draw: u64,
}

impl Service {
    /// Endpoints that were there before keep their connections, and clients that had one of them keep it.
    pub fn new(port: &Arc<ServicePort>, before: Option<&Service>) -> Self {
        Service {
            port: Arc::clone(port),
            cluster: OnceLock::new(),
            local: OnceLock::new(),
            lasting: before.map(|before| Arc::clone(&before.lasting)).unwrap_or_default(),
        }
    }

    /// The endpoints, each with its connections.
    pub fn loads(&self) -> BTreeMap<SocketAddr, u32> {
        let members = self.members();
        let counted = members.into_iter().map(|member| (member.address, member.connections()));
        let endpoints = [TrafficPolicy::Cluster, TrafficPolicy::Local].into_iter();
        let endpoints = endpoints.flat_map(|policy| self.port.endpoints(policy));
        let all = endpoints.map(|endpoint| (SocketAddr::new(endpoint.address, endpoint.port), 0));
        all.chain(counted).collect()
    }

    /// What is known of endpoints since a connection was given to one of them, or could have been.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.lasting.get().map(|lasting| lasting.members()).unwrap_or_default()
    }

    /// What is counted of it. `None` if it never had a connection.
    pub fn counted(&self) -> Option<&Meter> {
        self.lasting.get().map(|lasting| &*lasting.meter)
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.lasting().meter
    }

    /// Forgets the endpoints that are none any more, and returns those of them that have connections.
    pub fn leave(&self, after: Option<&ServicePort>) -> Vec<Arc<Member>> {
        let left = self.lasting.get().map(|lasting| lasting.retain(after)).unwrap_or_default();
        left.into_iter().filter(|member| member.connections() > 0).collect()
    }

    /// `None` if there is no endpoint, or none that was not tried.
    pub fn choose(&self, choice: Choice<'_>, now: Instant) -> Option<Lease> {
        let pool = self.pool(choice.policy);
        let Some(affinity) = self.port.affinity else {
            return pool.pick(self.arrival(&choice), choice.tried, now);
        };
        let timeout = Duration::from_secs(affinity.timeout_seconds.get().into());
        let client = choice.client.ip();
        let mut clients = self.lasting().clients.lock().unwrap_or_else(PoisonError::into_inner);
        let had = clients.of(client, timeout, now).filter(|had| !choice.tried.contains(had));
        let same = had.and_then(|had| pool.usable(had, now)).map(Lease::new);
        let lease = same.or_else(|| pool.pick(self.arrival(&choice), choice.tried, now))?;
        clients.note(client, lease.member().address, now);
        Some(lease)
    }

    /// A connect to this endpoint failed.
    pub fn failed(&self, member: &Member, now: Instant) {
        if member.failed(now) == Consequence::Ejected {
            self.meter().ejections.add(1);
        }
    }

    fn lasting(&self) -> &Lasting {
        self.lasting.get_or_init(Box::default)
    }

    /// Made by the first connection that needs it. Others that come meanwhile wait.
    fn pool(&self, policy: TrafficPolicy) -> &Pool {
        let pool = match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        };
        pool.get_or_init(|| {
            let endpoints = self.port.endpoints(policy);
            Box::new(Pool::new(self.port.scheduler, endpoints, |endpoint| self.lasting().member(endpoint)))
        })
    }

    fn arrival(&self, choice: &Choice<'_>) -> Arrival {
        let port = if self.port.hashing.port { choice.client.port() } else { 0 };
        let hash = match choice.client.ip() {
            std::net::IpAddr::V4(client) => hash(&client.octets(), port.into()),
            std::net::IpAddr::V6(client) => hash(&client.octets(), port.into()),
        };
        Arrival { hash, draw: choice.draw }
    }
}

impl Named for Service {
    fn name(&self) -> &ServicePortName {
        &self.port.name
    }
}
