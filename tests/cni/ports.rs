//! Ports of the node.

use serde_json::{Value, json};

use super::rig::{CLIENT, NODE, Node, Pod, ips, run};
use crate::common::echo;

fn mapped(node: &Node, mappings: Value) -> Value {
    node.with(json!({"runtimeConfig": {"portMappings": mappings}}))
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_in_both_families() {
    let node = Node::new();
    let (pod, other) = (Pod::new("a"), Pod::new("b"));
    node.add(&other).success();
    let config = mapped(&node, json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}]));
    let result = node.call("ADD", &pod, &config).success();
    let _servers = [echo::tcp(&pod.namespace, "0.0.0.0:80"), echo::tcp(&pod.namespace, "[::]:80")];
    for family in 0..2 {
        let target = at(NODE[family], 8080);
        let asked = |from| echo::ask_tcp(from, &target);
        assert_eq!(asked(&node.client).as_deref(), Some(CLIENT[family]), "{target}");
        assert!(asked(&other.namespace).is_some(), "from another pod to {target}");
        assert_eq!(asked(&node.namespace).as_deref(), Some(NODE[family]), "from the node to {target}");
        assert!(asked(&pod.namespace).is_some(), "from the pod itself to {target}");
    }
    let mut check = config.clone();
    check["prevResult"] = result;
    node.call("CHECK", &pod, &check).success();
    run(&node.namespace, "nft flush map ip ferrovia-host-ports ports");
    let (code, message) = node.call("CHECK", &pod, &check).failure();
    assert!(code == 104 && message.contains("tcp port 8080"), "{message}");
    node.call("DEL", &pod, &config).success();
    assert_eq!(echo::ask_tcp(&node.client, &at(NODE[0], 8080)), None);
    assert_eq!(echo::ask_tcp(&node.client, &at(NODE[1], 8080)), None);
}

#[test]
fn a_port_at_one_address_is_not_one_at_others() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    run(&node.namespace, "ip address add 192.0.2.2/24 dev uplink");
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let mapping = |address: &str| json!([{"hostPort": 80, "containerPort": 80, "hostIP": address}]);
    node.call("ADD", &a, &mapped(&node, mapping("192.0.2.1"))).success();
    node.call("ADD", &b, &mapped(&node, mapping("192.0.2.2"))).success();
    let _server = echo::tcp(&a.namespace, "0.0.0.0:80");
    assert!(echo::ask_tcp(&node.client, "192.0.2.1:80").is_some());
    assert_eq!(echo::ask_tcp(&node.client, "192.0.2.2:80"), None, "nobody listens in b");
    node.call("DEL", &b, &mapped(&node, mapping("192.0.2.2"))).success();
    assert!(echo::ask_tcp(&node.client, "192.0.2.1:80").is_some());
}

#[test]
fn a_port_that_a_pod_has_is_refused_and_one_of_a_dead_pod_taken_over() {
    let node = Node::new();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let config = mapped(&node, json!([{"hostPort": 53, "containerPort": 53, "protocol": "udp"}]));
    node.call("ADD", &a, &config).success();
    let (code, message) = node.call("ADD", &b, &config).failure();
    assert!(code == 102 && message.contains("udp port 53"), "{message}");
    assert!(!b.has_interface());
    assert_eq!(node.holders(), ["a"]);
    run(&node.namespace, &format!("ip link del {}", a.node_end()));
    node.call("ADD", &b, &config).success();
    node.call("DEL", &a, &config).success();
    let listed = run(&node.namespace, "nft list map ip ferrovia-host-ports ports");
    assert!(listed.contains(&b.node_end()) && !listed.contains(&a.node_end()), "{listed}");
    run(&node.namespace, &format!("ip link del {}", b.node_end()));
    node.gc(&[&b]).success();
    let listed = run(&node.namespace, "nft list table ip ferrovia-host-ports");
    assert!(!listed.contains(&b.node_end()), "{listed}");
}

/// A client that goes on sending has a flow that goes on, to whoever had the port.
#[test]
fn udp_clients_move_to_the_pod_that_has_the_port_now() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let config = mapped(&node, json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]));
    let client = echo::Datagrams::new(&node.client, &at(NODE[0], 5353));
    assert_eq!(client.ask(), None, "before anybody has the port");
    let of_a = ips(&node.call("ADD", &a, &config).success()).remove(0);
    let first = echo::udp(&a.namespace, &at(&of_a, 53));
    assert_eq!(client.ask(), Some(of_a), "the flow of before is forgotten");
    drop(first);
    node.call("DEL", &a, &config).success();
    let of_b = ips(&node.call("ADD", &b, &config).success()).remove(0);
    let _second = echo::udp(&b.namespace, &at(&of_b, 53));
    assert_eq!(client.ask(), Some(of_b));
}

/// Flows of others to the same number stay.
#[test]
fn udp_flows_to_other_hosts_stay() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    node.add(&b).success();
    // Connection tracking begins with the first rule that wants it.
    let config = mapped(&node, json!([{"hostPort": 53, "containerPort": 53, "protocol": "udp"}]));
    node.call("ADD", &a, &config).success();
    node.call("DEL", &a, &config).success();
    let _server = echo::udp(&node.client, &at(CLIENT[0], 53));
    let client = echo::Datagrams::new(&b.namespace, &at(CLIENT[0], 53));
    assert!(client.ask().is_some());
    let flows = || run(&node.namespace, "conntrack -L -p udp").lines().count();
    let before = flows();
    assert!(before > 0);
    node.call("ADD", &a, &config).success();
    node.call("DEL", &a, &config).success();
    assert_eq!(flows(), before);
}
