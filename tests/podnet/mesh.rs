//! Who reaches whom, and is seen as whom.

use std::os::unix::fs::PermissionsExt;

use ferrovia::lab::runtime::{Container, Runtime};

use super::*;

/// Of each node's pods one, each node, and the world outside.
fn holds(cluster: &Cluster) {
    for family in Family::ALL {
        for (from, to) in [(1, 2), (2, 3), (3, 1)] {
            let (client, server) = (cluster.pod(from, 1, family), cluster.pod(to, 2, family));
            cluster.expect_seen_as(client, server, client);
            let node = lab::address(to, family);
            cluster.expect_seen_as(client, node, client);
            cluster.expect_seen_as(node, client, node);
        }
        let (client, neighbour) = (cluster.pod(1, 1, family), cluster.pod(1, 2, family));
        cluster.expect_seen_as(client, neighbour, client);
        cluster.expect_seen_as(client, lab::outside(family), lab::address(1, family));
    }
}

#[test]
fn pods_and_nodes_see_pods_as_they_are_and_the_outside_sees_the_node() {
    let cluster = Cluster::new(3, &["--proxy-mode=nftables"]);
    holds(&cluster);
    assert_eq!(
        cluster.routes(1, "-4"),
        [
            "10.244.2.0/24 via 172.18.0.12 dev eth0 metric 1104",
            "10.244.3.0/24 via 172.18.0.13 dev eth0 metric 1104",
        ]
    );
    assert_eq!(cluster.routes(1, "-6").len(), 2);
    let table = cluster.run(1, "nft list table ip ferrovia-pods");
    assert!(table.contains("ip saddr @pods ip daddr != @inside masquerade fully-random"), "{table}");
}

#[test]
fn the_proxy_mode_does_not_matter() {
    holds(&Cluster::new(3, &["--proxy-mode=iptables", "--iptables-flavour=legacy"]));
}

#[test]
fn networks_that_are_not_to_be_masqueraded_see_pods() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables", "--non-masquerade-cidrs=172.18.0.1/32"]);
    // The gateway has to know the way back.
    run(&cluster.mesh.gateway().namespace, "ip route add 10.244.1.0/24 via 172.18.0.11");
    let client = cluster.pod(1, 1, Family::V4);
    cluster.expect_seen_as(client, lab::outside(Family::V4), client);
    let client = cluster.pod(1, 1, Family::V6);
    cluster.expect_seen_as(client, lab::outside(Family::V6), lab::address(1, Family::V6));
}

#[test]
fn pods_pass_a_firewall_that_drops_what_is_forwarded() {
    for flavour in ["legacy", "nft"] {
        let cluster = Cluster::without_proxies(2);
        let manifests: String = (1..=2).map(|node| lab::manifest(node, node)).collect();
        cluster.mesh.write("nodes.yaml", &manifests).unwrap();
        for node in 1..=2 {
            for program in ["iptables", "ip6tables"] {
                cluster.run(node, &format!("{program}-{flavour} -P FORWARD DROP"));
            }
        }
        let cluster = cluster.start(&["--proxy-mode=nftables"]);
        let pods = Family::ALL.map(|family| (cluster.pod(1, 1, family), cluster.pod(2, 1, family)));
        pods.iter().for_each(|(client, server)| cluster.expect_seen_as(*client, *server, *client));
        // Somebody flushes it, as Docker's start may.
        cluster.run(1, &format!("iptables-{flavour} -F FORWARD"));
        let back = || cluster.run(1, &format!("iptables-{flavour} -S FORWARD")).contains("FERROVIA-PODS");
        assert!(eventually(SOON, back), "{flavour}: {}", cluster.log(1));
    }
}

#[test]
fn somebody_elses_changes_to_the_rules_are_undone() {
    let cluster = Cluster::new(2, &["--proxy-mode=iptables", "--iptables-flavour=nft"]);
    let masquerades = || {
        let tables = cluster.run(1, "nft list tables");
        tables.contains("ip ferrovia-pods")
            && cluster.run(1, "nft list table ip ferrovia-pods").contains("masquerade")
    };
    assert!(masquerades());
    cluster.run(1, "nft delete table ip ferrovia-pods");
    assert!(eventually(SOON, masquerades), "{}", cluster.log(1));
    cluster.run(1, "nft flush chain ip ferrovia-pods postrouting");
    assert!(eventually(SOON, masquerades), "{}", cluster.log(1));
    assert!(cluster.log(1).contains("Rules for packets of pods were gone or changed; repaired"));
}

