//! Sorted views of a table's frontends and endpoints, kept beside it so that one change never walks the whole table.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Frontend, FrontendKey, ServicePort, Verdict};

/// What a frontend is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A ClusterIP whose traffic is forwarded.
    ClusterIp,
    /// An external address whose traffic is forwarded, be it only for clients inside the cluster.
    External,
    /// A NodePort whose traffic is forwarded, likewise.
    NodePort,
    /// An address with traffic that must be refused: no endpoint, none here, or clients that are not let in.
    Guard,
    /// A NodePort with traffic that must be refused.
    NodePortGuard,
}

impl Role {
    /// The roles that a frontend of `port` has.
    pub fn of(port: &ServicePort, frontend: &Frontend) -> impl Iterator<Item = Role> + use<> {
        let verdict = port.verdict(frontend);
        let forwarded = matches!(verdict, Verdict::Forward(_));
        let (forward, guard, reached) = match frontend {
            Frontend::ClusterIp(_) => (Role::ClusterIp, Role::Guard, forwarded),
            Frontend::NodePort(_) => (Role::NodePort, Role::NodePortGuard, forwarded || port.short_circuit()),
            _ => (Role::External, Role::Guard, forwarded || port.short_circuit()),
        };
        let guarded = !forwarded || port.admits(frontend).is_some();
        reached.then_some(forward).into_iter().chain(guarded.then_some(guard))
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    roles: BTreeMap<(Role, FrontendKey), Arc<ServicePort>>,
    hairpin: BTreeMap<IpAddr, u32>,
    without_local_endpoints: (usize, usize),
}

impl Index {
    pub(super) fn insert(&mut self, port: &Arc<ServicePort>) {
        for frontend in &port.frontends {
            for role in Role::of(port, frontend) {
                self.roles.insert((role, port.key(frontend)), Arc::clone(port));
            }
        }
        let (internal, external) = without_local_endpoints(port);
        self.without_local_endpoints.0 += internal;
        self.without_local_endpoints.1 += external;
        for address in port.hairpin_addresses() {
            *self.hairpin.entry(address).or_default() += 1;
        }
    }

    /// A frontend may have gone to another ServicePort already, which then keeps it.
    pub(super) fn remove(&mut self, port: &ServicePort) {
        for frontend in &port.frontends {
            for role in Role::of(port, frontend) {
                let key = (role, port.key(frontend));
                if self.roles.get(&key).is_some_and(|owner| owner.name == port.name) {
                    self.roles.remove(&key);
                }
            }
        }
        let (internal, external) = without_local_endpoints(port);
        self.without_local_endpoints.0 -= internal;
        self.without_local_endpoints.1 -= external;
        for address in port.hairpin_addresses() {
            let Some(count) = self.hairpin.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.hairpin.remove(&address);
            }
        }
    }

    pub(super) fn pack(&mut self) {
        self.roles = std::mem::take(&mut self.roles).into_iter().collect();
    }

    pub(super) fn roles(&self) -> &BTreeMap<(Role, FrontendKey), Arc<ServicePort>> {
        &self.roles
    }

    pub(super) fn without_local_endpoints(&self) -> (usize, usize) {
        self.without_local_endpoints
    }

    pub(super) fn hairpin(&self) -> &BTreeMap<IpAddr, u32> {
        &self.hairpin
    }
}

/// 1 where internal, and 1 where external traffic is dropped. Without an external frontend there is none to drop.
fn without_local_endpoints(port: &ServicePort) -> (usize, usize) {
    let is_external = |frontend: &Frontend| !matches!(frontend, Frontend::ClusterIp(_));
    let internal = port.internal == Verdict::Drop && !port.frontends.iter().all(is_external);
    let external = port.external == Verdict::Drop && port.frontends.iter().any(is_external);
    (internal.into(), external.into())
}
