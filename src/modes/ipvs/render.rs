//! From a table to what has to be in the kernel: virtual servers, members of sets, virtual addresses.
//!
//! Everything is asked for by the address, protocol and port that packets are sent to, and found through
//! [`ServiceTable::reached`] as the oracle finds it, so that two ServicePorts never write to one place.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::names::Set;
use crate::kernel::ipset::{Element, Member};
use crate::kernel::ipvs::{Flags, VirtualServer};
use crate::model::{
    Affinity, Destination, Endpoint, Family, Frontend, Protocol, Scheduler, ServicePort, ServicePortName,
    ServiceTable, TrafficPolicy, Verdict, network_of_host,
};

/// Where packets are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

impl Key {
    pub fn server(self) -> VirtualServer {
        VirtualServer::Address { address: self.address, protocol: self.protocol, port: self.port }
    }

    pub fn element(self) -> Element {
        Element::IpPort(self.address, self.protocol, self.port)
    }

    /// Whose packets those to here are.
    pub fn owner(self, table: &ServiceTable) -> Option<&Arc<ServicePort>> {
        table.reached(self.address, self.protocol, self.port).map(|(port, _)| port)
    }

    /// The keys of a ServicePort: a NodePort is on many addresses.
    pub fn all_of(port: &ServicePort, table: &ServiceTable) -> impl Iterator<Item = Key> {
        port.frontends.iter().flat_map(move |frontend| {
            let key = port.key(frontend);
            let (own, node) = match key.destination {
                Destination::Address(address) => (Some(address), None),
                Destination::Node => (None, Some(node_port_addresses(table))),
            };
            let at = move |address| Key { address, protocol: key.protocol, port: key.port };
            own.into_iter().chain(node.into_iter().flatten()).map(at)
        })
    }
}

fn node_port_addresses(table: &ServiceTable) -> impl Iterator<Item = IpAddr> {
    let (node, family) = (table.node(), table.family());
    let listens = move |address: &IpAddr| Family::of(*address) == family && node.has_node_ports(*address);
    node.addresses.iter().copied().filter(listens)
}

/// Everything about a virtual server but its destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `None` in the kernel for one that is not ours.
    pub scheduler: Option<Scheduler>,
    pub flags: Flags,
    /// Seconds; 0 without persistence.
    pub timeout: u32,
    pub prefix: u8,
}

impl Shape {
    fn of(port: &ServicePort, family: Family) -> Self {
        let affinity = port.affinity.map(|Affinity { timeout_seconds }| timeout_seconds.get());
        // Both keep an endpoint that drains in their tables and refuse its clients (Linux 6.1), unless told to go on to the
        // next one.
        let refuses = matches!(port.scheduler, Scheduler::SourceHash | Scheduler::Maglev);
        let options = [
            (affinity.is_some(), Flags::PERSISTENT),
            (port.hashing.fallback || refuses, Flags::SCHED_1),
            (port.hashing.port, Flags::SCHED_2),
        ];
        let flags = options.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag);
        Shape {
            scheduler: Some(port.scheduler),
            flags: flags.fold(Flags::default(), |all, flag| all | flag),
            timeout: affinity.unwrap_or_default(),
            prefix: family.bits(),
        }
    }
}

/// A virtual server as it should be.
#[derive(Debug)]
pub struct Server<'a> {
    pub port: &'a Arc<ServicePort>,
    pub shape: Shape,
    /// New connections go to the endpoints that this chooses from. With none, the virtual server is there as long as others
    /// drain.
    pub policy: Option<TrafficPolicy>,
}

impl<'a> Server<'a> {
    pub fn endpoints(&self) -> &'a [Endpoint] {
        self.policy.map_or(&[], |policy| self.port.endpoints(policy))
    }
}

/// What a key needs. Nothing, if it is nobody's.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    pub server: Option<Server<'a>>,
    pub members: Vec<(Set, Member)>,
}

/// What should be there for packets to `key`. `mark` tells the mark of a ServicePort that short-circuits.
pub fn of_key<'a>(table: &'a ServiceTable, key: Key, mark: &dyn Fn(&ServicePortName) -> u32) -> Wanted<'a> {
    let Some((port, frontend)) = table.reached(key.address, key.protocol, key.port) else {
        return Wanted::default();
    };
    let mut members = Vec::new();
    let mut add = |set| members.push((set, Member::from(key.element())));
    let is_external = !matches!(frontend, Frontend::ClusterIp(_));
    let policy = match port.verdict(frontend) {
        Verdict::Forward(policy) => {
            add(Set::Served);
            if !is_external {
                add(Set::ClusterIps);
            } else if policy == TrafficPolicy::Cluster {
                add(Set::Masquerade);
            }
            Some(policy)
        }
        Verdict::Drop => {
            add(Set::Drop);
            None
        }
        Verdict::Reject => {
            // At a virtual address, what is not served is refused anyway.
            if !table.is_virtual(key.address) {
                add(Set::Reject);
            }
            None
        }
    };
    if is_external && port.short_circuit() {
        members.push((Set::ShortCircuit, Member { element: key.element(), mark: Some(mark(&port.name)) }));
    }
    // A Service without endpoints has nothing to guard: everybody is told so.
    if let Some(sources) = port.admits(frontend).filter(|_| port.external != Verdict::Reject) {
        members.extend(guard(key, sources));
    }
    let server = Server { port, shape: Shape::of(port, table.family()), policy };
    Wanted { server: Some(server), members }
}

fn guard(key: Key, sources: &[IpNet]) -> Vec<(Set, Member)> {
    let Key { address, protocol, port } = key;
    let own = sources.iter().filter(|network| Family::of(network.addr()) == Family::of(address));
    let networks: BTreeSet<IpNet> = own.flat_map(halves).collect();
    let allowed = networks.into_iter().map(|network| Element::IpPortNet(address, protocol, port, network));
    let mut members: Vec<_> = allowed.map(|element| (Set::SourceRanges, Member::from(element))).collect();
    members.push((Set::Guarded, Member::from(key.element())));
    members
}

/// A set has no room for the network that everybody is in.
fn halves(network: &IpNet) -> Vec<IpNet> {
    match network.prefix_len() {
        0 => network.subnets(1).map(Iterator::collect).unwrap_or_default(),
        _ => vec![network.trunc()],
    }
}

/// The virtual server behind a ServicePort's mark. One that short-circuits no more gives it no endpoints.
pub fn of_short_circuit<'a>(table: &'a ServiceTable, name: &ServicePortName) -> Option<Server<'a>> {
    let port = table.get(name)?;
    let is_reached = |frontend: &Frontend| match frontend {
        Frontend::ClusterIp(_) => false,
        Frontend::NodePort(_) => node_port_addresses(table).next().is_some(),
        Frontend::ExternalIp(_) | Frontend::LoadBalancer(_) => true,
    };
    let policy = port.short_circuit().then_some(TrafficPolicy::Cluster);
    port.frontends.iter().any(is_reached).then(|| Server {
        port,
        shape: Shape::of(port, table.family()),
        policy,
    })
}

/// Whether the node has to be made to take packets to an address.
pub fn is_virtual_ip(table: &ServiceTable, address: IpAddr) -> bool {
    table.is_virtual(address)
}

pub fn of_hairpin(address: IpAddr) -> Element {
    let host = network_of_host(address);
    Element::NetNet(host, host)
}
