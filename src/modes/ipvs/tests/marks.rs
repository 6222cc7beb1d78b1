//! The packet marks of ServicePorts that short-circuit.

use super::*;
use names::Set;

fn local(of: &str, index: u8) -> ServicePort {
    let outside = Frontend::ExternalIp(in_family(Family::V4, [192, 0, 2, index]));
    ServicePort { external: Verdict::Drop, ..service(of, &[cluster_ip(index), outside]) }
}

fn mark_of(bench: &Bench, of: &str) -> Option<u32> {
    bench.mode.held.marks.of(&name(of))
}

#[test]
fn marks_are_the_same_after_a_restart() {
    let (bench, mut table) = Bench::with((0..50).map(|index| local(&format!("s{index}"), index)));
    let before = bench.list(Set::ShortCircuit);
    let mut bench = bench.restart();
    assert_eq!(bench.observe_and_sync(&mut table), "");
    assert_eq!(bench.list(Set::ShortCircuit), before);
    table.set(local("new", 99));
    let text = bench.sync(&mut table);
    assert!(!text.lines().any(|line| line.starts_with("ipvsadm -D")), "{text}");
}

/// What an earlier version gave need not be what this one would choose.
#[test]
fn marks_that_an_earlier_process_gave_are_kept_whatever_they_are() {
    let (bench, mut table) = Bench::with([local("a", 1), local("b", 2)]);
    let (a, b) = (mark_of(&bench, "a").unwrap(), mark_of(&bench, "b").unwrap());
    for member in
        bench.kernel.get().sets.sets.get_mut(Set::ShortCircuit.name(Family::V4)).unwrap().members.values_mut()
    {
        *member = member.map(|mark| if mark == a { b } else { a });
    }
    let mut bench = bench.restart();
    bench.observe_and_sync(&mut table);
    assert_eq!((mark_of(&bench, "a"), mark_of(&bench, "b")), (Some(b), Some(a)));
    packets::assert_as_the_oracle_says(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn two_service_ports_never_share_a_mark_even_if_the_kernel_says_so() {
    let (bench, mut table) = Bench::with([local("a", 1), local("b", 2), local("c", 3)]);
    let first = mark_of(&bench, "a");
    for member in
        bench.kernel.get().sets.sets.get_mut(Set::ShortCircuit.name(Family::V4)).unwrap().members.values_mut()
    {
        *member = first;
    }
    let mut bench = bench.restart();
    bench.observe_and_sync(&mut table);
    let marks: std::collections::BTreeSet<_> = ["a", "b", "c"].map(|of| mark_of(&bench, of)).into();
    assert_eq!(marks.len(), 3);
    packets::assert_as_the_oracle_says(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn a_mark_that_is_taken_is_not_chosen_until_it_is_released() {
    let (mut bench, mut table) = Bench::with([]);
    let marks = bench.mode.settings.marks();
    let mark = marks.choose(&name("a"), |_| false);
    let taken = VirtualServer::Mark { family: Family::V4, mark: mark & 0xff_ffff };
    bench.foreign(taken, &[to("192.0.2.9:80")]);
    table.set(local("a", 1));
    bench.sync(&mut table);
    assert_eq!(mark_of(&bench, "a"), Some(mark));
    table.remove(&name("a"));
    bench.sync(&mut table);
    assert_eq!(mark_of(&bench, "a"), None);
    table.set(local("a", 1));
    bench.sync(&mut table);
    assert_eq!(mark_of(&bench, "a"), Some(mark), "released, so given again");
    assert!(bench.kernel.get().ipvs.entries.contains_key(&taken), "somebody else's");
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn a_flushed_set_changes_no_mark() {
    let (mut bench, mut table) = Bench::with([local("a", 1)]);
    let before = mark_of(&bench, "a");
    let server = VirtualServer::Mark { family: Family::V4, mark: before.unwrap() };
    bench.connect(server, to("10.244.1.5:8080"), 1);
    bench.kernel.get().sets.sets.get_mut(Set::ShortCircuit.name(Family::V4)).unwrap().members.clear();
    assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
    let text = bench.observe_and_sync(&mut table);
    assert_eq!((text.lines().count(), mark_of(&bench, "a")), (1, before), "{text}");
}

#[test]
fn no_mark_holds_the_masquerade_bit() {
    for masquerade_bit in 0..32 {
        let iptables = RuleSettings { masquerade_bit, ..RuleSettings::default() };
        let mut bench = Bench::on(Shared::new(Family::V4), Settings { iptables, ..Settings::default() });
        let mut table = table_of(Family::V4, (0..20).map(|index| local(&format!("s{index}"), index)));
        bench.sync(&mut table);
        let marks: Vec<_> = (0..20).filter_map(|index| mark_of(&bench, &format!("s{index}"))).collect();
        assert_eq!(marks.len(), 20);
        assert!(marks.iter().all(|mark| mark & 1 << masquerade_bit == 0), "bit {masquerade_bit}: {marks:x?}");
        bench.mode.cleanup().unwrap();
        assert_eq!(bench.kernel.get().ipvs.entries.len(), 0, "all are known to be ours again");
    }
}

/// Of a key where another's frontend wins, the mark is the other's.
#[test]
fn a_mark_at_a_contested_place_stays_its_owners_over_a_restart() {
    let mut ports = local("a", 1);
    ports.frontends = [cluster_ip(1), Frontend::NodePort(80)].into();
    let mut balancer = local("b", 2);
    balancer.frontends = [cluster_ip(2), Frontend::LoadBalancer(address("172.18.0.2"))].into();
    let (bench, mut table) = Bench::with([ports, balancer]);
    let mut bench = bench.restart();
    assert_eq!(bench.observe_and_sync(&mut table), "");
    packets::assert_as_the_oracle_says(&bench, &table);
}
