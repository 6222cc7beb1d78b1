//! One port of one Service, as one node has to treat it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Few, Hashing, Protocol, Scheduler, ServiceName};

/// Which port of which Service. The protocol belongs to the key: DNS has port 53 twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub namespace: Arc<str>,
    pub service: Arc<str>,
    /// `spec.ports[].name`, empty for a single unnamed port.
    pub port: Arc<str>,
    pub protocol: Protocol,
}

impl ServicePortName {
    pub fn is_of(&self, service: &ServiceName) -> bool {
        self.namespace == service.namespace && self.service == service.name
    }

    pub fn service_name(&self) -> ServiceName {
        ServiceName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.service) }
    }
}

/// `namespace/service:port/PROTOCOL`, without `:port` where the port has no name.
impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

/// One port of one Service for one address family: where it is reached and what becomes of the traffic.
///
/// All decisions are made when this value is compiled. A mode only translates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: ServicePortName,
    /// `spec.ports[].port`: the port of every frontend but a NodePort.
    pub port: u16,
    /// Where this ServicePort is reached; no other ServicePort of the table has any of them.
    pub frontends: Few<Frontend>,
    /// Who may use the load balancer addresses; `None` is everybody. Sorted.
    pub load_balancer_sources: Option<Arc<[IpNet]>>,
    /// What becomes of traffic to the ClusterIP.
    pub internal: Verdict,
    /// What becomes of traffic to every other frontend, unless [short-circuited](ServicePort::short_circuit).
    pub external: Verdict,
    /// Endpoints for `Forward(Cluster)` and for the short-circuit. Sorted. Empty where nothing uses them.
    pub cluster: Box<[Endpoint]>,
    /// Endpoints for `Forward(Local)`. Sorted. Empty where nothing uses them.
    pub local: Box<[Endpoint]>,
    /// Endpoints that serve but get no new connections: terminating beside ready ones, or left out by topology.
    /// Flows that have one of them may go on. Sorted.
    pub draining: Box<[Endpoint]>,
    pub affinity: Option<Affinity>,
    pub scheduler: Scheduler,
    pub hashing: Hashing,
}

impl ServicePort {
    /// The endpoints that a traffic policy chooses from.
    pub fn endpoints(&self, policy: TrafficPolicy) -> &[Endpoint] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// Whether traffic of this node and its pods to external frontends bypasses externalTrafficPolicy Local and may go
    /// to any endpoint: such clients are inside the cluster, wherever the address is advertised.
    pub fn short_circuit(&self) -> bool {
        matches!(self.external, Verdict::Forward(TrafficPolicy::Local) | Verdict::Drop)
            && !self.cluster.is_empty()
    }

    /// The verdict that holds for a frontend, before any short-circuit.
    pub fn verdict(&self, frontend: &Frontend) -> Verdict {
        match frontend {
            Frontend::ClusterIp(_) => self.internal,
            _ => self.external,
        }
    }

    /// The only clients that may use a frontend; `None` is everybody.
    pub fn admits(&self, frontend: &Frontend) -> Option<&Arc<[IpNet]>> {
        match frontend {
            Frontend::LoadBalancer(_) => self.load_balancer_sources.as_ref(),
            _ => None,
        }
    }

    pub fn key(&self, frontend: &Frontend) -> FrontendKey {
        let protocol = self.name.protocol;
        match *frontend {
            Frontend::ClusterIp(address)
            | Frontend::ExternalIp(address)
            | Frontend::LoadBalancer(address) => {
                FrontendKey { destination: Destination::Address(address), protocol, port: self.port }
            }
            Frontend::NodePort(port) => FrontendKey { destination: Destination::Node, protocol, port },
        }
    }

    /// The frontend that has this key.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.frontends.iter().find(|frontend| self.key(frontend) == *key)
    }

    /// Addresses of endpoints that may reach themselves through this ServicePort, with repetitions.
    pub fn hairpin_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let endpoints = self.cluster.iter().chain(&self.local);
        endpoints.filter(|endpoint| endpoint.can_hairpin()).map(|endpoint| endpoint.address)
    }

    /// Whether `address` and `port` belong to an endpoint that may keep its flows.
    pub fn serves(&self, address: IpAddr, port: u16) -> bool {
        [&self.cluster, &self.local, &self.draining].into_iter().any(|set| {
            set.binary_search_by_key(&(address, port), |endpoint| (endpoint.address, endpoint.port)).is_ok()
        })
    }
}

/// An address where a ServicePort is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    ClusterIp(IpAddr),
    ExternalIp(IpAddr),
    LoadBalancer(IpAddr),
    /// A port on the addresses that [`NodePolicy::node_ports`](super::NodePolicy) names.
    NodePort(u16),
}

impl Frontend {
    pub fn address(&self) -> Option<IpAddr> {
        match *self {
            Frontend::ClusterIp(a) | Frontend::ExternalIp(a) | Frontend::LoadBalancer(a) => Some(a),
            Frontend::NodePort(_) => None,
        }
    }
}

/// What a packet is matched on. Ordered by address, then protocol, then port, so that a range holds a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub destination: Destination,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Destination::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Destination::Address(address) => write!(f, "{address}")?,
            Destination::Node => f.write_str("node")?,
        }
        write!(f, ":{}/{}", self.port, self.protocol)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    Address(IpAddr),
    /// Any of the node's own addresses that NodePorts listen on.
    Node,
}

/// What becomes of traffic to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Forward(TrafficPolicy),
    /// The Service has no endpoint anywhere: refuse at once, so that the client does not wait.
    Reject,
    /// The policy is Local and the endpoints are elsewhere: another node has them, so say nothing.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// Where connections can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub locality: Locality,
    /// Its share of new connections against other endpoints of the ServicePort, for schedulers that have weights. 1 where
    /// nobody says; never 0.
    pub weight: u16,
}

/// Whether an endpoint is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Locality {
    Local,
    Remote,
    /// The EndpointSlice names no node. Not local to any policy, but it may be here, so hairpin traffic is expected.
    Unknown,
}

impl Endpoint {
    /// Whether a connection from this endpoint to itself through a Service can cross this node.
    pub fn can_hairpin(&self) -> bool {
        self.locality != Locality::Remote
    }
}

/// sessionAffinity ClientIP: the same client address gets the same endpoint until it was silent for `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`: seconds since the client's last new connection.
    pub timeout_seconds: NonZeroU32,
}
