//! What becomes of packets.

use serde_json::{Value, json};

use super::rig::{CLIENT, NODE, Node, Pod, ips, pings, read, run};

#[test]
fn pods_nodes_and_others_reach_each_other_in_both_families() {
    let node = Node::new();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let of_a = ips(&node.add(&a).success());
    let of_b = ips(&node.add(&b).success());
    assert_eq!(
        (&of_a[..], &of_b[..]),
        (
            &["10.244.1.1".into(), "fd00:244:1::1".into()][..],
            &["10.244.1.2".into(), "fd00:244:1::2".into()][..]
        )
    );
    for family in 0..2 {
        assert!(pings(&a.namespace, &of_b[family]), "pod to pod");
        assert!(pings(&node.namespace, &of_a[family]), "node to pod");
        assert!(pings(&a.namespace, NODE[family]), "pod to node");
        assert!(pings(&a.namespace, CLIENT[family]), "pod to another");
        assert!(pings(&node.client, &of_b[family]), "another to pod");
    }
    assert!(pings(&a.namespace, "127.0.0.1"), "loopback is up");
}

/// Nobody asks for a hardware address, so nobody has to answer: the pod is deaf to ARP, and hears no neighbour solicitation.
#[test]
fn the_first_packet_waits_for_no_neighbour() {
    let node = Node::new();
    let pod = Pod::new("a");
    let addresses = ips(&node.add(&pod).success());
    run(&pod.namespace, "sysctl -q -w net.ipv4.conf.eth0.arp_ignore=8");
    for (address, family) in addresses.iter().zip([4, 6]) {
        assert!(pings(&node.namespace, address), "{address}");
        let entries = read(&pod.namespace, &format!("ip -json -{family} neighbour show dev eth0"));
        let permanent = json!(["PERMANENT"]);
        let is_known = |entry: &Value| entry["lladdr"] == "ee:ee:ee:ee:ee:ee" && entry["state"] == permanent;
        assert!(entries.iter().any(is_known), "{entries:?}");
    }
    let counters = run(&pod.namespace, "cat /proc/thread-self/net/snmp6");
    let solicited = counters.lines().find(|line| line.starts_with("Icmp6InNeighborSolicits")).unwrap();
    assert!(solicited.ends_with("\t0"), "{solicited}");
}

/// `proxy_arp` is nowhere needed.
#[test]
fn no_sysctl_of_the_node_is_touched() {
    let node = Node::new();
    let pod = Pod::new("a");
    node.add(&pod).success();
    for name in ["ipv4.conf.all.proxy_arp", "ipv4.conf.all.route_localnet"] {
        assert_eq!(run(&node.namespace, &format!("sysctl -n net.{name}")).trim(), "0");
    }
    let of_link = format!("net.ipv4.conf.{}", pod.node_end());
    for name in ["proxy_arp", "route_localnet"] {
        assert_eq!(run(&node.namespace, &format!("sysctl -n {of_link}.{name}")).trim(), "0");
    }
}

#[test]
fn a_pod_whose_hardware_address_changes_is_still_reached() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    let pod = Pod::new("a");
    let address = ips(&node.add(&pod).success()).remove(0);
    assert!(pings(&node.namespace, &address));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    run(&pod.namespace, "ip link set eth0 address 02:00:00:00:00:01");
    assert!(pings(&pod.namespace, NODE[0]), "the pod asks for the gateway, and the node learns");
    assert!(pings(&node.namespace, &address));
}

#[test]
fn the_mtu_is_that_of_the_configuration_at_both_ends() {
    let mut node = Node::new();
    node.config["mtu"] = json!(1400);
    let pod = Pod::new("a");
    let result = node.add(&pod).success();
    assert_eq!(read(&pod.namespace, "ip -json link show eth0")[0]["mtu"], 1400);
    let line = format!("ip -json link show {}", pod.node_end());
    assert_eq!(read(&node.namespace, &line)[0]["mtu"], 1400);
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    let fits = |size: &str| {
        let mut ping = pod.namespace.command("ping").unwrap();
        ping.args(["-c1", "-W2", "-M", "do", "-s", size, NODE[0]]).output().unwrap().status.success()
    };
    assert!(fits("1372"), "1372 bytes, 8 of ICMP, 20 of IP");
    assert!(!fits("1373"));
}

#[test]
fn a_pod_with_ipv6_disabled_gets_it_for_this_interface() {
    let node = Node::new();
    let pod = Pod::new("a");
    run(&pod.namespace, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1");
    run(&pod.namespace, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
    let addresses = ips(&node.add(&pod).success());
    assert!(pings(&node.namespace, &addresses[1]));
}

/// Another network was there first: the default route is its own.
#[test]
fn a_default_route_that_is_there_stays() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    let pod = Pod::new("a");
    run(&pod.namespace, "ip link add other type veth peer name another");
    run(&pod.namespace, "ip link set other up");
    run(&pod.namespace, "ip route add default dev other");
    let addresses = ips(&node.add(&pod).success());
    assert_eq!(read(&pod.namespace, "ip -json route show default")[0]["dev"], "other");
    assert_eq!(addresses, ["10.244.1.1"]);
}
