//! A cluster of any size, as its API server holds it.

use std::net::Ipv4Addr;

use ferrovia::lab::{HERE, POD_PORT};
use serde_json::{Value, json};

use crate::apiserver::ApiServer;

/// The real pods, one on each node.
pub const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(10, 244, 2, 5)];
/// Services whose endpoint is a real pod, spread evenly over all; the last one is the last of all.
const PROBES: u32 = 20;

#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub services: u32,
    pub endpoints: u32,
}

impl Size {
    pub fn is_probe(self, index: u32) -> bool {
        (index + 1).is_multiple_of((self.services / PROBES).max(1))
    }

    pub fn probes(self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.services).filter(move |index| self.is_probe(*index))
    }

    /// Those whose endpoints nobody reaches.
    pub fn others(self) -> impl Iterator<Item = u32> {
        (0..self.services).filter(move |index| !self.is_probe(*index))
    }

    pub fn last_probe(self) -> u32 {
        self.probes().next_back().expect("there are Services, so there are probes")
    }
}

pub fn cluster_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + 2 + index * 6)
}

pub fn fill(server: &ApiServer, size: Size) {
    server.apply(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": HERE},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
    }));
    // Without it, what is sent to a Service that is not there yet leaves untranslated: connection tracking would keep it so
    // for later connections from the same port.
    server.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12"]},
    }));
    for index in 0..size.services {
        server.apply(service(index));
        let endpoints = if size.is_probe(index) { vec![PODS[0]] } else { synthetic(index, size.endpoints) };
        server.apply(slice(index, &endpoints));
    }
}

fn synthetic(index: u32, count: u32) -> Vec<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + index * count;
    (first..first + count).map(Ipv4Addr::from).collect()
}

fn service(index: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": format!("team-{}", index % 50), "name": format!("service-{index:05}"),
            "uid": format!("00000000-0000-0000-0000-{index:012}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip(index), "clusterIPs": [cluster_ip(index)],
            "ipFamilies": ["IPv4"], "selector": {"app": "x"}, "sessionAffinity": "None",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": POD_PORT}]},
        "status": {"loadBalancer": {}},
    })
}

pub fn slice(index: u32, endpoints: &[Ipv4Addr]) -> Value {
    let endpoint = |address: &Ipv4Addr| {
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", u32::from(*address) % 500),
            "targetRef": {"kind": "Pod", "name": format!("pod-{address}"), "uid": "11111111-2222-3333-4444-555555555555"},
        })
    };
    let name = format!("service-{index:05}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": format!("team-{}", index % 50), "name": format!("{name}-abcde"),
            "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
