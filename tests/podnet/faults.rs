//! Nodes that come, go and change; others that meddle with routes.

use ferrovia::kernel::routes::{KernelRoutes, Route, RouteChange, Routes};

use super::*;

fn nodes(numbers: &[(u8, u8)]) -> String {
    numbers.iter().map(|(node, created)| lab::manifest(*node, *created)).collect()
}

const TWO: &str = "10.244.2.0/24 via 172.18.0.12";
const THREE: &str = "10.244.3.0/24 via 172.18.0.13";

#[test]
fn n1_routes_of_nodes_that_left_while_nobody_looked_go_at_the_start() {
    let cluster = Cluster::without_proxies(3);
    cluster.run(1, "ip route add 10.244.9.0/24 via 172.18.0.19 proto 104 metric 1104");
    cluster.run(1, &format!("ip route add {TWO} proto 104 metric 1104"));
    cluster.run(1, "ip route add 10.250.0.0/16 via 172.18.0.19 proto static");
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2), (3, 3)])).unwrap();
    let cluster = cluster.start(&["--proxy-mode=nftables"]);
    cluster.expect_routes_soon(1, &[TWO, THREE]);
    assert!(cluster.run(1, "ip route show proto static").contains("10.250.0.0/16"), "n6: not ours");
}

#[test]
fn n3_a_node_joins_leaves_and_changes_its_address() {
    let cluster = Cluster::without_proxies(3);
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2)])).unwrap();
    cluster.mesh.write_on(3, "nodes.yaml", &nodes(&[(1, 1), (2, 2), (3, 3)])).unwrap();
    let cluster = cluster.start(&["--proxy-mode=nftables"]);
    cluster.expect_routes_soon(1, &[TWO]);
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2), (3, 3)])).unwrap();
    cluster.expect_routes_soon(1, &[TWO, THREE]);
    let (client, server) = (cluster.pod(1, 1, Family::V4), cluster.pod(3, 1, Family::V4));
    cluster.expect_seen_as(client, server, client);
    // Or the new address would go with the old one.
    cluster.run(3, "sysctl -q -w net.ipv4.conf.all.promote_secondaries=1");
    cluster.run(3, "ip address add 172.18.0.33/16 dev eth0");
    let moved = nodes(&[(1, 1), (2, 2), (3, 3)]).replace("172.18.0.13", "172.18.0.33");
    cluster.mesh.write("nodes.yaml", &moved).unwrap();
    cluster.expect_routes_soon(1, &[TWO, "10.244.3.0/24 via 172.18.0.33"]);
    cluster.run(3, "ip address del 172.18.0.13/16 dev eth0");
    cluster.expect_routes_soon(3, &["10.244.1.0/24 via 172.18.0.11", TWO]);
    cluster.expect_seen_as(client, server, client);
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2)])).unwrap();
    cluster.expect_routes_soon(1, &[TWO]);
}

#[test]
fn n4_of_two_nodes_with_one_network_the_younger_one_is_not_ready() {
    let cluster = Cluster::without_proxies(3);
    let clash = nodes(&[(1, 1), (2, 2)]) + &lab::manifest(3, 3).replace("10.244.3.0/24", "10.244.2.0/24");
    let clash = clash.replace("fd00:244:3::/64", "fd00:244:2::/64");
    cluster.mesh.write("nodes.yaml", &clash).unwrap();
    let mut cluster = cluster;
    for node in 1..=3 {
        cluster
            .proxies
            .push(cluster.mesh.start(node, Path::new(PROGRAM), &["--proxy-mode=nftables".into()]).unwrap());
    }
    cluster.expect_routes_soon(1, &[TWO]);
    let mut answer = Default::default();
    let told = eventually(SOON, || {
        answer = cluster.mesh.readyz(3).unwrap_or_default();
        answer.0 == 503 && answer.1.contains("overlaps")
    });
    assert!(told, "{answer:?}\n{}", cluster.log(3));
    assert!(cluster.metrics(1).contains("ferrovia_pod_network_problems{reason=\"PodCIDROverlap\"} 2"));
    let configured = cluster.mesh.node(3).namespace.run(|| fs::exists("/run/cni/net.d/10-ferrovia.conflist"));
    assert!(!configured.unwrap().unwrap(), "it can have no pods");
    let state = cluster.mesh.node(3).namespace.run(|| fs::read_to_string("/run/ferrovia/pod-network.json"));
    let state = state.unwrap().unwrap();
    assert!(state.contains(r#""condition":"starting""#) && state.contains("overlaps"), "{state}");
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2)])).unwrap();
    thread::sleep(Duration::from_secs(3));
    cluster.expect_routes_soon(1, &[TWO]);
}

