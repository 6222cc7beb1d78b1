//! After refused plans and others' changes.

use super::*;
use crate::kernel::iptables::Table;
use names::Set;

fn external(of: &str, index: u8) -> ServicePort {
    let outside = Frontend::ExternalIp(in_family(Family::V4, [192, 0, 2, index]));
    let node_port = Frontend::NodePort(30_000 + u16::from(index));
    service(of, &[cluster_ip(index), outside, node_port])
}

fn settled() -> (Bench, ServiceTable) {
    Bench::with([external("a", 1), external("b", 2)])
}

fn refused(bench: &mut Bench, table: &ServiceTable) -> Error {
    let error = bench.mode.apply(bench.plan(table)).unwrap_err();
    bench.mode.observe().unwrap();
    error
}

#[test]
fn a_refused_command_names_its_service_port() {
    for command in ["-A -t 10.96.0.3:80 -s rr", "-a -t 172.18.0.2:30003 -r 10.244.1.9:8080 -m -w 1"] {
        let (mut bench, mut table) = settled();
        table.set(ServicePort { cluster: [endpoint(9)].into(), ..external("bad", 3) });
        table.set(external("good", 4));
        bench.kernel.get().ipvs.refuse = [(command.to_owned(), libc::EINVAL)].into();
        let error = refused(&mut bench, &table);
        assert_eq!((error.culprit(), error.is_transient()), (Some(&name("bad")), false), "{error}");
        assert!(error.to_string().contains(command), "{error}");
        table.remove(&name("bad"));
        bench.observe_and_sync(&mut table);
        assert_as_from_scratch(&bench, &table);
    }
}

#[test]
fn a_scheduler_that_the_kernel_lacks_is_its_service_ports_fault() {
    let (mut bench, mut table) = settled();
    bench.kernel.get().ipvs.schedulers.remove("twos");
    table.set(ServicePort { scheduler: Scheduler::PowerOfTwo, ..external("c", 3) });
    let error = refused(&mut bench, &table);
    assert_eq!((error.culprit(), error.is_transient()), (Some(&name("c")), false), "{error}");
    assert!(error.to_string().contains("the kernel has no scheduler twos"), "{error}");
}

#[test]
fn i8_what_is_about_the_node_is_nobodys_fault() {
    for errno in [libc::EPERM, libc::ENOBUFS, libc::ENOMEM, libc::EBUSY] {
        let (mut bench, mut table) = settled();
        table.set(external("c", 3));
        bench.kernel.get().ipvs.fail_next = Some(errno);
        let error = refused(&mut bench, &table);
        assert_eq!((error.culprit(), error.is_transient()), (None, true), "{error}");
    }
}

#[test]
fn i8_a_busy_set_is_tried_again() {
    use crate::kernel::ipset::{Refusal, RefusedChange, SetError};
    let busy = RefusedChange { index: 0, change: String::new(), reason: Refusal::InUse };
    let error = Error::Apply { culprit: None, source: SetError::Refused { failures: vec![busy] }.into() };
    assert!(error.is_transient());
}

