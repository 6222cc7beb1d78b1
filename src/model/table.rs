//! All ServicePorts of one address family, with what changed since a mode last wrote them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::index::Index;
use super::{
    Destination, Family, Frontend, FrontendKey, NodePolicy, Protocol, Role, ServicePort, ServicePortName,
};

/// What one address family of this node must do, and what of it is new.
///
/// The table remembers the changes until [`settle`](Self::settle) says that a mode carried them out, so that a failed
/// attempt loses none and a successful one need not look at anything else.
#[derive(Debug)]
pub struct ServiceTable {
    family: Family,
    node: NodePolicy,
    /// Sorted by name.
    ports: BTreeSet<ByName>,
    frontends: BTreeMap<FrontendKey, Arc<ServicePort>>,
    index: Index,
    health_checks: BTreeMap<ServiceName, HealthCheck>,
    /// What changed since a mode last wrote all of it; `None` if no mode ever did.
    touched: Option<BTreeMap<ServicePortName, Change>>,
    /// The kernel, or what holds for every ServicePort, may have changed as well.
    doubted: bool,
    /// Modes let traffic to these ports in: other ports are news to them.
    new_health_check_ports: bool,
}

/// A ServicePort as what its name is, which then need not be kept twice.
#[derive(Debug)]
struct ByName(Arc<ServicePort>);

