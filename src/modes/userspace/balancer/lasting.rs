//! What a ServicePort keeps over its changes, from its first connection on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::affinity::Affinities;
use super::member::Member;
use crate::model::{Endpoint, ServicePort, TrafficPolicy};
use crate::modes::userspace::figures::Meter;

#[derive(Debug, Default)]
pub struct Lasting {
    members: Mutex<BTreeMap<SocketAddr, Arc<Member>>>,
    pub clients: Mutex<Affinities>,
    pub meter: Arc<Meter>,
}

impl Lasting {
    /// By address.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.known().values().cloned().collect()
    }

    /// The one that an endpoint had before, or a new one.
    pub fn member(&self, endpoint: &Endpoint) -> Arc<Member> {
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let mut known = self.known();
        let member = known.entry(address).or_insert_with(|| Arc::new(Member::new(endpoint)));
        if member.locality != endpoint.locality {
            *member = Arc::new(Member::new(endpoint));
        }
        Arc::clone(member)
    }

    /// Forgets those that are no endpoints of the ServicePort any more, and returns them.
    pub fn retain(&self, port: Option<&ServicePort>) -> Vec<Arc<Member>> {
        let stays = |member: &Member| port.is_some_and(|port| is_endpoint(member, port));
        let mut known = self.known();
        let all = std::mem::take(&mut *known).into_iter();
        let (stay, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = all.partition(|(_, member)| stays(member));
        *known = stay;
        gone.into_values().collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_endpoint(member: &Member, port: &ServicePort) -> bool {
    let address = (member.address.ip(), member.address.port());
    [TrafficPolicy::Cluster, TrafficPolicy::Local].into_iter().any(|policy| {
        let endpoints = port.endpoints(policy);
        let found = endpoints.binary_search_by_key(&address, |endpoint| (endpoint.address, endpoint.port));
        found.is_ok_and(|at| endpoints[at].locality == member.locality)
    })
}