/// Until a route is in the kernel, asked without a program between.
fn until_back(door: &mut KernelRoutes, route: Route) -> Duration {
    let start = Instant::now();
    while !door.list(Family::V4).unwrap().contains(&route) {
        assert!(start.elapsed() < SOON, "{route} never comes back");
        thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[test]
fn n2_a_deleted_or_diverted_route_is_back_within_milliseconds() {
    let cluster = Cluster::new(3, &["--proxy-mode=nftables"]);
    let mut door = cluster.mesh.node(1).namespace.run(|| KernelRoutes::open().unwrap()).unwrap();
    let route = door.list(Family::V4).unwrap()[0];
    let elsewhere = Route { gateway: [172, 18, 0, 99].into(), ..route };
    let mut took = Vec::new();
    for round in 0..20 {
        thread::sleep(Duration::from_millis(100));
        let change =
            if round % 2 == 0 { RouteChange::Remove(route) } else { RouteChange::Replace(elsewhere) };
        assert_eq!(door.change(&[change]).unwrap().len(), 0);
        took.push(until_back(&mut door, route));
    }
    took.sort_unstable();
    // The fastest tells what the program does; all others, how busy the machine is.
    assert!(took[0] < Duration::from_millis(20), "{took:?}");
    assert_eq!(cluster.routes(1, "-4").len(), 2);
    assert!(cluster.log(1).contains("Routes to pods were gone or changed; repaired"), "{}", cluster.log(1));
}

#[test]
fn a_link_that_goes_down_and_comes_back_has_its_routes() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables"]);
    cluster.expect_routes_soon(1, &[TWO]);
    cluster.run(1, "ip link set eth0 down");
    cluster.expect_routes_soon(1, &[]);
    cluster.run(1, "ip link set eth0 up");
    cluster.expect_routes_soon(1, &[TWO]);
    let (client, server) = (cluster.pod(1, 1, Family::V4), cluster.pod(2, 1, Family::V4));
    cluster.expect_seen_as(client, server, client);
}

#[test]
fn n6_foreign_routes_are_left_and_told() {
    let cluster = Cluster::without_proxies(2);
    cluster.run(1, "ip route add 10.244.2.0/24 via 172.18.0.99 proto static");
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1), (2, 2)])).unwrap();
    let cluster = cluster.start(&["--proxy-mode=nftables"]);
    assert!(
        eventually(SOON, || cluster.log(1).contains("take a route that is not ours")),
        "{}",
        cluster.log(1)
    );
    assert!(cluster.run(1, "ip route show proto static").contains("172.18.0.99"));
    let readiness = cluster.mesh.readyz(1).unwrap();
    assert_eq!(readiness.0, 200, "one node that is not reached does not take the others' pods away");
    cluster.run(1, "ip route del 10.244.2.0/24 proto static");
    let gone = || cluster.log(1).contains("No longer so");
    assert!(eventually(SOON, gone), "{}", cluster.log(1));
}

#[test]
fn a_node_behind_a_gateway_gets_no_route_and_a_reason() {
    let cluster = Cluster::without_proxies(2);
    let far = lab::manifest(2, 2).replace("172.18.0.12", "203.0.113.12");
    cluster.mesh.write("nodes.yaml", &(nodes(&[(1, 1)]) + &far)).unwrap();
    let mut cluster = cluster;
    cluster
        .proxies
        .push(cluster.mesh.start(1, Path::new(PROGRAM), &["--proxy-mode=nftables".into()]).unwrap());
    let told = || cluster.log(1).contains("203.0.113.12 is behind the gateway 172.18.0.1");
    assert!(eventually(SOON, told), "{}", cluster.log(1));
    assert_eq!(cluster.routes(1, "-4"), [] as [&str; 0]);
    assert!(cluster.metrics(1).contains("ferrovia_pod_network_problems{reason=\"NoDirectRoute\"} 1"));
}

/// Each time at once after the one before, so that whoever looks now and then would always be late.
#[test]
fn what_runtimes_read_is_put_back_as_soon_as_somebody_changes_it() {
    let cluster = Cluster::without_proxies(1);
    cluster.mesh.write("nodes.yaml", &nodes(&[(1, 1)])).unwrap();
    let cluster = cluster.start(&["--proxy-mode=nftables"]);
    let conflist = format!("{}/10-ferrovia.conflist", lab::CONFIGURATIONS);
    let plugin = format!("{}/ferrovia-cni", lab::PLUGINS);
    let node = &cluster.mesh.node(1).namespace;
    let size = |path: &str| fs::metadata(path).ok().map(|file| file.len());
    let content = || node.run(|| (fs::read(&conflist).ok(), size(&plugin))).unwrap();
    let before = content();
    let damages: [(&str, &(dyn Fn() -> std::io::Result<()> + Sync)); 5] = [
        ("edited", &|| fs::write(&conflist, "{}")),
        ("renamed", &|| fs::rename(&conflist, format!("{conflist}.disabled"))),
        ("removed", &|| fs::remove_file(&conflist)),
        ("without a directory", &|| {
            let _ = fs::remove_dir_all("/run/elsewhere");
            fs::rename(lab::CONFIGURATIONS, "/run/elsewhere")
        }),
        ("without a plugin", &|| fs::remove_file(&plugin)),
    ];
    for (what, damage) in damages {
        let took: Vec<Duration> = (0..4)
            .map(|_| {
                let start = Instant::now();
                node.run(damage).unwrap().unwrap();
                assert!(eventually(SOON, || content() == before), "{what}\n{}", cluster.log(1));
                start.elapsed()
            })
            .collect();
        // The fastest tells what the program does; all others, how busy the machine is.
        assert!(took.iter().skip(1).min().unwrap() < &Duration::from_millis(1500), "{what}: {took:?}");
    }
}

/// A range that is the same on all nodes gives the same addresses out twice (containernetworking/cni#629).
#[test]
fn n13_pods_get_addresses_of_their_own_nodes_pod_cidrs_only() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/16"]);
    for node in 1..=2 {
        let path = format!("{}/10-ferrovia.conflist", lab::CONFIGURATIONS);
        let list = cluster.mesh.node(node).namespace.run(|| fs::read_to_string(path)).unwrap().unwrap();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let own = [format!("10.244.{node}.0/24"), format!("fd00:244:{node}::/64")];
        assert_eq!(list["plugins"][0]["ranges"], serde_json::json!(own));
    }
}
