//! A ServicePort as the listeners see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::affinity::Affinities;
use super::member::{Consequence, Lease, Member};
use super::pool::Pool;
use super::{Arrival, hash};
use crate::model::{Endpoint, ServicePort, TrafficPolicy};
use crate::modes::userspace::figures::Meter;

/// It never changes: a change of the ServicePort makes another one, which takes over what has to last.
#[derive(Debug)]
pub struct Service {
    pub port: Arc<ServicePort>,
    cluster: Pool,
    local: Pool,
    clients: Arc<Mutex<Affinities>>,
    pub meter: Arc<Meter>,
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
        let mut members: BTreeMap<SocketAddr, Arc<Member>> = before
            .into_iter()
            .flat_map(Service::members)
            .map(|member| (member.address, Arc::clone(member)))
            .collect();
        let mut member = |endpoint: &Endpoint| {
            let address = SocketAddr::new(endpoint.address, endpoint.port);
            let known = members.entry(address).or_insert_with(|| Arc::new(Member::new(endpoint)));
            if known.locality != endpoint.locality {
                *known = Arc::new(Member::new(endpoint));
            }
            Arc::clone(known)
        };
        Service {
            port: Arc::clone(port),
            cluster: Pool::new(port.scheduler, &port.cluster, &mut member),
            local: Pool::new(port.scheduler, &port.local, &mut member),
            clients: before.map(|before| Arc::clone(&before.clients)).unwrap_or_default(),
            meter: before.map(|before| Arc::clone(&before.meter)).unwrap_or_default(),
        }
    }

    /// Some of them twice.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.cluster.members().chain(self.local.members())
    }

    /// `None` if there is no endpoint, or none that was not tried.
    pub fn choose(&self, choice: Choice<'_>, now: Instant) -> Option<Lease> {
        let pool = match choice.policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        };
        let Some(affinity) = self.port.affinity else {
            return pool.pick(self.arrival(&choice), choice.tried, now);
        };
        let timeout = Duration::from_secs(affinity.timeout_seconds.get().into());
        let client = choice.client.ip();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let had = clients.of(client, timeout, now).filter(|had| !choice.tried.contains(had));
        let same = had.and_then(|had| pool.usable(had, now)).map(Lease::new);
        let lease = same.or_else(|| pool.pick(self.arrival(&choice), choice.tried, now))?;
        clients.note(client, lease.member().address, now);
        Some(lease)
    }

    /// A connect to this endpoint failed.
    pub fn failed(&self, member: &Member, now: Instant) {
        if member.failed(now) == Consequence::Ejected {
            self.meter.ejections.add(1);
        }
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
