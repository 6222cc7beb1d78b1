//! Disks that take nothing.

use serde_json::json;

use super::rig::{Node, Pod, run};

const DIRECTORY: &str = "/run/state";

/// With its state on a small disk of its own, which only the node's mount namespace has.
fn node() -> Node {
    let mut node = Node::with_ranges(&["10.244.1.0/29"]);
    run(&node.namespace, &format!("mkdir {DIRECTORY}"));
    run(&node.namespace, &format!("mount -t tmpfs -o size=64k tmpfs {DIRECTORY}"));
    node.config["dataDir"] = json!(DIRECTORY);
    node
}

fn journal(node: &Node) -> String {
    run(&node.namespace, &format!("cat {DIRECTORY}/pods/journal"))
}

/// Row N12: a disk without room. The journal of this test fills its last page before the disk is full.
#[test]
fn n12_a_full_disk_fails_add_cleanly_and_del_works() {
    let node = node();
    let pod = Pod::new("a");
    node.add(&pod).success();
    let name = "c".repeat(4000 - journal(&node).len() - 90);
    let long = Pod::new(&name);
    node.add(&long).success();
    let fill = format!("dd if=/dev/zero of={DIRECTORY}/fill bs=4k count=64");
    let mut words = fill.split(' ');
    let _ = node.namespace.command(words.next().unwrap()).unwrap().args(words).output().unwrap();
    let before = journal(&node);
    let other = Pod::new(&"d".repeat(200));
    let (code, message) = node.add(&other).failure();
    assert!(code == 5 && message.contains("No space left"), "{message}");
    assert!(!other.has_interface());
    assert_eq!(journal(&node), before, "nothing half written");
    assert_eq!(node.links().len(), 2);
    node.del(&other).success();
    node.del(&long).success();
    node.del(&pod).success();
    assert_eq!((node.links().len(), node.routes().len()), (0, 0));
    assert!(!journal(&node).contains(" ---------- "), "the addresses are free: {}", journal(&node));
}

/// Row N12: a disk that became read-only. A pod can end, and its address comes back when the disk does.
#[test]
fn n12_a_read_only_disk_fails_add_cleanly_and_del_works() {
    let node = node();
    let pod = Pod::new("a");
    node.add(&pod).success();
    run(&node.namespace, &format!("mount -o remount,ro {DIRECTORY}"));
    let other = Pod::new("b");
    let (code, message) = node.add(&other).failure();
    assert!(code == 5 && message.contains("Read-only"), "{message}");
    assert!(!other.has_interface());
    node.del(&other).success();
    let answer = node.del(&pod);
    assert!(answer.ok && answer.stderr.contains("Read-only"), "{answer:?}");
    assert_eq!((node.links().len(), node.routes().len()), (0, 0));
    assert_eq!(node.gc(&[]).failure().0, 5, "GC says what it could not do");
    run(&node.namespace, &format!("mount -o remount,rw {DIRECTORY}"));
    node.gc(&[]).success();
    assert!(!journal(&node).contains(" ---------- "));
}
