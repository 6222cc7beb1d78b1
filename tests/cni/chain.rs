//! In a chain with Debian's plugins, as libcni runs one.

use serde_json::{Value, json};

use super::rig::{CLIENT, NODE, Node, PLUGIN, Pod, ips, pings, read, run, variables};
use crate::common::echo;

/// Debian's plugins are of version 1.0.0.
fn node(plugins: &[Value]) -> (Node, Vec<Value>) {
    let mut node = Node::new();
    node.config["cniVersion"] = json!("1.0.0");
    let mut chain = vec![node.config.clone()];
    for plugin in plugins {
        let mut config = plugin.clone();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("pods");
        chain.push(config);
    }
    (node, chain)
}

fn call(node: &Node, command: &str, pod: &Pod, config: &Value) -> Value {
    let kind = config["type"].as_str().unwrap();
    let program =
        if kind == "ferrovia-cni" { PLUGIN.into() } else { format!("{}/{kind}", super::rig::DEBIAN) };
    assert!(std::path::Path::new(&program).exists(), "install the package containernetworking-plugins");
    node.run_plugin(&program, &variables(command, pod), config).success()
}

fn with_previous(config: &Value, result: &Value) -> Value {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    config
}

fn add(node: &Node, pod: &Pod, chain: &[Value]) -> Value {
    let mut result = call(node, "ADD", pod, &chain[0]);
    for config in &chain[1..] {
        result = call(node, "ADD", pod, &with_previous(config, &result));
    }
    result
}

/// Without `portmap`, whose CHECK in Debian (1.1.1) looks for the rules of IPv4 in the chains of IPv6.
fn check(node: &Node, pod: &Pod, chain: &[Value], result: &Value) {
    let chain = chain.iter().filter(|config| config["type"] != "portmap");
    chain.for_each(|config| drop(call(node, "CHECK", pod, &with_previous(config, result))));
}

fn del(node: &Node, pod: &Pod, chain: &[Value], result: &Value) {
    chain.iter().rev().for_each(|config| drop(call(node, "DEL", pod, &with_previous(config, result))));
}

#[test]
fn debians_portmap_leads_to_our_pods() {
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let portmap = json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": mapping}});
    let (node, chain) = node(&[portmap]);
    let pod = Pod::new("a");
    let result = add(&node, &pod, &chain);
    check(&node, &pod, &chain, &result);
    let _server = echo::tcp(&pod.namespace, "0.0.0.0:80");
    let seen = echo::ask_tcp(&node.client, &format!("{}:8080", NODE[0]));
    assert_eq!(seen.as_deref(), Some(CLIENT[0]), "the pod sees who asks");
    del(&node, &pod, &chain, &result);
    assert_eq!(echo::ask_tcp(&node.client, &format!("{}:8080", NODE[0])), None);
    node.assert_empty();
}

#[test]
fn debians_bandwidth_limits_our_links() {
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    let (node, chain) = node(&[json!({"type": "bandwidth", "runtimeConfig": {"bandwidth": limits}})]);
    let pod = Pod::new("a");
    let result = add(&node, &pod, &chain);
    check(&node, &pod, &chain, &result);
    let queues = read(&node.namespace, &format!("tc -json qdisc show dev {}", pod.node_end()));
    assert!(queues.iter().any(|queue| queue["kind"] == "tbf"), "{queues:?}");
    assert!(pings(&node.namespace, &ips(&result)[0]));
    del(&node, &pod, &chain, &result);
    node.assert_empty();
}

/// `tuning` changes the hardware address of an interface that is in use.
#[test]
fn debians_tuning_changes_our_interfaces() {
    let mac = "02:00:00:00:00:07";
    let tuning = json!({
        "type": "tuning",
        "sysctl": {"net.core.somaxconn": "500"},
        "mtu": 1400,
        "runtimeConfig": {"mac": mac},
    });
    let (node, chain) = node(&[tuning]);
    let pod = Pod::new("a");
    let result = add(&node, &pod, &chain);
    assert_eq!(result["interfaces"][1]["mac"], mac);
    assert_eq!(run(&pod.namespace, "sysctl -n net.core.somaxconn").trim(), "500");
    check(&node, &pod, &chain, &result);
    for family in 0..2 {
        assert!(pings(&pod.namespace, CLIENT[family]), "pod to another");
        assert!(pings(&pod.namespace, NODE[family]), "pod to node");
    }
    del(&node, &pod, &chain, &result);
    node.assert_empty();
}

#[test]
fn all_of_them_in_one_chain() {
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let limits = json!({"ingressRate": 800_000_000, "ingressBurst": 8_000_000});
    let (node, chain) = node(&[
        json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": mapping}}),
        json!({"type": "bandwidth", "runtimeConfig": {"bandwidth": limits}}),
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
    ]);
    let pod = Pod::new("a");
    for _ in 0..2 {
        let result = add(&node, &pod, &chain);
        check(&node, &pod, &chain, &result);
        let _server = echo::tcp(&pod.namespace, "0.0.0.0:80");
        assert!(echo::ask_tcp(&node.client, &format!("{}:8080", NODE[0])).is_some());
        del(&node, &pod, &chain, &result);
        del(&node, &pod, &chain, &result);
        node.assert_empty();
    }
}
