//! Addresses, with the real file and many processes.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use super::rig::{Node, Pod, ips, run};

#[test]
fn a_hundred_adds_at_once_have_a_hundred_addresses() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..100).map(|number| Pod::new(&format!("c{number}"))).collect();
    let results: Vec<Vec<String>> = at_once(&pods, |pod| ips(&node.add(pod).success()));
    let distinct: BTreeSet<&String> = results.iter().flatten().collect();
    assert_eq!(distinct.len(), 200);
    assert_eq!((node.links().len(), node.routes().len(), node.holders().len()), (100, 200, 100));
    at_once(&pods, |pod| node.del(pod).success());
    node.assert_empty();
}

fn at_once<T: Send>(pods: &[Pod], work: impl Fn(&Pod) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| work(pod))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Row N11: told clearly, nothing half made, and over with the next DEL.
#[test]
fn n11_an_exhausted_pool_is_told_and_recovers() {
    let node = Node::with_ranges(&["10.244.1.0/30", "fd00:244:1::/64"]);
    let (a, b, c) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
    let first = node.add(&a).success();
    node.status().success();
    node.add(&b).success();
    let (code, message) = node.status().failure();
    assert!(code == 50 && message.contains("no IPv4 address is free"), "{message}");
    let (code, message) = node.add(&c).failure();
    assert!(code == 11 && message.contains("no IPv4 address is free"), "{message}");
    assert!(!c.has_interface());
    assert_eq!((node.links().len(), node.holders().len()), (2, 2));
    node.del(&a).success();
    node.status().success();
    assert_eq!(ips(&node.add(&c).success())[0], ips(&first)[0]);
}

/// Row N9: a DEL of a sandbox of before.
#[test]
fn n9_a_late_del_of_another_container_takes_nothing() {
    let node = Node::with_ranges(&["10.244.1.0/30"]);
    let (old, new) = (Pod::new("old"), Pod::new("new"));
    let before = node.add(&old).success();
    let other = Pod::new("other");
    node.add(&other).success();
    node.del(&old).success();
    let result = node.add(&new).success();
    assert_eq!(ips(&result), ips(&before), "the pool has no other");
    let late = node.with(serde_json::json!({"prevResult": before}));
    node.call("DEL", &old, &late).success();
    node.check(&new, &result).success();
}

/// Row N7: a boot ends all pods, and nobody calls DEL for each.
#[test]
fn n7_addresses_of_before_a_boot_are_free() {
    let node = Node::with_ranges(&["10.244.1.0/30"]);
    for id in ["a", "b"] {
        let pod = Pod::new(id);
        node.add(&pod).success();
        run(&node.namespace, &format!("ip link del {}", pod.node_end()));
    }
    assert_eq!(node.add(&Pod::new("c")).failure().0, 11);
    let journal = fs::read_to_string(node.journal()).unwrap();
    let (_, leases) = journal.split_once('\n').unwrap();
    fs::write(node.journal(), format!("ferrovia-ipam 1 another-boot\n{leases}")).unwrap();
    node.add(&Pod::new("c")).success();
    assert_eq!(node.holders(), ["c"]);
}

/// Row N8: half a record, as host-local's empty files, which no DEL could find.
#[test]
fn n8_half_a_record_is_no_lease() {
    let node = Node::with_ranges(&["10.244.1.0/30"]);
    let a = Pod::new("a");
    node.add(&a).success();
    let journal = fs::read_to_string(node.journal()).unwrap();
    let line = journal.lines().last().unwrap();
    fs::write(node.journal(), format!("{journal}{}", &line[..line.len() - 5])).unwrap();
    let b = Pod::new("b");
    assert_eq!(ips(&node.add(&b).success()), ["10.244.1.2"]);
    assert_eq!(node.holders(), ["a", "b"]);
    // Everything lost: the kernel's routes still tell which addresses are in use.
    fs::write(node.journal(), "").unwrap();
    let (code, message) = node.add(&Pod::new("c")).failure();
    assert!(code == 11, "{message}");
}