/// The kernel tells of it: nobody looks again and again.
#[test]
fn rules_that_somebody_deletes_are_back_at_once() {
    let cluster = Cluster::new(2, &["--proxy-mode=iptables", "--iptables-flavour=nft"]);
    let mut took = Vec::new();
    for _ in 0..5 {
        cluster.run(1, "nft delete table ip ferrovia-pods");
        let start = Instant::now();
        let back = || cluster.run(1, "nft list tables").contains("ip ferrovia-pods");
        assert!(eventually(SOON, back), "{}", cluster.log(1));
        took.push(start.elapsed());
    }
    // The fastest tells what the program does; all others, how busy the machine is.
    assert!(took.iter().min().unwrap() < &Duration::from_millis(500), "{took:?}");
}

#[test]
fn runtimes_are_told_last_and_cleanup_takes_all_away() {
    let mut cluster = Cluster::new(2, &["--proxy-mode=nftables"]);
    let namespace = &cluster.mesh.node(1).namespace;
    let read = |path: String| namespace.run(move || fs::read_to_string(path)).unwrap();
    let kept = read(format!("{}/10-ferrovia.conflist", lab::CONFIGURATIONS)).unwrap();
    let list: Value = serde_json::from_str(&kept).unwrap();
    let plugin = &list["plugins"][0];
    assert_eq!(plugin["ranges"], serde_json::json!(["10.244.1.0/24", "fd00:244:1::/64"]));
    assert_eq!(plugin["mtu"], 1500);
    let state = read(plugin["stateFile"].as_str().unwrap().to_owned()).unwrap();
    assert!(state.contains(r#""condition":"ready""#), "{state}");
    let plugin = namespace.run(|| fs::metadata(format!("{}/ferrovia-cni", lab::PLUGINS))).unwrap();
    assert_eq!(plugin.unwrap().permissions().mode() & 0o777, 0o755, "the plugin is installed");
    let ports = json!({"portMappings": [{"hostPort": 8081, "containerPort": POD_PORT}]});
    let (stays, ends) = (cluster.attach(1, ports), cluster.attach(1, json!({})));
    let del = |cluster: &Cluster, number| {
        let del = |runtime: Runtime<'_>, container: Container<'_>, result: &Value| {
            // What the runtime remembers, as the proxy's configuration is gone.
            runtime
                .node
                .run(|| fs::write(format!("{}/1.conflist", lab::CONFIGURATIONS), &kept))
                .unwrap()
                .unwrap();
            let deleted = runtime.del(container, result);
            runtime
                .node
                .run(|| fs::remove_file(format!("{}/1.conflist", lab::CONFIGURATIONS)))
                .unwrap()
                .unwrap();
            deleted
        };
        cluster.mesh.with_attached(1, number, del).unwrap();
    };
    let Cluster { mesh, proxies } = cluster;
    drop(proxies);
    let cluster = Cluster { mesh, proxies: Vec::new() };
    assert_eq!(cluster.routes(1, "-4").len(), 1, "routes outlive the process");
    let directories = format!("--cni-conf-dir {} --cni-bin-dir {}", lab::CONFIGURATIONS, lab::PLUGINS);
    let clean = || cluster.run(1, &format!("{PROGRAM} cleanup {directories}"));
    clean();
    let at = SocketAddr::new(lab::address(1, Family::V4), 8081);
    let asked = cluster.mesh.lab.probe(lab::outside(Family::V4), Protocol::Tcp, at, Duration::from_secs(3));
    let asked = asked.unwrap();
    assert!(matches!(asked, Observed::Answered { .. }), "a pod that runs keeps its ports: {asked}");
    del(&cluster, ends);
    del(&cluster, stays);
    for _ in 0..2 {
        clean();
        assert_eq!(cluster.routes(1, "-4"), [] as [&str; 0]);
        assert_eq!(cluster.routes(1, "-6"), [] as [&str; 0]);
        assert!(!cluster.run(1, "nft list tables").contains("ferrovia"));
        let left = cluster.mesh.node(1).namespace.run(|| fs::read_dir(lab::CONFIGURATIONS).unwrap().count());
        assert_eq!(left.unwrap(), 0);
    }
}
