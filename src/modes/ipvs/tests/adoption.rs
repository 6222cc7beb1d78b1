//! Starting on a kernel that holds something already.

use super::*;
use names::Set;

const KEEPALIVED: &str = "192.0.2.77:443";

#[test]
fn i4_what_an_earlier_process_wrote_is_taken_over_without_a_command() {
    for family in Family::ALL {
        let mut table = everything(family);
        let mut bench = Bench::new(family);
        bench.sync(&mut table);
        let mut bench = bench.restart();
        bench.kernel.start_counting();
        assert_eq!(bench.sync(&mut table), "");
        assert_eq!(bench.kernel.written(), Vec::<String>::new());
        bench.assert_nothing_to_do(&mut table);
    }
}

#[test]
fn i4_what_an_earlier_process_wrote_and_nobody_wants_goes() {
    let mut bench = Bench::new(Family::V4);
    bench.sync(&mut everything(Family::V4));
    let mut bench = bench.restart();
    let mut table = table_of(Family::V4, [service("web", &[cluster_ip(1)])]);
    bench.sync(&mut table);
    assert_as_from_scratch(&bench, &table);
    assert_eq!(
        bench.kernel.get().ipvs.entries.len(),
        2,
        "that of the Service, and the one that leaves packets alone"
    );
}

#[test]
fn i4_virtual_servers_of_others_stay() {
    let mut bench = Bench::new(Family::V4);
    let others = [
        at(KEEPALIVED),
        at("172.18.0.2:8443"),
        VirtualServer::Mark { family: Family::V4, mark: 7 },
        VirtualServer::Mark { family: Family::V6, mark: 0x1000_0007 },
        at("[2001:db8::1]:80"),
    ];
    for server in others {
        let backend = if server.family() == Family::V4 { "192.0.2.9:80" } else { "[2001:db8::9]:80" };
        bench.foreign(server, &[to(backend)]);
    }
    let before = bench.kernel.get().ipvs.saved();
    let mut table = everything(Family::V4);
    bench.observe_and_sync(&mut table);
    bench.foreign(at(KEEPALIVED), &[to("192.0.2.10:80")]);
    assert_eq!(bench.mode.drift().unwrap(), Drift::None, "others' changes are no drift");
    let mut bench = bench.restart();
    bench.sync(&mut table_of(Family::V4, []));
    bench.mode.cleanup().unwrap();
    let after = bench.kernel.get().ipvs.saved();
    assert!(before.iter().all(|line| after.contains(line)), "{after:?}");
    assert_eq!(after.len(), before.len() + 1);
}

#[test]
fn i4_a_server_of_others_is_taken_over_where_a_service_has_to_be() {
    let mut bench = Bench::new(Family::V4);
    bench.foreign(at("10.96.0.1:80"), &[to("192.0.2.9:80"), to("10.244.1.5:8080")]);
    bench.connect(at("10.96.0.1:80"), to("192.0.2.9:80"), 1);
    let mut table = table_of(Family::V4, [service("web", &[cluster_ip(1)])]);
    let text = bench.observe_and_sync(&mut table);
    assert!(text.contains("-E -t 10.96.0.1:80 -s rr") && !text.contains("-D "), "{text}");
    assert_eq!(bench.weights(at("10.96.0.1:80")), Some(BTreeMap::from([(5, 1), (6, 1), (9, 0)])));
    bench.assert_nothing_to_do(&mut table);
    assert_as_from_scratch(&bench, &table);
}

/// kube-proxy's IPVS mode leaves its virtual servers and knows of no sets of ours.
#[test]
fn i4_kube_proxys_servers_of_services_that_exist_are_adopted() {
    let mut bench = Bench::new(Family::V4);
    let mut table = everything(Family::V4);
    bench.sync(&mut table);
    let servers = std::mem::take(&mut bench.kernel.get().ipvs.entries);
    let kernel = Shared::new(Family::V4);
    kernel.get().ipvs.entries =
        servers.into_iter().filter(|(at, _)| matches!(at, VirtualServer::Address { .. })).collect();
    let mut bench = Bench::on(kernel, Settings::default());
    let text = bench.sync(&mut table);
    let commands = text.lines().filter(|line| line.starts_with("ipvsadm ") && !line.contains(" -f "));
    assert_eq!(commands.collect::<Vec<_>>(), Vec::<&str>::new());
    assert_as_from_scratch(&bench, &table);
}

