//! Bandwidth.

use serde_json::json;

use super::rig::{Node, Pod, ips, pings, read, run};

#[test]
fn each_direction_has_its_own_limit() {
    let node = Node::new();
    let pod = Pod::new("a");
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 320_000, "egressRate": 16_000_000, "egressBurst": 640_000});
    let config = node.with(json!({"runtimeConfig": {"bandwidth": limits}}));
    let result = node.call("ADD", &pod, &config).success();
    let to_pod = &read(&node.namespace, &format!("tc -json qdisc show dev {} root", pod.node_end()))[0];
    let from_pod = &read(&pod.namespace, "tc -json qdisc show dev eth0 root")[0];
    assert_eq!((&to_pod["kind"], &to_pod["options"]["rate"]), (&json!("tbf"), &json!(1_000_000)));
    assert_eq!((&from_pod["kind"], &from_pod["options"]["rate"]), (&json!("tbf"), &json!(2_000_000)));
    let text = run(&node.namespace, &format!("tc qdisc show dev {} root", pod.node_end()));
    assert!(text.contains("burst 40000b") && text.contains("lat 25ms"), "{text}");
    assert!(pings(&node.namespace, &ips(&result)[0]));
    let mut check = config.clone();
    check["prevResult"] = result;
    node.call("CHECK", &pod, &check).success();
    run(&pod.namespace, "tc qdisc del dev eth0 root");
    assert_eq!(node.call("CHECK", &pod, &check).failure().0, 104);
}
