//! What plans look like, how long they are, and how many rules a packet meets.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::*;
use crate::kernel::iptables::Table;
use crate::model::{Affinity, HealthCheck, LocalTraffic, NodePolicy, NodePortAddresses, ServiceName};

fn many(n: u32) -> ServiceTable {
    table_of(Family::V4, (0..n).map(|i| service(&format!("s{i}"), &[cluster_ip(i * 6)])))
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

#[test]
fn a_changed_endpoint_at_10000_services_writes_only_its_chain() {
    let mut table = many(10_000);
    let mut mode = mode(Family::V4);
    sync(&mut mode, &mut table);
    let mut changed = service("s5000", &[cluster_ip(30_000)]);
    changed.cluster = endpoints(3);
    table.set(changed);
    // *nat, the chain, three rules, COMMIT.
    assert_eq!(lines(&sync(&mut mode, &mut table)), 6);
}

#[test]
fn a_service_more_at_10000_services_writes_its_chain_and_a_leaf() {
    let mut table = many(10_000);
    let mut mode = mode(Family::V4);
    sync(&mut mode, &mut table);
    table.set(service("new", &[cluster_ip(30_001)]));
    let text = sync(&mut mode, &mut table);
    assert!(lines(&text) <= 4 + 2 + dispatch::LEAF + 1, "{text}");
}

#[test]
fn an_endpoint_more_among_5000_rewrites_its_group_and_the_weights_above() {
    let mut table = ServiceTable::new(Family::V4);
    let mut mode = mode(Family::V4);
    let large = |n| ServicePort { cluster: endpoints(n), ..service("large", &[cluster_ip(1)]) };
    table.set(large(5000));
    sync(&mut mode, &mut table);
    table.set(large(5001));
    let text = sync(&mut mode, &mut table);
    // Three levels: two of up to 16 groups, and the group.
    assert!(lines(&text) <= 3 + 2 + 16 + 16 + choose::GROUP, "{text}");
}

/// The probability with which each endpoint is chosen, from the rules.
fn chances(mode: &Iptables<Fake>, chain: &str, of: f64, found: &mut BTreeMap<String, f64>) {
    let mut left = of;
    for rule in &mode.rules.door.tables[&Table::Nat][chain] {
        let words: Vec<_> = rule.split(' ').collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        let part = after("--probability").map_or(1.0, |text| text.parse().unwrap());
        match (after("-g"), after("--to-destination")) {
            (Some(chain), _) => chances(mode, chain, left * part, found),
            (_, endpoint) => *found.entry(endpoint.unwrap().to_owned()).or_default() += left * part,
        }
        left *= 1.0 - part;
    }
}

fn assert_even(n: u32) {
    let port = ServicePort { cluster: endpoints(n), ..service("s", &[cluster_ip(1)]) };
    let chain = names::PortId::of(&port.name);
    let part = names::Part::Choose(TrafficPolicy::Cluster, choose::Step::Pick, choose::Group::ALL);
    let chain = names::ChainKey::Port(chain, part).name(Family::V4);
    let mut mode = mode(Family::V4);
    sync(&mut mode, &mut table_of(Family::V4, [port]));
    let mut found = BTreeMap::new();
    chances(&mode, chain.as_str(), 1.0, &mut found);
    assert_eq!(found.len(), n as usize);
    for (endpoint, chance) in found {
        // The kernel counts in units of 2^-31.
        assert!((chance * f64::from(n) - 1.0).abs() < 1e-4, "{endpoint}: {chance} of 1/{n}");
    }
}

/// k8s#56903: two flows that get the same port lose a packet, and DNS clients wait for 5 s.
#[test]
fn c8_masquerading_takes_random_ports_where_iptables_can() {
    let table = table_of(Family::V4, []);
    for (ports, rule) in [
        (MasqueradePorts::FullyRandom, "-j MASQUERADE --random-fully"),
        (MasqueradePorts::Hashed, "-j MASQUERADE"),
    ] {
        let text = render(&Settings { ports, ..Settings::default() }, &table);
        assert!(text.lines().any(|line| line == format!("-A FERRO-POSTROUTING {rule}")), "{text}");
    }
}

/// k8s#62638: what forwards and who may be forwarded change together, so that nothing is open in between.
#[test]
fn s5_ranges_come_with_their_service_in_one_commit() {
    let balancer = Frontend::LoadBalancer(address("198.51.100.1"));
    let mut mode = mode(Family::V4);
    let mut table = table_of(Family::V4, []);
    sync(&mut mode, &mut table);
    let ranges: Arc<[ipnet::IpNet]> = ["203.0.113.0/24".parse().unwrap()].into();
    let port = service("s", &[cluster_ip(1), balancer]);
    table.set(ServicePort { load_balancer_sources: Some(ranges), ..port });
    let text = sync(&mut mode, &mut table);
    let nat = text.split("*nat\n").nth(1).and_then(|rest| rest.split("COMMIT\n").next()).unwrap();
    assert!(nat.contains("-s 203.0.113.0/24") && nat.contains("-j DNAT"), "{text}");
    assert_eq!(text.matches("-j DNAT").count(), nat.matches("-j DNAT").count(), "{text}");
    assert_eq!(text.matches("*nat").count(), 1, "{text}");
}

/// With shares as exact as these, a chi-square test of 200,000 connections sees a deviation of a thousandth of its scale.
#[test]
fn y11_endpoints_are_chosen_evenly_however_many() {
    [1, 2, 3, 32, 33, 319, 320, 10_000].into_iter().for_each(assert_even);
}

/// Rules that a packet to an address and port meets in the nat table, and the chain where it ends.
fn walk(mode: &Iptables<Fake>, chain: &str, to: (IpAddr, u16), met: &mut usize) -> Option<String> {
    for rule in &mode.rules.door.tables[&Table::Nat][chain] {
        *met += 1;
        let words: Vec<_> = rule.split(' ').collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        let network = after("-d").is_none_or(|text| text.parse::<IpNet>().unwrap().contains(&to.0));
        let port = after("--dport").is_none_or(|text| {
            let (low, high) = text.split_once(':').unwrap_or((text, text));
            (low.parse().unwrap()..=high.parse().unwrap()).contains(&to.1)
        });
        let protocol = after("-p").is_none_or(|protocol| protocol == "tcp");
        if !(network && port && protocol) || rule.contains("addrtype") {
            continue;
        }
        let target = after("-j").or(after("-g")).unwrap();
        if target.starts_with("FERRO-SVC") {
            return Some(target.to_owned());
        }
        let ended = walk(mode, target, to, met);
        if ended.is_some() || after("-g").is_some() {
            return ended;
        }
    }
    None
}

#[test]
fn a_packet_meets_some_tens_of_rules_among_10000_services() {
    let mut mode = mode(Family::V4);
    sync(&mut mode, &mut many(10_000));
    let mut total = 0;
    for index in 0..10_000 {
        let mut met = 0;
        let address = cluster_ip(index * 6).address().unwrap();
        assert!(walk(&mode, "FERRO-SERVICES", (address, 80), &mut met).is_some());
        assert!(met < 90, "{address}: {met}");
        total += met;
    }
    assert!(total / 10_000 < 45, "{total}");
    let mut met = 0;
    assert_eq!(walk(&mode, "FERRO-SERVICES", (address("172.18.0.1"), 80), &mut met), None);
    assert!(met <= 3, "to an address that is no Service: {met}");
}

#[test]
fn one_address_with_many_ports_is_found_by_protocol_and_port() {
    let port = |i: u16| ServicePort { port: 1000 + 7 * i, ..service(&format!("s{i}"), &[cluster_ip(1)]) };
    let mut mode = mode(Family::V4);
    sync(&mut mode, &mut table_of(Family::V4, (0..1000).map(port)));
    let address = cluster_ip(1).address().unwrap();
    for i in 0..1000 {
        let mut met = 0;
        assert!(walk(&mode, "FERRO-SERVICES", (address, 1000 + 7 * i), &mut met).is_some());
        assert!(met < 100, "port {}: {met}", 1000 + 7 * i);
        assert_eq!(walk(&mode, "FERRO-SERVICES", (address, 1001 + 7 * i), &mut met), None);
    }
}

fn external_local() -> ServicePort {
    let mut port = service(
        "web",
        &[
            cluster_ip(10),
            Frontend::ExternalIp(address("192.0.2.10")),
            Frontend::LoadBalancer(address("203.0.113.10")),
            Frontend::NodePort(30_080),
        ],
    );
    port.external = Verdict::Forward(TrafficPolicy::Local);
    port.local = endpoints(1);
    port.load_balancer_sources =
        Some(Arc::from(["198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]));
    port
}

#[test]
fn everything_at_once() {
    let mut table = table_of(Family::V4, [external_local()]);
    table.set_node(NodePolicy {
        local_traffic: LocalTraffic::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
        node_ports: NodePortAddresses::In(vec!["172.18.0.0/16".parse().unwrap()]),
        ..NodePolicy::default()
    });
    let mut empty = service("empty", &[cluster_ip(11), Frontend::NodePort(30_081)]);
    (empty.internal, empty.external, empty.cluster) = (Verdict::Reject, Verdict::Reject, [].into());
    table.set(empty);
    let mut sticky = service("sticky", &[cluster_ip(12)]);
    sticky.affinity = Some(Affinity { timeout_seconds: 10_800.try_into().unwrap() });
    table.set(sticky);
    let service = ServiceName { namespace: "ns".into(), name: "web".into() };
    table.set_health_check(service, Some(HealthCheck { node_port: 32_000, local_endpoints: 1 }));
    insta::assert_snapshot!(render(&Settings::default(), &table));
}

#[test]
fn ipv6_with_pods_told_by_their_interface() {
    let mut table = ServiceTable::new(Family::V6);
    table.set_node(NodePolicy {
        local_traffic: LocalTraffic::InterfacePrefix("veth".into()),
        ..NodePolicy::default()
    });
    let mut port = service("web", &[Frontend::ClusterIp(address("fd00:96::10")), Frontend::NodePort(30_080)]);
    port.external = Verdict::Drop;
    port.scheduler = Scheduler::SourceHash;
    port.cluster =
        ["fd00:244:1::5", "fd00:244:2::5"].map(|text| endpoint(address(text), Locality::Unknown)).into();
    port.affinity = Some(Affinity { timeout_seconds: 60.try_into().unwrap() });
    table.set(port);
    let settings =
        Settings { masquerade_bit: 15, ports: MasqueradePorts::Hashed, invalid: InvalidPackets::Pass };
    insta::assert_snapshot!(render(&settings, &table));
}