impl Borrow<ServicePortName> for ByName {
    fn borrow(&self) -> &ServicePortName {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

/// What may differ from what a mode last wrote.
#[derive(Debug, Clone, Copy)]
pub enum Changes<'a> {
    /// Nothing is known: look at every ServicePort.
    Everything,
    /// Only these ServicePorts, each with its state before the first of the changes.
    Some(&'a BTreeMap<ServicePortName, Change>),
}

/// What a ServicePort was when a mode last wrote it; what it is now stands in the table.
#[derive(Debug, Clone)]
pub struct Change {
    pub before: Option<Arc<ServicePort>>,
}

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the health check node port of a Service has to answer (externalTrafficPolicy Local load balancers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub node_port: u16,
    /// Ready endpoints on this node, counted by address. Terminating ones do not count.
    pub local_endpoints: usize,
}

impl ServiceTable {
    pub fn new(family: Family) -> Self {
        ServiceTable {
            family,
            node: NodePolicy::default(),
            ports: BTreeSet::new(),
            frontends: BTreeMap::new(),
            index: Index::default(),
            health_checks: BTreeMap::new(),
            touched: None,
            doubted: false,
            new_health_check_ports: false,
        }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn node(&self) -> &NodePolicy {
        &self.node
    }

    pub fn get(&self, name: &ServicePortName) -> Option<&Arc<ServicePort>> {
        self.ports.get(name).map(|ByName(port)| port)
    }

    /// Every ServicePort, by name.
    pub fn ports(&self) -> impl ExactSizeIterator<Item = &Arc<ServicePort>> {
        self.ports.iter().map(|ByName(port)| port)
    }

    /// The ServicePorts of one Service.
    pub fn of_service(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<ServicePort>> {
        let first = ServicePortName {
            namespace: Arc::clone(&service.namespace),
            service: Arc::clone(&service.name),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let range = self.ports.range(first..);
        range.map(|ByName(port)| port).take_while(move |port| port.name.is_of(service))
    }

    /// Every frontend with the ServicePort that owns it, by address, protocol and port.
    pub fn frontends(&self) -> &BTreeMap<FrontendKey, Arc<ServicePort>> {
        &self.frontends
    }

    /// The ServicePort that a packet to this address is for, and by which of its frontends. An address of a Service comes
    /// before NodePorts, whatever the address.
    pub fn reached(
        &self,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<(&Arc<ServicePort>, &Frontend)> {
        self.node.reached(address, protocol, port, |key| {
            let owner = self.frontends.get(&key)?;
            owner.frontend(&key).map(|frontend| (owner, frontend))
        })
    }

    /// The frontends at one address, by protocol and port.
    pub fn at_address(&self, address: IpAddr) -> impl Iterator<Item = (&FrontendKey, &Arc<ServicePort>)> {
        let destination = Destination::Address(address);
        let first = FrontendKey { destination, protocol: Protocol::Tcp, port: 0 };
        self.frontends.range(first..).take_while(move |(key, _)| key.destination == destination)
    }

    /// Whether an address is there for Services only. What keepalived or kube-vip put on an interface is the node's too: it
    /// takes packets to it already, and they may be for somebody else.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.at_address(address).next().is_some() && self.node.addresses.binary_search(&address).is_err()
    }

    /// The frontends by what they are looked up for, then by address, protocol and port.
    pub fn roles(&self) -> &BTreeMap<(Role, FrontendKey), Arc<ServicePort>> {
        self.index.roles()
    }

    /// The addresses of endpoints that may reach themselves through a Service here, each with how many times it occurs.
    pub fn hairpin(&self) -> &BTreeMap<IpAddr, u32> {
        self.index.hairpin()
    }

    /// How many ServicePorts drop internal, and how many external traffic, as their policy is Local and no endpoint is.
    pub fn without_local_endpoints(&self) -> (usize, usize) {
        self.index.without_local_endpoints()
    }

    pub fn health_checks(&self) -> &BTreeMap<ServiceName, HealthCheck> {
        &self.health_checks
    }

    pub fn changes(&self) -> Changes<'_> {
        match &self.touched {
            Some(touched) if !self.doubted => Changes::Some(touched),
            _ => Changes::Everything,
        }
    }

    /// The ServicePorts that changed since a mode last wrote the table, also where more than that is in doubt.
    /// `None` if no mode ever wrote it.
    pub fn touched(&self) -> Option<&BTreeMap<ServicePortName, Change>> {
        self.touched.as_ref()
    }

    /// The names to look at; with everything in doubt, all that there are.
    pub fn changed(&self) -> Box<dyn Iterator<Item = &ServicePortName> + '_> {
        match self.changes() {
            Changes::Everything => Box::new(self.ports().map(|port| &port.name)),
            Changes::Some(changes) => Box::new(changes.keys()),
        }
    }

    /// Replaces the node-wide part. If that changes it, everything counts as changed.
    pub fn set_node(&mut self, node: NodePolicy) {
        if self.node != node {
            self.node = node;
            self.doubted = true;
        }
    }

    /// Adds or replaces a ServicePort. One that is equal to what is there keeps its `Arc` and is no change.
    pub fn set(&mut self, port: ServicePort) {
        let before = self.get(&port.name);
        if before.is_some_and(|before| **before == port) {
            return;
        }
        let before = before.cloned();
        let name = port.name.clone();
        let port = Arc::new(port);
        if let Some(before) = &before {
            self.forget_frontends(before);
            self.index.remove(before);
        }
        self.index.insert(&port);
        for frontend in &port.frontends {
            self.frontends.insert(port.key(frontend), Arc::clone(&port));
        }
        self.ports.replace(ByName(port));
        self.note_change(name, before);
    }

    /// As [`ServiceTable::set`], without the frontends that another ServicePort has: the one that has them keeps them, as
    /// the compiler sees to.
    #[cfg(test)]
    pub fn set_what_is_free(&mut self, mut port: ServicePort) {
        let is_free = |frontend: &Frontend| {
            let owner = self.frontends.get(&port.key(frontend));
            owner.is_none_or(|owner| owner.name == port.name)
        };
        port.frontends = port.frontends.iter().copied().filter(is_free).collect();
        self.set(port);
    }

    pub fn remove(&mut self, name: &ServicePortName) {
        if let Some(ByName(before)) = self.ports.take(name) {
            self.forget_frontends(&before);
            self.index.remove(&before);
            self.note_change(name.clone(), Some(before));
        }
    }

    pub fn set_health_check(&mut self, service: ServiceName, check: Option<HealthCheck>) {
        let port = check.map(|check| check.node_port);
        let before = match check {
            Some(check) => self.health_checks.insert(service, check),
            None => self.health_checks.remove(&service),
        };
        self.new_health_check_ports |= before.map(|check| check.node_port) != port;
    }

    /// Whether health check node ports came or went since a mode last wrote the table.
    pub fn has_new_health_check_ports(&self) -> bool {
        self.new_health_check_ports
    }

    /// The changes so far are in the kernel.
    pub fn settle(&mut self) {
        self.touched = Some(BTreeMap::new());
        self.doubted = false;
        self.new_health_check_ports = false;
    }

    /// Makes the table as small as it can be, at the cost of a walk through all of it: maps that were filled in order of their
    /// keys are half empty.
    pub fn pack(&mut self) {
        self.ports = std::mem::take(&mut self.ports).into_iter().collect();
        self.frontends = std::mem::take(&mut self.frontends).into_iter().collect();
        self.index.pack();
    }

    /// The kernel may hold anything: the next plan has to look at all of it.
    pub fn unsettle(&mut self) {
        self.doubted = true;
    }

    pub fn is_settled(&self) -> bool {
        !self.new_health_check_ports && matches!(self.changes(), Changes::Some(touched) if touched.is_empty())
    }

    /// A frontend may have gone to another ServicePort already, which then keeps it.
    fn forget_frontends(&mut self, port: &ServicePort) {
        for frontend in &port.frontends {
            let key = port.key(frontend);
            if self.frontends.get(&key).is_some_and(|owner| owner.name == port.name) {
                self.frontends.remove(&key);
            }
        }
    }

    fn note_change(&mut self, name: ServicePortName, before: Option<Arc<ServicePort>>) {
        if let Some(touched) = &mut self.touched {
            touched.entry(name).or_insert(Change { before });
        }
    }
}
