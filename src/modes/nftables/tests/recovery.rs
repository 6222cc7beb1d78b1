//! What others do to the table, and what the kernel refuses.

use super::*;
use crate::kernel::nftables::Nftables as _;
use crate::kernel::nftables::table::Ownership;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::userdata::Comment;

fn served() -> (Bench, ServiceTable) {
    let mut port = service("web", &[cluster_ip(1), Frontend::NodePort(30080)]);
    port.affinity = sticky();
    Bench::with([port, service("other", &[cluster_ip(2)])])
}

#[test]
fn l5_what_others_take_away_comes_back_and_no_more_is_written() {
    type Meddling = fn(&mut Transaction);
    let meddlings: [(Meddling, usize); 7] = [
        (
            |others| {
                others.flush_chain(&"refuse".into());
            },
            6,
        ),
        (
            |others| {
                others.flush_set(&"cluster-ips".into());
            },
            2,
        ),
        (
            |others| {
                others.flush_set(&"cluster-2".into());
            },
            4,
        ),
        (
            |others| {
                others.flush_set(&"services".into());
            },
            2,
        ),
        (
            |others| {
                others.flush_chain(&"pick-cluster-random-2".into());
            },
            2,
        ),
        (
            |others| {
                let place = Value::address([10, 96, 0, 77].into());
                others.add_element(&"virtual-ips".into(), &Element::of_set(place));
            },
            1,
        ),
        (
            |others| {
                others.delete_table();
            },
            0,
        ),
    ];
    for (meddling, operations) in meddlings {
        let (mut bench, mut table) = served();
        let before = bench.state();
        bench.meddle(meddling);
        assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
        bench.mode.observe().unwrap();
        table.unsettle();
        let plan = bench.plan(&table);
        assert!(operations == 0 || plan.operations() == operations, "{operations}\n{plan}");
        bench.sync(&mut table);
        assert_eq!(bench.state(), before);
        assert_eq!(bench.mode.drift().unwrap(), Drift::None);
        bench.assert_nothing_to_do(&mut table);
    }
}

