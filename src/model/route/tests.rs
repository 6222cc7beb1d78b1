//! A table of packets against a table of Services written by hand: what compiling makes of objects is tested there.

use std::num::NonZeroU32;

use ipnet::IpNet;

use super::*;
use crate::model::{
    Affinity, Family, LocalTraffic, Locality, NodePortAddresses, Scheduler, ServicePortName, TrafficPolicy::*,
};

const HERE: &str = "172.18.0.2";
const CLIENT: &str = "172.18.0.100";
const LOCAL_POD: &str = "10.244.1.9";
const REMOTE_POD: &str = "10.244.2.9";

const VIP: &str = "10.96.0.10:80";
const EXTERNAL: &str = "203.0.113.1:80";
const BALANCED: &str = "203.0.113.10:80";
const NODE_PORT: &str = "172.18.0.2:30080";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn node() -> NodePolicy {
    NodePolicy {
        local_traffic: LocalTraffic::Sources(networks(&["10.244.0.0/16"])),
        node_ports: NodePortAddresses::All,
        masquerade_all: false,
        addresses: vec![ip("10.244.1.1"), ip(HERE)],
        primary: vec![ip(HERE)],
        service_networks: Vec::new(),
    }
}

fn endpoint(address: &str, locality: Locality) -> Endpoint {
    Endpoint { address: ip(address), port: 8080, locality, weight: 1 }
}

