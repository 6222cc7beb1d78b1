//! What plans look like, how long they are, and that a second one is empty.

use super::*;
use crate::kernel::ipset::Element;
use crate::model::NodePortAddresses;
use names::Set;

#[test]
fn planning_again_changes_nothing() {
    for family in Family::ALL {
        let mut table = everything(family);
        let mut bench = Bench::new(family);
        bench.sync(&mut table);
        bench.assert_nothing_to_do(&mut table);
        assert_as_from_scratch(&bench, &table);
        for virtual_addresses in [VirtualAddressing::Routes, VirtualAddressing::Device] {
            let settings = Settings { virtual_addresses, ..Settings::default() };
            let mut bench = Bench::on(Shared::new(family), settings);
            bench.sync(&mut table);
            bench.assert_nothing_to_do(&mut table);
        }
    }
}

#[test]
fn render_is_what_an_empty_kernel_gets() {
    let mut table = everything(Family::V4);
    let mut bench = Bench::new(Family::V4);
    assert_eq!(render(&Settings::default(), &table), bench.sync(&mut table));
}

/// k8s#129389: a set cannot hold the network that everybody is in, two halves it can.
#[test]
fn everybody_is_two_halves_of_everybody() {
    for (family, halves) in [(Family::V4, ["0.0.0.0/1", "128.0.0.0/1"]), (Family::V6, ["::/1", "8000::/1"])] {
        let mut bench = Bench::new(family);
        bench.sync(&mut everything(family));
        let ranges = bench.list(Set::SourceRanges);
        assert!(halves.iter().all(|half| ranges.iter().any(|range| range.ends_with(half))), "{ranges:?}");
    }
}

fn thousand() -> ServiceTable {
    let ip = |index: u16| Frontend::ClusterIp([10, 96, (index >> 8) as u8, index as u8].into());
    table_of(Family::V4, (0..1000).map(|index| service(&format!("s{index}"), &[ip(index)])))
}

#[test]
fn an_endpoint_more_or_less_among_1000_services_is_at_most_3_messages() {
    let (mut bench, mut table) = (Bench::new(Family::V4), thousand());
    bench.sync(&mut table);
    let before = table.get(&name("s700")).unwrap().clone();
    let local = endpoint_in(Family::V4, 200, Locality::Local);
    for (more, messages) in [(endpoint(200), 1), (local, 2)] {
        let mut changed = ServicePort::clone(&before);
        changed.cluster = [&changed.cluster[..], &[more]].concat().into();
        table.set(changed);
        let plan = bench.plan(&table);
        assert_eq!((plan.operations(), plan.steps.len()), (messages, messages), "{plan}");
        assert_eq!(plan.owners.len(), 1);
        bench.kernel.start_counting();
        let calls = bench.kernel.get().calls;
        bench.sync(&mut table);
        assert_eq!(bench.kernel.get().calls - calls, messages);
        let written = bench.kernel.written();
        assert!(
            written.len() == messages && written.iter().all(|line| line.contains("10.244.1.200")),
            "{written:?}"
        );
        table.set(ServicePort::clone(&before));
        assert_eq!(bench.plan(&table).operations(), 1);
        bench.sync(&mut table);
        bench.wait(1);
        let after = bench.sync(&mut table);
        assert!(after.starts_with("ipvsadm -d -t 10.96.2.188:80 -r 10.244.1.200:8080\n"), "{after}");
        assert_eq!(after.lines().count(), messages);
    }
}

