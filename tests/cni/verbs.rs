//! Every verb, twice and in wrong order.

use std::fs;

use serde_json::{Value, json};

use super::rig::{Node, PLUGIN, Pod, ips, pings, run};

/// Row N10: DEL may come often, late, without ADD and without the namespace.
#[test]
fn n10_del_succeeds_whatever_is_there() {
    let node = Node::new();
    let pod = Pod::new("a");
    node.del(&pod).success();
    assert!(!node.path("state").exists(), "nothing was made to be deleted");
    let result = node.add(&pod).success();
    node.call("DEL", &pod, &node.with(json!({"prevResult": result}))).success();
    assert!(!pod.has_interface());
    node.assert_empty();
    node.del(&pod).success();
    node.call("DEL", &pod, &node.with(json!({"prevResult": result}))).success();

    node.add(&pod).success();
    let without = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")];
    node.run_plugin(PLUGIN, &without, &node.config).success();
    node.assert_empty();

    node.add(&pod).success();
    let path = pod.path();
    drop(pod);
    let gone =
        [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", &path)];
    node.run_plugin(PLUGIN, &gone, &node.config).success();
    node.assert_empty();
}

/// Row N10: the kernel frees a link long after DEL has answered, and the same names are wanted again.
#[test]
fn n10_a_container_is_attached_again_as_soon_as_it_is_detached() {
    let node = Node::new();
    let pod = Pod::new("a");
    for _ in 0..20 {
        let result = node.add(&pod).success();
        node.check(&pod, &result).success();
        assert!(pings(
            &node.namespace,
            result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32")
        ));
        node.del(&pod).success();
        node.assert_empty();
        assert!(!pod.has_interface());
    }
}

/// Row N10: an ADD that fails because there is such an interface takes nothing from the one that made it.
#[test]
fn n10_add_twice_fails_and_harms_nothing() {
    let node = Node::new();
    let pod = Pod::new("a");
    let result = node.add(&pod).success();
    let (code, message) = node.add(&pod).failure();
    assert!(code == 4 && message.contains("CNI_IFNAME=eth0"), "{message}");
    node.check(&pod, &result).success();
    assert!(pings(&pod.namespace, super::rig::NODE[0]));
    node.del(&pod).success();
    node.assert_empty();
    let second = node.add(&pod).success();
    assert_ne!(ips(&second), ips(&result), "an address rests after its release");
}

#[test]
fn n10_an_interface_of_somebody_else_is_an_error_and_stays() {
    let node = Node::new();
    let pod = Pod::new("a");
    run(&pod.namespace, "ip link add eth0 type veth peer name another");
    assert_eq!(node.add(&pod).failure().0, 4);
    node.assert_empty();
    assert!(pod.has_interface());
}

/// Row N7: whatever fails, ADD leaves nothing.
#[test]
fn n7_an_add_that_fails_half_way_takes_everything_back() {
    let node = Node::new();
    let pod = Pod::new("a");
    // The pod has the gateway's route already, and one of the node's is in the way.
    for (namespace, line) in [
        (&pod.namespace, "ip address add 169.254.1.1/32 dev lo"),
        (&node.namespace, "ip address add 10.244.1.1/32 dev lo"),
    ] {
        run(namespace, line);
    }
    let result = node.add(&pod).success();
    assert_eq!(ips(&result)[0], "10.244.1.2", "an address that the node has is not a pod's");
    node.del(&pod).success();
    run(&pod.namespace, "ip link add other type veth peer name another");
    run(&pod.namespace, "ip link set other up");
    run(&pod.namespace, "ip route add 169.254.1.1/32 dev other");
    let (code, message) = node.add(&pod).failure();
    assert!(code == 100 && message.contains("route to 169.254.1.1/32"), "{message}");
    assert!(!pod.has_interface());
    node.assert_empty();
}

#[test]
fn check_tells_what_differs() {
    let node = Node::new();
    let pod = Pod::new("a");
    let attach = || {
        node.del(&pod).success();
        let result = node.add(&pod).success();
        node.check(&pod, &result).success();
        result
    };
    let node_end = pod.node_end();
    let damages: Vec<(bool, String, &str)> = vec![
        (false, "ip link set eth0 down".into(), "eth0 is down"),
        (false, "ip address del 10.244.1.0/32 dev eth0".into(), "has not the address"),
        (false, "ip route del default".into(), "no route to 0.0.0.0/0"),
        (false, "ip -6 route del default".into(), "no route to ::/0"),
        (false, "ip link set eth0 address 02:00:00:00:00:01".into(), "hardware address 02:00:00:00:00:01"),
        (false, "ip link set eth0 mtu 9000".into(), "MTU 9000, above 1500"),
        (false, "ip link del eth0".into(), "is missing"),
        (true, format!("ip link set {node_end} down"), "is down"),
        (true, "ip route del 10.244.1.0 proto 103".into(), "no route to"),
    ];
    for (at_node, line, complaint) in damages {
        let result = attach();
        let line = line.replace("10.244.1.0", &ips(&result)[0]);
        run(if at_node { &node.namespace } else { &pod.namespace }, &line);
        let (code, message) = node.check(&pod, &result).failure();
        assert!(code == 104 && message.contains(complaint), "{line}: {code} {message}");
    }
    let result = attach();
    let journal = fs::read_to_string(node.journal()).unwrap();
    fs::write(node.journal(), journal.lines().next().unwrap().to_owned() + "\n").unwrap();
    assert!(node.check(&pod, &result).failure().1.contains("holds no addresses"));
    assert_eq!(node.call("CHECK", &pod, &node.config).failure().0, 7, "without prevResult");
}

/// What later plugins of the chain may do is none of CHECK's business.
#[test]
fn check_bears_with_what_was_added() {
    let node = Node::new();
    let pod = Pod::new("a");
    let mut result = node.add(&pod).success();
    run(&pod.namespace, "ip address add 198.51.100.7/32 dev eth0");
    run(&pod.namespace, "ip route add 198.51.100.0/24 dev eth0");
    node.check(&pod, &result).success();
    result["ips"].as_array_mut().unwrap().push(json!({"address": "198.51.100.7/32", "interface": 1}));
    node.check(&pod, &result).success();
}

#[test]
fn status_and_add_follow_the_state_that_the_daemon_tells() {
    let mut node = Node::new();
    let path = node.path("node.json");
    node.config["stateFile"] = json!(path);
    let pod = Pod::new("a");
    let tell = |cidrs: &[&str], condition: &str| {
        let state = json!({"version": 1, "podCIDRs": cidrs, "condition": condition, "reason": "node b"});
        fs::write(&path, state.to_string()).unwrap();
    };
    assert_eq!((node.status().failure().0, node.add(&pod).failure().0), (50, 11), "no state yet");
    tell(&super::rig::DUAL, "starting");
    assert_eq!((node.status().failure().0, node.add(&pod).failure().0), (50, 11));
    tell(&["10.244.2.0/24"], "ready");
    assert_eq!((node.status().failure().0, node.add(&pod).failure().0), (50, 7), "of another node");
    node.assert_empty();
    tell(&super::rig::DUAL, "limited");
    let (code, message) = node.status().failure();
    assert!(code == 51 && message.contains("node b"), "{message}");
    node.add(&pod).success();
    tell(&super::rig::DUAL, "ready");
    assert_eq!(node.status().success(), Value::Null);
    fs::remove_file(&path).unwrap();
    node.del(&pod).success();
    node.assert_empty();
}

/// Row N13: a range that other nodes have too.
#[test]
fn n13_ranges_that_are_not_the_nodes_attach_nothing() {
    let mut node = Node::with_ranges(&["10.244.0.0/16"]);
    let path = node.path("node.json");
    node.config["stateFile"] = json!(path);
    let state = json!({"version": 1, "podCIDRs": ["10.244.1.0/24"], "condition": "ready"});
    fs::write(&path, state.to_string()).unwrap();
    let (code, message) = node.add(&Pod::new("a")).failure();
    assert!(code == 7 && message.contains("10.244.0.0/16"), "{message}");
    node.assert_empty();
}

#[test]
fn gc_removes_what_is_not_valid_and_nothing_else() {
    let node = Node::new();
    let (a, b, c) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
    let (_, of_b) = (node.add(&a).success(), node.add(&b).success());
    node.add(&c).success();
    drop(c);
    node.gc(&[&b]).success();
    assert_eq!(node.holders(), ["b"]);
    assert_eq!(node.links(), [b.node_end()].into());
    assert!(!a.has_interface());
    node.check(&b, &of_b).success();
    node.gc(&[&b]).success();
    let missing = node.run_plugin(PLUGIN, &[("CNI_COMMAND", "GC")], &node.config);
    assert_eq!(missing.failure().0, 7, "no list is not an empty list");
    node.gc(&[]).success();
    node.assert_empty();
}

#[test]
fn the_pods_name_is_seen_at_the_node() {
    let node = Node::new();
    let pod = Pod::new("a");
    node.add(&pod).success();
    let shown = super::rig::read(&node.namespace, &format!("ip -json link show {}", pod.node_end()));
    assert_eq!(shown[0]["ifalias"], "default/web-a");
}