/// One endpoint here, one elsewhere, every kind of frontend, policy Cluster.
fn web() -> ServicePort {
    ServicePort {
        name: ServicePortName {
            namespace: "shop".into(),
            service: "web".into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        frontends: [
            Frontend::ClusterIp(ip("10.96.0.10")),
            Frontend::ExternalIp(ip("203.0.113.1")),
            Frontend::LoadBalancer(ip("203.0.113.10")),
            Frontend::NodePort(30080),
        ]
        .into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(Cluster),
        external: Verdict::Forward(Cluster),
        cluster: [endpoint("10.244.1.5", Locality::Local), endpoint("10.244.2.5", Locality::Remote)].into(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn external_local() -> ServicePort {
    ServicePort {
        external: Verdict::Forward(Local),
        local: [endpoint("10.244.1.5", Locality::Local)].into(),
        ..web()
    }
}

fn elsewhere_only() -> ServicePort {
    ServicePort {
        external: Verdict::Drop,
        cluster: [endpoint("10.244.2.5", Locality::Remote)].into(),
        ..web()
    }
}

fn table(node: NodePolicy, port: ServicePort) -> ServiceTable {
    let mut table = ServiceTable::new(Family::V4);
    table.set_node(node);
    table.set(port);
    table
}

fn outcome_through(table: &ServiceTable, source: &str, interface: Option<&str>, destination: &str) -> String {
    let destination: SocketAddr = destination.parse().unwrap();
    let packet = Packet {
        source: ip(source),
        interface,
        protocol: Protocol::Tcp,
        destination: destination.ip(),
        port: destination.port(),
    };
    route(table, &packet).to_string()
}

fn check(node: NodePolicy, port: ServicePort, cases: &[(&str, &str, &str)]) {
    let table = table(node, port);
    for (source, destination, expected) in cases {
        assert_eq!(
            outcome_through(&table, source, None, destination),
            *expected,
            "{source} -> {destination}"
        );
    }
}

const BOTH: &str = "to 10.244.1.5:8080 10.244.2.5:8080";
const BOTH_MASQUERADED: &str = "to 10.244.1.5:8080 10.244.2.5:8080 masqueraded";
const LOCAL: &str = "to 10.244.1.5:8080";

#[test]
fn policy_cluster() {
    check(
        node(),
        web(),
        &[
            (LOCAL_POD, VIP, BOTH),
            (REMOTE_POD, VIP, BOTH),
            (CLIENT, VIP, BOTH_MASQUERADED),
            (HERE, VIP, BOTH_MASQUERADED),
            (LOCAL_POD, EXTERNAL, BOTH_MASQUERADED),
            (CLIENT, EXTERNAL, BOTH_MASQUERADED),
            (CLIENT, BALANCED, BOTH_MASQUERADED),
            (CLIENT, NODE_PORT, BOTH_MASQUERADED),
            (LOCAL_POD, NODE_PORT, BOTH_MASQUERADED),
            (HERE, NODE_PORT, BOTH_MASQUERADED),
        ],
    );
}

#[test]
fn what_is_no_frontend_is_left_alone() {
    check(
        node(),
        web(),
        &[
            (CLIENT, "10.96.0.10:81", "unused"),
            (CLIENT, "10.96.0.11:80", "untouched"),
            (CLIENT, "10.96.0.10:30080", "unused"),
            (CLIENT, "172.18.0.2:80", "untouched"),
            (CLIENT, "172.18.0.3:30080", "untouched"),
            (CLIENT, "10.244.1.5:8080", "untouched"),
        ],
    );
    let table = table(node(), web());
    let udp = Packet {
        source: ip(CLIENT),
        interface: None,
        protocol: Protocol::Udp,
        destination: ip("10.96.0.10"),
        port: 80,
    };
    assert_eq!(route(&table, &udp), Outcome::Unused);
}

#[test]
fn addresses_that_services_may_get_are_unallocated() {
    let node = NodePolicy {
        service_networks: networks(&["10.96.0.0/16", "172.18.0.0/24", "203.0.113.0/28"]),
        ..node()
    };
    check(
        node,
        web(),
        &[
            (LOCAL_POD, "10.96.0.11:80", "unallocated"),
            (CLIENT, "10.96.0.11:80", "unallocated"),
            (HERE, "10.96.0.11:80", "unallocated"),
            (LOCAL_POD, "10.96.0.10:81", "unused"),
            (LOCAL_POD, "203.0.113.10:81", "unused"),
            (LOCAL_POD, "10.97.0.1:80", "untouched"),
            // The node's own.
            (LOCAL_POD, "172.18.0.2:80", "untouched"),
        ],
    );
}

#[test]
fn s4_node_ports_are_on_the_addresses_that_are_meant() {
    let only = |texts| NodePolicy { node_ports: NodePortAddresses::In(networks(texts)), ..node() };
    let other = "10.244.1.1:30080";
    check(node(), web(), &[(CLIENT, other, BOTH_MASQUERADED), (HERE, "127.0.0.1:30080", "untouched")]);
    check(
        only(&["172.18.0.0/16"]),
        web(),
        &[(CLIENT, NODE_PORT, BOTH_MASQUERADED), (CLIENT, other, "untouched")],
    );
    check(only(&[]), web(), &[(CLIENT, NODE_PORT, "untouched"), (CLIENT, "203.0.113.10:30080", "unused")]);
}

#[test]
fn e10_verdicts_reject_and_drop() {
    let nothing =
        ServicePort { internal: Verdict::Reject, external: Verdict::Reject, cluster: [].into(), ..web() };
    check(
        node(),
        nothing,
        &[(LOCAL_POD, VIP, "reject"), (HERE, NODE_PORT, "reject"), (CLIENT, BALANCED, "reject")],
    );
    let internal_elsewhere = ServicePort { internal: Verdict::Drop, ..web() };
    check(node(), internal_elsewhere, &[(LOCAL_POD, VIP, "drop"), (CLIENT, NODE_PORT, BOTH_MASQUERADED)]);
}

#[test]
fn internal_local() {
    let port = ServicePort {
        internal: Verdict::Forward(Local),
        local: [endpoint("10.244.1.5", Locality::Local)].into(),
        ..web()
    };
    check(
        node(),
        port,
        &[
            (LOCAL_POD, VIP, LOCAL),
            (CLIENT, VIP, "to 10.244.1.5:8080 masqueraded"),
            (CLIENT, NODE_PORT, BOTH_MASQUERADED),
        ],
    );
}

#[test]
fn e7_e8_external_local_and_its_short_circuit() {
    check(
        node(),
        external_local(),
        &[
            (CLIENT, EXTERNAL, LOCAL),
            (CLIENT, BALANCED, LOCAL),
            (CLIENT, NODE_PORT, LOCAL),
            (LOCAL_POD, BALANCED, BOTH),
            (LOCAL_POD, NODE_PORT, BOTH),
            (HERE, BALANCED, BOTH_MASQUERADED),
            (HERE, NODE_PORT, BOTH_MASQUERADED),
            ("127.0.0.1", BALANCED, BOTH_MASQUERADED),
            (LOCAL_POD, VIP, BOTH),
        ],
    );
    let remote = "to 10.244.2.5:8080";
    check(
        node(),
        elsewhere_only(),
        &[
            (CLIENT, BALANCED, "drop"),
            (CLIENT, NODE_PORT, "drop"),
            (LOCAL_POD, BALANCED, remote),
            (HERE, NODE_PORT, "to 10.244.2.5:8080 masqueraded"),
        ],
    );
}

#[test]
fn without_detection_nothing_is_off_cluster_and_no_pod_is_short_circuited() {
    let blind = || NodePolicy { local_traffic: LocalTraffic::Undetected, ..node() };
    check(blind(), web(), &[(CLIENT, VIP, BOTH), (CLIENT, NODE_PORT, BOTH_MASQUERADED)]);
    check(blind(), external_local(), &[(LOCAL_POD, NODE_PORT, LOCAL), (HERE, NODE_PORT, BOTH_MASQUERADED)]);
}

#[test]
fn networks_of_the_other_family_detect_nothing() {
    let other = NodePolicy { local_traffic: LocalTraffic::Sources(networks(&["fd00:244::/32"])), ..node() };
    check(other, web(), &[(CLIENT, VIP, BOTH)]);
}

#[test]
fn interfaces_tell_pods_apart() {
    for (local_traffic, pod, other) in [
        (LocalTraffic::Interface("br0".into()), "br0", "br01"),
        (LocalTraffic::InterfacePrefix("veth".into()), "veth12ab", "eth0"),
    ] {
        let table = table(NodePolicy { local_traffic, ..node() }, external_local());
        assert_eq!(outcome_through(&table, CLIENT, Some(pod), NODE_PORT), BOTH);
        assert_eq!(outcome_through(&table, LOCAL_POD, Some(other), NODE_PORT), LOCAL);
        assert_eq!(outcome_through(&table, LOCAL_POD, Some(pod), VIP), BOTH);
        assert_eq!(outcome_through(&table, LOCAL_POD, Some(other), VIP), BOTH_MASQUERADED);
        assert_eq!(outcome_through(&table, HERE, None, VIP), BOTH_MASQUERADED);
    }
}

#[test]
fn masquerade_all_is_for_cluster_ips() {
    let all = NodePolicy { masquerade_all: true, ..node() };
    check(all, external_local(), &[(LOCAL_POD, VIP, BOTH_MASQUERADED), (CLIENT, NODE_PORT, LOCAL)]);
}

#[test]
fn e11_a_pod_that_reaches_itself_is_masqueraded() {
    let mixed = "to 10.244.2.5:8080 or to 10.244.1.5:8080 masqueraded";
    check(node(), web(), &[("10.244.1.5", VIP, mixed), ("10.244.1.5", NODE_PORT, BOTH_MASQUERADED)]);
    check(node(), external_local(), &[("10.244.1.5", BALANCED, mixed)]);
    // The connection of a pod elsewhere to itself does not come by here: what looks like it is another pod's.
    check(node(), web(), &[("10.244.2.5", VIP, BOTH)]);
    let unknown = ServicePort { cluster: [endpoint("10.244.2.5", Locality::Unknown)].into(), ..web() };
    check(node(), unknown, &[("10.244.2.5", VIP, "to 10.244.2.5:8080 masqueraded")]);
}

#[test]
fn s5_source_ranges_guard_the_load_balancers_address_alone() {
    let sources = Some(networks(&["172.18.0.0/24", "203.0.113.10/32"]).into());
    let port = || ServicePort { load_balancer_sources: sources.clone(), ..external_local() };
    check(
        node(),
        port(),
        &[
            (CLIENT, BALANCED, LOCAL),
            ("198.51.100.7", BALANCED, "drop"),
            (LOCAL_POD, BALANCED, "drop"),
            ("203.0.113.10", BALANCED, LOCAL),
            ("198.51.100.7", NODE_PORT, LOCAL),
            ("198.51.100.7", EXTERNAL, LOCAL),
        ],
    );
    let closed = ServicePort { load_balancer_sources: Some([].into()), ..web() };
    check(node(), closed, &[(CLIENT, BALANCED, "drop")]);
    let empty = ServicePort {
        internal: Verdict::Reject,
        external: Verdict::Reject,
        cluster: [].into(),
        local: [].into(),
        ..port()
    };
    check(node(), empty, &[("198.51.100.7", BALANCED, "reject")]);
}

#[test]
fn affinity_chooses_among_the_same_endpoints() {
    let affinity = Some(Affinity { timeout_seconds: NonZeroU32::MIN });
    check(node(), ServicePort { affinity, ..web() }, &[(LOCAL_POD, VIP, BOTH)]);
}

#[test]
fn draining_endpoints_get_nothing_new() {
    let draining = [endpoint("10.244.1.6", Locality::Local)].into();
    check(node(), ServicePort { draining, ..web() }, &[(LOCAL_POD, VIP, BOTH)]);
}
