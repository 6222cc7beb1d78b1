//! Objects for tests, in the lab's topology: node "here", pods 10.244.1.N on it, pods 10.244.2.N elsewhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Family, Protocol, ServiceName};

use super::objects::{
    EndpointPort, EndpointSlice, Event, Hints, Kind, Node, Object, Service, ServiceCidr, ServiceKind,
    ServicePortSpec, SliceEndpoint,
};

pub const HERE: &str = "here";
pub const ELSEWHERE: &str = "elsewhere";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn ips<L: FromIterator<IpAddr>>(texts: &[&str]) -> L {
    texts.iter().map(|text| ip(text)).collect()
}

/// `namespace/name`.
pub fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    ServiceName { namespace: namespace.into(), name: name.into() }
}

/// A ClusterIP Service with port 80/TCP, to be changed as a test needs.
pub fn service(full_name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        name: name(full_name),
        uid: full_name.into(),
        created: 1_000,
        kind: ServiceKind::ClusterIp,
        cluster_ips: ips(cluster_ips),
        ports: [port("", Protocol::Tcp, 80, 0)].into(),
        external_ips: [].into(),
        load_balancer_ips: [].into(),
        load_balancer_sources: [].into(),
        internal_policy_local: false,
        external_policy_local: false,
        affinity_timeout_seconds: None,
        health_check_node_port: 0,
        scheduler: None,
        scheduler_flags: None,
        problems: [].into(),
    }
}

pub fn node_port_service(full_name: &str, cluster_ips: &[&str], node_port: u16) -> Service {
    Service {
        kind: ServiceKind::NodePort,
        ports: [port("", Protocol::Tcp, 80, node_port)].into(),
        ..service(full_name, cluster_ips)
    }
}

pub fn load_balancer(full_name: &str, cluster_ips: &[&str], load_balancer_ips: &[&str]) -> Service {
    Service {
        kind: ServiceKind::LoadBalancer,
        load_balancer_ips: ips(load_balancer_ips),
        ..service(full_name, cluster_ips)
    }
}

pub fn port(name: &str, protocol: Protocol, port: u16, node_port: u16) -> ServicePortSpec {
    ServicePortSpec { name: name.into(), protocol, port, node_port }
}

/// A slice with unnamed port 8080/TCP, of the family of its endpoints.
pub fn slice(full_name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice {
        name: name(full_name),
        service: service.into(),
        family: endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address)),
        ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.into(),
        weight: 1,
        triggered: None,
        problems: [].into(),
    }
}

/// A ready endpoint on this node.
pub fn here(address: &str) -> SliceEndpoint {
    endpoint(address, HERE)
}

/// A ready endpoint on the other node.
pub fn elsewhere(address: &str) -> SliceEndpoint {
    endpoint(address, ELSEWHERE)
}

pub fn endpoint(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        hints: None,
    }
}

impl SliceEndpoint {
    pub fn terminating(self) -> Self {
        SliceEndpoint { ready: false, serving: true, terminating: true, ..self }
    }

    pub fn unready(self) -> Self {
        SliceEndpoint { ready: false, serving: false, ..self }
    }

    pub fn nowhere(self) -> Self {
        SliceEndpoint { node: None, ..self }
    }

    pub fn hinted(self, zones: &[&str], nodes: &[&str]) -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
        let hints = Hints { zones: texts(zones), nodes: texts(nodes) };
        SliceEndpoint { hints: Some(Arc::new(hints)), ..self }
    }
}

/// The lab's node.
pub fn node() -> Node {
    Node {
        name: HERE.into(),
        uid: "node-here".into(),
        created: 0,
        internal_addresses: ips(&["172.18.0.2", "fd00:18::2"]),
        addresses: ips(&["172.18.0.2", "fd00:18::2"]),
        zone: Some("zone-a".into()),
        pod_cidrs: ["10.244.1.0/24", "fd00:244:1::/64"].map(|text| text.parse().unwrap()).into(),
        leaving: false,
        pod_network: Default::default(),
    }
}

pub fn service_cidr(name: &str, networks: &[&str]) -> ServiceCidr {
    ServiceCidr { name: name.into(), networks: networks.iter().map(|text| text.parse().unwrap()).collect() }
}

pub fn applied(object: impl Into<Object>) -> Event {
    Event::Applied(object.into())
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Object::Service(Box::new(service))
    }
}

impl From<EndpointSlice> for Object {
    fn from(slice: EndpointSlice) -> Self {
        Object::EndpointSlice(Box::new(slice))
    }
}

impl From<Node> for Object {
    fn from(node: Node) -> Self {
        Object::Node(Box::new(node))
    }
}

impl From<ServiceCidr> for Object {
    fn from(cidr: ServiceCidr) -> Self {
        Object::ServiceCidr(Box::new(cidr))
    }
}

/// A store of the lab's node in which every list is done and holds these objects.
pub fn store(objects: impl IntoIterator<Item = Object>) -> super::store::Store {
    let mut store = super::store::Store::new(HERE.into(), SystemTime::UNIX_EPOCH);
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
    kinds.into_iter().for_each(|kind| store.handle(Event::ListStarted(kind)));
    for object in objects {
        store.handle(Event::Applied(object));
    }
    kinds.into_iter().for_each(|kind| store.handle(Event::ListDone(kind)));
    store
}