/// `nft add table ip ferrovia '{ flags dormant; }'`
#[test]
fn l5_a_table_that_somebody_made_dormant_is_woken_and_no_more() {
    let (mut bench, mut table) = served();
    let fall_dormant = |bench: &Bench| {
        bench.kernel.0.borrow_mut().table(&table_of_kernel(Family::V4)).fall_dormant();
        bench.told.disturbed.set(true);
    };
    fall_dormant(&bench);
    assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
    let text = bench.observe_and_sync(&mut table);
    assert_eq!(text, format!("add table ip ferrovia {{ comment \"{}\" ; }}\n", names::COMMENT));
    bench.assert_nothing_to_do(&mut table);
    fall_dormant(&bench);
    bench.meddle(|others| {
        others.delete_chain(&"postrouting".into());
    });
    let text = bench.observe_and_sync(&mut table);
    assert!(text.starts_with("delete table ip ferrovia\n"), "a kernel takes no chain while it wakes one");
    bench.assert_nothing_to_do(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
}

#[test]
fn an_audit_reads_again_only_what_is_not_accounted_for() {
    let (mut bench, mut table) = served();
    table.set(service("more", &[cluster_ip(3)]));
    bench.sync(&mut table);
    assert_eq!(bench.mode.audit().unwrap(), Drift::None, "own transactions");
    let mut others = Transaction::new(&Table::new(Family::V4, "others"));
    others.add_table(None);
    bench.kernel.0.borrow_mut().commit(&others).unwrap();
    bench.told.transactions.set(1);
    assert_eq!(bench.mode.audit().unwrap(), Drift::None, "another table, as was told");
    bench.meddle_silently(|others| {
        others.flush_set(&"services".into());
    });
    assert_eq!(bench.mode.audit().unwrap(), Drift::Suspected);
    bench.observe_and_sync(&mut table);
    assert_eq!(bench.mode.audit().unwrap(), Drift::None);
    assert_eq!(bench.state(), from_scratch(&table));
}

/// Nobody listens while a large load is written.
#[test]
fn l5_what_others_did_during_a_large_load_is_found_right_after_it() {
    let port = |at: u16| {
        let [high, low] = at.to_be_bytes();
        service(&format!("s{at}"), &[Frontend::ClusterIp([10, 97, high, low].into())])
    };
    for meddles in [false, true] {
        let (mut bench, mut table) = served();
        (0..2000).map(port).for_each(|port| table.set(port));
        bench.mode.observe().unwrap();
        table.unsettle();
        let mut parts = 0;
        loop {
            bench.mode.apply(bench.plan(&table)).unwrap();
            if !bench.mode.is_halfway() {
                break;
            }
            assert!(bench.told.is_paused.get());
            parts += 1;
            if meddles && parts == 1 {
                bench.meddle_silently(|others| {
                    others.flush_set(&"cluster-ips".into());
                });
            }
        }
        table.settle();
        assert!(parts > 0 && !bench.told.is_paused.get());
        let expected = if meddles { Drift::Suspected } else { Drift::None };
        assert_eq!(bench.mode.drift().unwrap(), expected);
        bench.observe_and_sync(&mut table);
        assert_eq!(bench.state(), from_scratch(&table));
        assert_eq!(bench.mode.drift().unwrap(), Drift::None);
        assert_eq!(bench.mode.audit().unwrap(), Drift::None);
    }
}

#[test]
fn what_nobody_needs_in_our_table_goes() {
    let (mut bench, mut table) = served();
    let before = bench.state();
    bench.meddle(|others| {
        others.add_chain(Chain::regular("stranger"));
    });
    bench.observe_and_sync(&mut table);
    bench.sweep(&mut table);
    assert_eq!(bench.state(), before);
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let comment = Some(Comment::new("mine"));
    for (ownership, comment) in [(Ownership::Everybody, comment), (Ownership::Socket, None)] {
        let kernel = Shared::default();
        let mut transaction = Transaction::new(&table_of_kernel(Family::V4));
        transaction.push(Operation::AddTable(ownership, comment));
        kernel.0.borrow_mut().commit(&transaction).unwrap();
        let (door, told) = (kernel.clone(), Box::new(Told::default()));
        let error = Nftables::new(Family::V4, door, told, Settings::default()).observe().unwrap_err();
        assert!(error.to_string().starts_with("table ip ferrovia "), "{error}");
        assert!(error.is_transient(), "it may be renamed");
    }
}

#[test]
fn y1_the_kernels_refusal_names_the_service() {
    let (mut bench, mut table) = served();
    bench.kernel.0.borrow_mut().refuse = Some("jhash".to_owned());
    table.set(ServicePort { scheduler: Scheduler::SourceHash, ..service("hashed", &[cluster_ip(9)]) });
    let before = bench.state();
    let error = bench.mode.apply(bench.plan(&table)).unwrap_err();
    assert_eq!(error.culprit(), Some(&name("hashed")));
    assert!(!error.is_transient());
    assert_eq!(bench.state(), before, "nothing was written");
}

/// What became of a part is known only when the next one has been made.
#[test]
fn y1_a_refusal_in_the_middle_of_a_large_load_names_the_service_and_costs_no_other() {
    let port = |at: u16| {
        let [high, low] = at.to_be_bytes();
        service(&format!("s{at}"), &[Frontend::ClusterIp([10, 97, high, low].into())])
    };
    let hashed = ServicePort { scheduler: Scheduler::SourceHash, ..service("hashed", &[cluster_ip(1)]) };
    let (mut bench, mut table) = Bench::with((0..3).map(port));
    bench.kernel.0.borrow_mut().refuse = Some("jhash".to_owned());
    (3..4000).map(port).chain([hashed]).for_each(|port| table.set(port));
    let mut parts = 0;
    let error = loop {
        parts += 1;
        match bench.mode.apply(bench.plan(&table)) {
            Ok(()) => assert!(bench.mode.is_halfway(), "it was refused"),
            Err(error) => break error,
        }
    };
    assert!(parts > 1, "it was written meanwhile");
    assert_eq!(error.culprit(), Some(&name("hashed")));
    table.remove(&name("hashed"));
    bench.observe_and_sync(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
    assert_eq!(bench.mode.audit().unwrap(), Drift::None);
}

#[test]
fn a_lost_answer_is_nobodys_fault() {
    let (mut bench, mut table) = served();
    table.set(service("new", &[cluster_ip(9)]));
    bench.kernel.0.borrow_mut().losses = 1;
    let error = bench.mode.apply(bench.plan(&table)).unwrap_err();
    assert!(error.is_transient() && error.culprit().is_none(), "{error}");
    bench.observe_and_sync(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
}

#[test]
fn cleanup_leaves_nothing() {
    let (mut bench, _) = served();
    bench.mode.cleanup().unwrap();
    assert!(bench.kernel.0.borrow().tables.is_empty());
    bench.mode.cleanup().unwrap();
}