#[test]
fn a_service_more_among_1000_touches_only_its_own() {
    let (mut bench, mut table) = (Bench::new(Family::V4), thousand());
    bench.sync(&mut table);
    table.set(service("new", &[Frontend::ClusterIp([10, 96, 9, 9].into())]));
    let text = bench.sync(&mut table);
    assert!(text.lines().count() <= 8 && text.lines().all(|line| line.contains("10.96.9.9")), "{text}");
    table.remove(&name("new"));
    let text = bench.sync(&mut table);
    assert!(text.lines().count() <= 6 && text.lines().all(|line| line.contains("10.96.9.9")), "{text}");
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn what_guards_comes_first_and_goes_last() {
    let mut port = service(
        "web",
        &[
            cluster_ip(10),
            Frontend::ExternalIp(address("192.0.2.10")),
            Frontend::LoadBalancer(address("203.0.113.10")),
            Frontend::NodePort(30_080),
        ],
    );
    (port.external, port.local) = (LOCAL, [endpoint_in(Family::V4, 5, Locality::Local)].into());
    port.cluster = [endpoint_in(Family::V4, 5, Locality::Local), endpoint(6)].into();
    port.load_balancer_sources = Some(Arc::from(["198.51.100.0/24".parse().unwrap()]));
    let mut empty = service("empty", &[cluster_ip(11), Frontend::NodePort(30_081)]);
    (empty.internal, empty.external, empty.cluster) = (Verdict::Reject, Verdict::Reject, [].into());
    let mut sticky = service("sticky", &[cluster_ip(12), Frontend::NodePort(30_082)]);
    sticky.affinity = Some(crate::model::Affinity { timeout_seconds: 10_800.try_into().unwrap() });
    let mut elsewhere = service("elsewhere", &[cluster_ip(13)]);
    elsewhere.internal = Verdict::Drop;
    let mut table = table_of(Family::V4, [port, empty, sticky, elsewhere]);
    table.set_node(NodePolicy {
        node_ports: NodePortAddresses::In(vec!["172.18.0.0/16".parse().unwrap()]),
        ..node()
    });
    let web = ServiceName { namespace: "ns".into(), name: "web".into() };
    table.set_health_check(web.clone(), Some(HealthCheck { node_port: 32_000, local_endpoints: 1 }));
    let mut bench = Bench::new(Family::V4);
    let up = bench.sync(&mut table);
    for service in ["web", "empty", "sticky", "elsewhere"] {
        table.remove(&name(service));
    }
    table.set_health_check(web, None);
    let down = bench.sync(&mut table);
    insta::assert_snapshot!("everything_at_once", format!("{up}\n# All Services removed:\n\n{down}"));
    assert_as_from_scratch(&bench, &table);
}

/// A look at nothing but the changes would miss it, as no ServicePort changed.
#[test]
fn health_check_ports_come_and_go_by_themselves() {
    let (mut bench, mut table) = Bench::with([service("a", &[cluster_ip(1)])]);
    let of = ServiceName { namespace: "ns".into(), name: "a".into() };
    table.set_health_check(of.clone(), Some(HealthCheck { node_port: 32_000, local_endpoints: 1 }));
    assert_eq!(bench.sync(&mut table), "ipset add FERRO-4-HEALTH-CHECKS 32000\n");
    table.set_health_check(of.clone(), Some(HealthCheck { node_port: 32_000, local_endpoints: 2 }));
    assert_eq!(bench.sync(&mut table), "");
    table.set_health_check(of, None);
    assert_eq!(bench.sync(&mut table), "ipset del FERRO-4-HEALTH-CHECKS 32000\n");
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1), Frontend::NodePort(30_080)])]);
    let mut moved = node();
    moved.addresses.retain(|found| *found != address("172.19.0.2"));
    moved.addresses.push(address("172.20.0.2"));
    moved.addresses.sort();
    table.set_node(moved);
    let text = bench.sync(&mut table);
    assert!(
        text.contains("ipvsadm -A -t 172.20.0.2:30080") && text.contains("ipvsadm -D -t 172.19.0.2:30080"),
        "{text}"
    );
    assert!(!text.contains("10.96.0.1") && !text.contains("172.18.0.2"), "{text}");
    assert_as_from_scratch(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
}

/// An address of the node's own is no virtual address: nothing of the node's is refused there.
#[test]
fn an_address_that_the_node_has_gets_no_route_and_refuses_nothing_else() {
    let shared = Frontend::LoadBalancer(address("172.18.0.2"));
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1), shared])]);
    assert_eq!(bench.list(Set::VirtualIps), ["10.96.0.1"]);
    assert_eq!(bench.kernel.get().addresses.addresses.len(), 1);
    table.set_node(NodePolicy { addresses: vec![], ..node() });
    bench.sync(&mut table);
    assert_eq!(bench.list(Set::VirtualIps), ["10.96.0.1", "172.18.0.2"]);
    assert_as_from_scratch(&bench, &table);
}