#[test]
fn y12_a_full_set_refuses_only_those_that_have_no_room() {
    let (mut bench, mut table) = settled();
    bench.kernel.get().sets.sets.get_mut(Set::Served.name(Family::V4)).unwrap().definition.max_elements = 8;
    table.set(service("c", &[cluster_ip(3)]));
    let error = bench.mode.apply(bench.plan(&table)).unwrap_err();
    assert_eq!((error.culprit(), error.is_transient()), (Some(&name("c")), false), "{error}");
    assert!(error.to_string().contains("the set is full"), "{error}");
    // By then it is known to be too small.
    bench.observe_and_sync(&mut table);
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn an_address_that_is_refused_names_one_of_its_service_ports() {
    let (mut bench, mut table) = settled();
    table.set(service("c", &[Frontend::ExternalIp(address("192.0.2.33"))]));
    for (errno, culprit) in [(libc::EINVAL, Some(name("c"))), (libc::ENOBUFS, None)] {
        bench.kernel.get().addresses.refuse = [(address("192.0.2.33"), errno)].into();
        let error = refused(&mut bench, &table);
        assert_eq!((error.culprit(), error.is_transient()), (culprit.as_ref(), culprit.is_none()), "{error}");
    }
}

/// From everything to something else, so that each door has much to add and to remove.
fn turn(family: Family) -> (Bench, ServiceTable) {
    let (mut bench, mut table) = (Bench::new(family), everything(family));
    bench.sync(&mut table);
    for gone in ["plain", "sticky", "rr"] {
        table.remove(&name(gone));
    }
    let ports: Vec<_> = table.ports().map(|port| ServicePort::clone(port)).collect();
    for (port, verdict) in ports.into_iter().zip([LOCAL, Verdict::Drop, CLUSTER].into_iter().cycle()) {
        let mut changed = port;
        changed.local = changed.cluster.iter().filter(|at| at.locality == Locality::Local).copied().collect();
        changed.external = if changed.cluster.is_empty() { Verdict::Reject } else { verdict };
        changed.frontends[1] =
            Frontend::ExternalIp(in_family(family, [192, 0, 3, changed.frontends.len() as u8]));
        changed.port += changed.name.service.len() as u16;
        table.set(changed);
    }
    table.set(service_of(name("late"), &[Frontend::NodePort(31_999)]));
    table.remove(&name("late"));
    (bench, table)
}

fn fails_at(bench: &mut Bench, call: usize, errno: i32) {
    let calls = bench.kernel.get().calls;
    bench.kernel.get().fail = Some((calls + call, errno));
}

#[test]
fn i6_y2_whatever_call_fails_nothing_is_lost() {
    for errno in [libc::EPERM, libc::ENOBUFS] {
        let mut failed = 0;
        for call in 1.. {
            let (mut bench, mut table) = turn(Family::V4);
            fails_at(&mut bench, call, errno);
            match bench.mode.apply(bench.plan(&table)) {
                Ok(()) => break,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
            failed += 1;
            bench.observe_and_sync(&mut table);
            assert_as_from_scratch(&bench, &table);
            packets::assert_as_the_oracle_says(&bench, &table);
            bench.assert_nothing_to_do(&mut table);
        }
        assert!(failed >= 6, "{failed} calls");
    }
}

/// The process dies half way, and what it was about to write is not wanted any more by the next.
#[test]
fn i6_y2_whatever_call_is_the_last_of_a_process_the_next_knows_what_is_ours() {
    for call in 1.. {
        let (mut bench, table) = turn(Family::V4);
        fails_at(&mut bench, call, libc::EPERM);
        if bench.mode.apply(bench.plan(&table)).is_ok() {
            break;
        }
        let mut bench = bench.restart();
        let mut nothing = table_of(Family::V4, []);
        bench.sync(&mut nothing);
        assert_as_from_scratch(&bench, &nothing);
        assert_eq!(bench.servers_of_services(), 0, "after call {call}");
    }
}

#[test]
fn y2_a_first_plan_that_fails_anywhere_is_completed_or_taken_back() {
    for call in 1.. {
        let (mut bench, mut table) = (Bench::new(Family::V4), everything(Family::V4));
        fails_at(&mut bench, call, libc::ENOBUFS);
        if bench.mode.apply(bench.plan(&table)).is_ok() {
            break;
        }
        bench.observe_and_sync(&mut table);
        assert_as_from_scratch(&bench, &table);
        let (mut bench, table) = (Bench::new(Family::V4), everything(Family::V4));
        fails_at(&mut bench, call, libc::ENOBUFS);
        bench.mode.apply(bench.plan(&table)).unwrap_err();
        let mut bench = bench.restart();
        bench.sync(&mut table_of(Family::V4, []));
        assert_eq!(bench.servers_of_services(), 0, "after call {call}");
    }
}

#[test]
fn y2_a_look_at_the_kernel_that_fails_anywhere_is_repeated() {
    for call in 1.. {
        let (mut bench, mut table) = settled();
        table.set(external("c", 3));
        fails_at(&mut bench, call, libc::ENOBUFS);
        match bench.mode.observe() {
            Ok(()) => break,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        bench.observe_and_sync(&mut table);
        assert_as_from_scratch(&bench, &table);
    }
}

/// Notices what somebody else did, and repairs it with these commands.
fn assert_repaired(change: impl FnOnce(&mut Bench), repair: &[&str]) {
    let (mut bench, mut table) = settled();
    change(&mut bench);
    assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
    let text = bench.observe_and_sync(&mut table);
    assert_eq!(text.lines().collect::<Vec<_>>(), repair);
    assert_as_from_scratch(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
}

fn with_server(bench: &Bench, change: impl FnOnce(&mut crate::kernel::ipvs::fake::Entry)) {
    change(bench.kernel.get().ipvs.entries.get_mut(&at("10.96.0.1:80")).unwrap());
}

#[test]
fn a_deleted_destination_is_repaired() {
    assert_repaired(
        |bench| {
            with_server(bench, |entry| {
                entry.destinations.remove(&to("10.244.1.5:8080"));
            })
        },
        &["ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1"],
    );
}

#[test]
fn a_changed_weight_is_repaired() {
    let zero = |bench: &mut Bench| {
        with_server(bench, |entry| entry.destinations.get_mut(&to("10.244.1.5:8080")).unwrap().0.weight = 0);
    };
    assert_repaired(zero, &["ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1"]);
}

#[test]
fn a_deleted_virtual_server_is_repaired() {
    assert_repaired(
        |bench| drop(bench.kernel.get().ipvs.entries.remove(&at("172.18.0.2:30001"))),
        &[
            "ipvsadm -A -t 172.18.0.2:30001 -s rr",
            "ipvsadm -a -t 172.18.0.2:30001 -r 10.244.1.5:8080 -m -w 1",
            "ipvsadm -a -t 172.18.0.2:30001 -r 10.244.1.6:8080 -m -w 1",
        ],
    );
}

#[test]
fn a_changed_scheduler_is_repaired() {
    let choose = |bench: &mut Bench| with_server(bench, |entry| entry.service.scheduler = "wlc".into());
    assert_repaired(choose, &["ipvsadm -E -t 10.96.0.1:80 -s rr"]);
}

/// A listing may be short of some: what changes in other namespaces shifts its place in a table that all share.
#[test]
fn a_virtual_server_that_is_not_listed_is_not_missed() {
    let (mut bench, _) = settled();
    bench.kernel.get().unlisted = Some(at("10.96.0.1:80"));
    assert_eq!(bench.mode.drift().unwrap(), Drift::None);
}

#[test]
fn the_node_is_held_to_its_settings_whenever_the_kernel_is_read() {
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Debug)]
    struct Counted(Rc<Cell<usize>>);

    impl NodeSettings for Counted {
        fn hold(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    let held = Rc::new(Cell::new(0));
    let kernel = Shared::new(Family::V4);
    let mode = Ipvs::new(kernel.clone(), kernel.doors(), Settings::default());
    let mut mode = mode.on_node(Box::new(Counted(Rc::clone(&held))));
    for times in 1..3 {
        mode.observe().unwrap();
        assert_eq!(held.get(), times);
    }
}

#[test]
fn a_deleted_member_is_repaired() {
    assert_repaired(
        |bench| {
            let mut kernel = bench.kernel.get();
            kernel.sets.sets.get_mut(Set::Served.name(Family::V4)).unwrap().members.pop_first();
        },
        &["ipset add FERRO-4-SERVED 10.96.0.1,tcp:80"],
    );
}

#[test]
fn a_flushed_chain_is_repaired() {
    assert_repaired(
        |bench| bench.kernel.get().rules.chain(Table::Nat, "FERRO-SERVICES").clear(),
        &[
            "*nat",
            ":FERRO-SERVICES - [0:0]",
            "-A FERRO-SERVICES -m set --match-set FERRO-4-MASQUERADE dst,dst -g KUBE-MARK-MASQ",
            "-A FERRO-SERVICES -m set --match-set FERRO-4-CLUSTER-IPS dst,dst -g FERRO-CLUSTER-IPS",
            "COMMIT",
        ],
    );
}

#[test]
fn a_removed_route_is_repaired() {
    assert_repaired(
        |bench| {
            let mut kernel = bench.kernel.get();
            kernel.addresses.addresses.remove(&address("10.96.0.1"));
            kernel.addresses.disturbed = true;
        },
        &["ip route add local 10.96.0.1/32 dev lo table local proto 102 src 172.18.0.2"],
    );
}

#[test]
fn a_flushed_ipvs_table_is_repaired() {
    let (mut bench, mut table) = settled();
    bench.kernel.get().ipvs.entries.clear();
    assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
    bench.observe_and_sync(&mut table);
    assert_as_from_scratch(&bench, &table);
}

/// A look takes 16 of them, so the whole round takes as many looks as there are sixteens.
#[test]
fn every_virtual_server_has_its_turn() {
    let (mut bench, _) =
        Bench::with((0..200).map(|index| service(&format!("s{index}"), &[cluster_ip(index)])));
    for server in (0..200).map(|index| at(&format!("10.96.0.{index}:80"))) {
        let gone = bench.kernel.get().ipvs.entries.get_mut(&server).unwrap().destinations.pop_last().unwrap();
        let suspected = (0..14).any(|_| bench.mode.drift().unwrap() == Drift::Suspected);
        assert!(suspected, "{server}");
        bench.kernel.get().ipvs.entries.get_mut(&server).unwrap().destinations.insert(gone.0, gone.1);
    }
}

/// One request for each virtual server would keep the loop from everything else for as long.
#[test]
fn an_audit_reads_no_destinations_that_have_their_turn_anyway() {
    let (mut bench, mut table) =
        Bench::with((0..200).map(|index| service(&format!("s{index}"), &[cluster_ip(index)])));
    let before = bench.kernel.get().calls;
    bench.assert_nothing_to_do(&mut table);
    let calls = bench.kernel.get().calls - before;
    assert!(calls < 40, "{calls} calls");

    table.set(service("new", &[cluster_ip(200)]));
    bench.kernel.get().ipvs.fail_next = Some(libc::ENOBUFS);
    refused(&mut bench, &table);
    let calls = bench.kernel.get().calls - before - calls;
    assert!(calls > 200, "after a plan that failed all are read: {calls} calls");
}

#[test]
fn own_writes_are_no_drift() {
    let (mut bench, mut table) = settled();
    for index in 3..30 {
        table.set(external(&format!("s{index}"), index));
        bench.sync(&mut table);
        assert_eq!(bench.mode.drift().unwrap(), Drift::None);
    }
}

/// Cloud agents add local routes to load balancer addresses themselves.
#[test]
fn an_occupied_address_is_no_failure_and_no_endless_repair() {
    let (mut bench, mut table) = settled();
    let taken = address("203.0.113.9");
    bench.kernel.get().addresses.occupied.insert(taken);
    table.set(service("c", &[cluster_ip(3), Frontend::LoadBalancer(taken)]));
    bench.sync(&mut table);
    assert_eq!(bench.weights(at("203.0.113.9:80")), Some(BTreeMap::from([(5, 1), (6, 1)])));
    bench.assert_nothing_to_do(&mut table);
    bench.assert_nothing_to_do(&mut table);
    // Nobody tells that it became free, but it is noticed at the next look at everything.
    bench.kernel.get().addresses.occupied.clear();
    bench.assert_nothing_to_do(&mut table);
    assert_as_from_scratch(&bench, &table);
    table.remove(&name("c"));
    bench.sync(&mut table);
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn an_occupied_address_is_forgotten_with_its_service() {
    let (mut bench, mut table) = settled();
    let taken = address("203.0.113.9");
    bench.kernel.get().addresses.occupied.insert(taken);
    table.set(service("c", &[Frontend::LoadBalancer(taken)]));
    bench.sync(&mut table);
    table.remove(&name("c"));
    bench.sync(&mut table);
    bench.kernel.get().addresses.occupied.clear();
    bench.assert_nothing_to_do(&mut table);
    assert_as_from_scratch(&bench, &table);
}
