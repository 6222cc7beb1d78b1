//! After others' changes and refused plans.

use super::*;
use crate::kernel::iptables::Table;

fn settled() -> (Iptables<Fake>, ServiceTable) {
    let services = ["a", "b"].into_iter().zip(1..);
    let mut table = table_of(Family::V4, services.map(|(name, index)| service(name, &[cluster_ip(index)])));
    let mut mode = mode(Family::V4);
    mode.observe().unwrap();
    sync(&mut mode, &mut table);
    (mode, table)
}

fn assert_repaired(mut mode: Iptables<Fake>, mut table: ServiceTable) {
    let (wanted, _) = settled();
    assert_eq!(mode.drift().unwrap(), Drift::Suspected);
    mode.observe().unwrap();
    sync(&mut mode, &mut table);
    assert_eq!(mode.drift().unwrap(), Drift::None);
    assert_eq!(mode.rules.door.tables, wanted.rules.door.tables);
    assert_nothing_to_do(&mut mode, &mut table);
}

#[test]
fn own_writes_are_no_drift() {
    let (mut mode, _) = settled();
    assert_eq!(mode.drift().unwrap(), Drift::None);
}

#[test]
fn a_flush_is_repaired() {
    let (mut mode, table) = settled();
    let chains: Vec<_> = mode.rules.door.tables[&Table::Nat].keys().cloned().collect();
    for chain in chains {
        mode.rules.door.chain(Table::Nat, &chain).clear();
    }
    assert_repaired(mode, table);
}

#[test]
fn a_deleted_rule_is_repaired() {
    let (mut mode, table) = settled();
    let chain =
        mode.rules.door.tables[&Table::Nat].keys().find(|c| c.starts_with("FERRO-SVC")).unwrap().clone();
    mode.rules.door.chain(Table::Nat, &chain).pop();
    assert_repaired(mode, table);
}

#[test]
fn a_missing_jump_is_repaired() {
    let (mut mode, table) = settled();
    mode.rules.door.chain(Table::Filter, "FORWARD").remove(0);
    assert_repaired(mode, table);
}

#[test]
fn a_foreign_change_around_our_own_write_is_suspected() {
    let (mut mode, mut table) = settled();
    mode.rules.door.chain(Table::Nat, "PREROUTING").push("-j ACCEPT".to_owned());
    table.set(service("c", &[cluster_ip(3)]));
    sync(&mut mode, &mut table);
    assert_eq!(mode.drift().unwrap(), Drift::Suspected);
}

#[test]
fn a_refused_line_names_its_service_port() {
    let (mut mode, mut table) = settled();
    let mut bad = service("bad", &[cluster_ip(3)]);
    bad.cluster = [endpoint(address("10.1.1.1"), Locality::Remote)].into();
    table.set(bad);
    table.set(service("good", &[cluster_ip(4)]));
    for refused in ["10.1.1.1", "-d 10.96.0.3/32"] {
        mode.rules.door.refuse = Some(refused.to_owned());
        let error = mode.apply(mode.plan(&table, Instant::now())).unwrap_err();
        assert_eq!(error.culprit(), Some(&name("bad")), "{refused}");
        assert!(error.to_string().contains(refused), "{error}");
        mode.observe().unwrap();
    }
    mode.rules.door.refuse = None;
    table.remove(&name("bad"));
    sync(&mut mode, &mut table);
    assert!(mode.rules.door.input.contains("-d 10.96.0.4/32"), "{}", mode.rules.door.input);
}

#[test]
fn a_kernel_without_a_match_refuses_only_those_who_need_it() {
    let (mut mode, mut table) = settled();
    mode.rules.door.refuse_at_commit = Some("-m recent".to_owned());
    let affinity = Some(crate::model::Affinity { timeout_seconds: 60.try_into().unwrap() });
    for index in 10..30 {
        let affinity = affinity.filter(|_| index == 17);
        table.set(ServicePort { affinity, ..service(&format!("s{index}"), &[cluster_ip(index)]) });
    }
    let error = mode.apply(mode.plan(&table, Instant::now())).unwrap_err();
    assert_eq!(error.culprit(), Some(&name("s17")), "{error}");
    assert!(!mode.rules.door.tables[&Table::Nat].contains_key("FERRO-TRIAL"));
    table.remove(&name("s17"));
    mode.observe().unwrap();
    sync(&mut mode, &mut table);
    assert_nothing_to_do(&mut mode, &mut table);
}

#[test]
fn a_kernel_that_refuses_no_endpoint_accuses_nobody() {
    let (mut mode, mut table) = settled();
    mode.rules.door.refuse_at_commit = Some("-d 10.96.0.3/32".to_owned());
    table.set(service("c", &[cluster_ip(3)]));
    let error = mode.apply(mode.plan(&table, Instant::now())).unwrap_err();
    assert_eq!(error.culprit(), None, "{error}");
}

#[test]
fn cleanup_leaves_what_is_not_ours_and_may_be_repeated() {
    let (mut mode, _) = settled();
    mode.rules.door.chain(Table::Nat, "PREROUTING").push("-j ACCEPT".to_owned());
    let mut wanted = Fake::new(Family::V4);
    wanted.chain(Table::Nat, "PREROUTING").push("-j ACCEPT".to_owned());
    for _ in 0..2 {
        mode.cleanup().unwrap();
        assert_eq!(mode.rules.door.tables, wanted.tables);
    }
}

#[test]
fn cleanup_leaves_the_mark_chain_to_those_who_use_it() {
    let (mut mode, _) = settled();
    mode.rules.door.chain(Table::Nat, "POSTROUTING").push("-j KUBE-MARK-MASQ".to_owned());
    mode.cleanup().unwrap();
    assert!(mode.rules.door.tables[&Table::Nat].contains_key("KUBE-MARK-MASQ"));
}

#[test]
fn what_kube_proxy_left_goes_and_what_kubelet_has_stays() {
    let (mut mode, _) = settled();
    let ours = mode.rules.door.tables.clone();
    let left = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A KUBE-SERVICES -d 10.96.0.10/32 -j KUBE-SVC-ERIFXISQEP7F7OF4\nCOMMIT\n\
        *filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n-I FORWARD -j KUBE-FORWARD\n\
        -I INPUT -j KUBE-FIREWALL\nCOMMIT\n";
    mode.rules.door.restore(&left).unwrap();
    remove_kube_proxy(&mut mode.rules.door).unwrap();
    let mut wanted = ours;
    wanted.get_mut(&Table::Nat).unwrap().insert("KUBE-KUBELET-CANARY".into(), vec![]);
    let filter = wanted.get_mut(&Table::Filter).unwrap();
    filter.insert("KUBE-FIREWALL".into(), vec![]);
    filter.get_mut("INPUT").unwrap().insert(0, "-j KUBE-FIREWALL".into());
    assert_eq!(mode.rules.door.tables, wanted);
}
