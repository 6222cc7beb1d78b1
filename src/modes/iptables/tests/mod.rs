//! The mode against iptables in memory.

mod incremental;
mod recovery;
mod shape;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::kernel::iptables::fake::Fake;
use crate::model::{Endpoint, Family, Frontend, Locality, Protocol, ServicePort, TrafficPolicy, Verdict};

fn name(service: &str) -> ServicePortName {
    let (namespace, service) = service.split_once('/').unwrap_or(("ns", service));
    ServicePortName {
        namespace: namespace.into(),
        service: service.into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(address: IpAddr, locality: Locality) -> Endpoint {
    Endpoint { address, port: 8080, locality, weight: 1 }
}

/// `n` remote endpoints, a local one first.
fn endpoints(n: u32) -> Box<[Endpoint]> {
    let address = |i: u32| IpAddr::from((0x0af4_0100 + i).to_be_bytes());
    let locality = |i| if i == 0 { Locality::Local } else { Locality::Remote };
    (0..n).map(|i| endpoint(address(i), locality(i))).collect()
}

fn service(of: &str, frontends: &[Frontend]) -> ServicePort {
    let cluster = Verdict::Forward(TrafficPolicy::Cluster);
    ServicePort {
        name: name(of),
        port: 80,
        frontends: frontends.into(),
        load_balancer_sources: None,
        internal: cluster,
        external: cluster,
        cluster: endpoints(2),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn cluster_ip(index: u32) -> Frontend {
    Frontend::ClusterIp(IpAddr::from((0x0a60_0000 + index).to_be_bytes()))
}

fn mode(family: Family) -> Iptables<Fake> {
    Iptables::new(Fake::new(family), Settings::default())
}

/// One turn of the loop; returns the plan's text.
fn sync(mode: &mut Iptables<Fake>, table: &mut ServiceTable) -> String {
    let plan = mode.plan(table, Instant::now());
    let text = plan.to_string();
    mode.apply(plan).unwrap_or_else(|error| panic!("{error}\n{text}"));
    table.settle();
    text
}

fn assert_nothing_to_do(mode: &mut Iptables<Fake>, table: &mut ServiceTable) {
    table.unsettle();
    assert_eq!(mode.plan(table, Instant::now()).to_string(), "", "from what was written");
    mode.observe().unwrap();
    assert_eq!(mode.plan(table, Instant::now()).to_string(), "", "from what was read");
    sync(mode, table);
}

fn table_of(family: Family, ports: impl IntoIterator<Item = ServicePort>) -> ServiceTable {
    let mut table = ServiceTable::new(family);
    ports.into_iter().for_each(|port| table.set(port));
    table
}

#[test]
fn planning_again_changes_nothing() {
    let mut table = table_of(Family::V4, (0..300).map(|i| service(&format!("s{i}"), &[cluster_ip(i)])));
    let mut mode = mode(Family::V4);
    mode.observe().unwrap();
    sync(&mut mode, &mut table);
    assert_nothing_to_do(&mut mode, &mut table);
}