/// The frontend of an address wins over NodePorts there, and leaves the place to them when it goes.
#[test]
fn where_an_address_meets_a_node_port_one_server_serves_one_of_them() {
    let mut node_port = service("ports", &[cluster_ip(1), Frontend::NodePort(80)]);
    node_port.cluster = [endpoint(7)].into();
    let balancer = service("balancer", &[cluster_ip(2), Frontend::LoadBalancer(address("172.18.0.2"))]);
    let (mut bench, mut table) = Bench::with([node_port]);
    let here = at("172.18.0.2:80");
    assert_eq!(bench.weights(here), Some(BTreeMap::from([(7, 1)])));
    table.set(balancer);
    bench.sync(&mut table);
    assert_eq!(bench.weights(here), Some(BTreeMap::from([(5, 1), (6, 1), (7, 0)])));
    assert_as_from_scratch(&bench, &table);
    table.remove(&name("balancer"));
    bench.sync(&mut table);
    assert_eq!(bench.weights(here), Some(BTreeMap::from([(5, 0), (6, 0), (7, 1)])));
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn a_change_of_scheduler_or_affinity_is_one_command_for_each_virtual_server() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1)])]);
    let mut changed = service("web", &[cluster_ip(1)]);
    changed.scheduler = Scheduler::Maglev;
    changed.hashing = crate::model::Hashing::usual(Scheduler::Maglev);
    table.set(changed.clone());
    assert_eq!(bench.sync(&mut table), "ipvsadm -E -t 10.96.0.1:80 -s mh -b mh-fallback,mh-port\n");
    changed.affinity = Some(crate::model::Affinity { timeout_seconds: 60.try_into().unwrap() });
    table.set(changed);
    assert_eq!(bench.sync(&mut table), "ipvsadm -E -t 10.96.0.1:80 -s mh -b mh-fallback,mh-port -p 60\n");
    bench.assert_nothing_to_do(&mut table);
}

/// k8s#89458: an endpoint may reach itself, also when several Services share it.
#[test]
fn a_hairpin_entry_stays_as_long_as_one_service_needs_it() {
    let local = endpoint_in(Family::V4, 5, Locality::Local);
    let port = |of, index| ServicePort { cluster: [local].into(), ..service(of, &[cluster_ip(index)]) };
    let (mut bench, mut table) = Bench::with([port("a", 1), port("b", 2)]);
    assert_eq!(bench.list(Set::Hairpin), ["10.244.1.5,10.244.1.5"]);
    table.remove(&name("a"));
    assert!(!bench.sync(&mut table).contains("HAIRPIN"));
    table.remove(&name("b"));
    assert!(bench.sync(&mut table).contains("ipset del FERRO-4-HAIRPIN 10.244.1.5,10.244.1.5"));
    assert!(!bench.mode.held.has(Set::Hairpin, &Element::Ip(address("10.244.1.5"))));
}

/// Ten of them for each of ten thousand Services would be held twice.
#[test]
fn destinations_are_the_endpoints_of_the_table_as_long_as_nothing_drains() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1), Frontend::NodePort(30_001)])]);
    let holders = |table: &ServiceTable| Arc::strong_count(table.get(&name("web")).unwrap());
    let in_table = Arc::strong_count(table_of(Family::V4, [service("web", &[])]).get(&name("web")).unwrap());
    assert!(holders(&table) >= in_table + 3, "each of three virtual servers has it");
    let old = Arc::downgrade(table.get(&name("web")).unwrap());
    let mut changed = service("web", &[cluster_ip(1), Frontend::NodePort(30_001)]);
    changed.draining = [endpoint(7)].into();
    table.set(changed);
    bench.sync(&mut table);
    assert!(
        old.upgrade().is_none(),
        "what is not in the table any more is let go, also where no destination changed"
    );
}