/// Where a Service has no endpoint, an earlier proxy's must not be left to go on.
#[test]
fn i4_stale_endpoints_of_an_earlier_proxy_go_where_a_service_has_none() {
    let mut bench = Bench::new(Family::V4);
    let server = VirtualServer::new(Protocol::Udp, to("10.96.0.1:80"));
    bench.foreign(server, &[to("10.244.1.9:8080")]);
    let mut port = service_of(name_of("dns", Protocol::Udp), &[cluster_ip(1)]);
    (port.cluster, port.internal, port.external) = ([].into(), Verdict::Reject, Verdict::Reject);
    let mut table = table_of(Family::V4, [port]);
    bench.observe_and_sync(&mut table);
    assert_eq!(bench.weights(server), None);
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn i4_excluded_servers_stay_though_they_look_like_ours() {
    let exclude = vec!["192.0.2.0/24".parse().unwrap()];
    let settings = Settings { exclude, ..Settings::default() };
    let mut bench = Bench::on(Shared::new(Family::V4), settings);
    let outside = |index| Frontend::ExternalIp(in_family(Family::V4, [192, 0, 2, index]));
    let mut table = table_of(Family::V4, [service("web", &[cluster_ip(1), outside(1)])]);
    bench.sync(&mut table);
    bench.foreign(at("192.0.2.1:443"), &[to("192.0.2.9:80")]);
    let text = bench.observe_and_sync(&mut table);
    assert_eq!(text, "", "it stands at a virtual address of ours, but is excluded");
    table.remove(&name("web"));
    bench.sync(&mut table);
    assert_eq!(bench.weights(at("192.0.2.1:443")), Some(BTreeMap::from([(9, 1)])));
    assert_eq!(bench.weights(at("10.96.0.1:80")), None);
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn a_server_nobody_wants_at_a_virtual_address_of_ours_goes() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1)])]);
    bench.foreign(at("10.96.0.1:443"), &[to("192.0.2.9:80")]);
    assert_eq!(bench.observe_and_sync(&mut table), "ipvsadm -D -t 10.96.0.1:443\n");
}

/// k8s#129389: sets of 65,536 elements were full, and Services after that dead.
#[test]
fn y12_a_set_that_is_too_small_is_replaced_with_its_members_kept() {
    let (bench, mut table) =
        Bench::with((0..9).map(|index| service(&format!("s{index}"), &[cluster_ip(index)])));
    for set in bench.kernel.get().sets.sets.values_mut() {
        set.definition.max_elements = 10;
    }
    let mut bench = bench.restart();
    (9..40).for_each(|index| table.set(service(&format!("s{index}"), &[cluster_ip(index)])));
    let served = bench.list(Set::Served);
    let text = bench.sync(&mut table);
    assert!(text.contains("FERRO-4-SERVED hash:ip,port family inet maxelem 4194304 # replaces"), "{text}");
    assert!(!text.contains("flush") && !text.contains("del FERRO-4-SERVED"), "{text}");
    assert!(served.iter().all(|member| bench.list(Set::Served).contains(member)));
    assert_as_from_scratch(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
    let left: Vec<_> =
        bench.kernel.get().sets.sets.keys().filter(|name| name.ends_with('~')).cloned().collect();
    assert_eq!(left, []);
}

#[test]
fn cleanup_removes_all_of_one_family_and_may_be_repeated() {
    let shared = Shared::new(Family::V4);
    let mut v4 = Bench::on(shared.clone(), Settings::default());
    v4.sync(&mut everything(Family::V4));
    let name: Box<str> = "FERRO-6-SERVED".into();
    use crate::kernel::ipset::Sets as _;
    shared.get().sets.create(&Set::Served.definition(Family::V6)).unwrap();
    for _ in 0..2 {
        v4.mode.cleanup().unwrap();
        let kernel = shared.get();
        assert_eq!(kernel.ipvs.saved(), Vec::<String>::new());
        assert_eq!(kernel.sets.sets.keys().collect::<Vec<_>>(), [&name]);
        assert_eq!(kernel.addresses.addresses, BTreeMap::new());
        assert_eq!(kernel.rules.tables, Shared::new(Family::V4).get().rules.tables);
    }
}

/// They translate packets before IPVS sees them.
#[test]
fn chains_of_kube_proxys_iptables_mode_go_once_ours_are_there() {
    use crate::kernel::iptables::Door as _;
    let mut bench = Bench::new(Family::V4);
    let left = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n";
    bench.kernel.get().rules.restore(&left).unwrap();
    let mut table = table_of(Family::V4, [service("web", &[cluster_ip(1)])]);
    bench.observe_and_sync(&mut table);
    bench.mode.retire_predecessors(bench.now).unwrap();
    let chains: Vec<_> =
        bench.kernel.get().rules.tables[&crate::kernel::iptables::Table::Nat].keys().cloned().collect();
    assert!(!chains.iter().any(|chain| chain == "KUBE-SERVICES"), "{chains:?}");
    assert!(chains.iter().any(|chain| chain == "KUBE-KUBELET-CANARY"), "{chains:?}");
    bench.observe_and_sync(&mut table);
    bench.assert_nothing_to_do(&mut table);
}
