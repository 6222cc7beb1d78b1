//! What a runtime does with pods, twice and in wrong order, while proxies come and go.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrovia::kernel::netns::Namespace;
use ferrovia::lab::LabError;
use ferrovia::lab::mesh::Mesh;
use ferrovia::lab::runtime::Container;

use super::*;

const FLAGS: [&str; 1] = ["--proxy-mode=nftables"];
/// Pods that come at once, and how many threads of the runtime start them.
const MANY: usize = 100;
const WORKERS: usize = 8;

/// The specification's code.
fn code<T: std::fmt::Debug>(result: Result<T, LabError>) -> Option<u64> {
    match result.unwrap_err() {
        LabError::Cni(failure) => failure.code(),
        other => panic!("{other}"),
    }
}

/// Links, routes and leases of pods on a node.
fn left(cluster: &Cluster, node: u8) -> (usize, usize, usize) {
    let links = cluster.run(node, "ip -oneline link show").matches(": fpod").count();
    let routes = ["-4", "-6"].map(|family| cluster.run(node, &format!("ip {family} route show proto 103")));
    let journal = format!("{}/ferrovia/journal", lab::LEASES);
    let journal = cluster.mesh.node(node).namespace.run(|| fs::read_to_string(journal)).unwrap();
    let leases = journal.unwrap_or_default().matches(" ---------- ").count();
    (links, routes.iter().map(|routes| routes.lines().count()).sum(), leases)
}

fn reach_each_other(cluster: &Cluster) {
    for family in Family::ALL {
        let (client, server) = (cluster.pod(1, 1, family), cluster.pod(2, 1, family));
        cluster.expect_seen_as(client, server, client);
        cluster.expect_seen_as(client, cluster.pod(1, 2, family), client);
        cluster.expect_seen_as(client, lab::outside(family), lab::address(1, family));
    }
}

#[test]
fn n10_whatever_order_a_runtime_calls_in_each_pod_is_as_it_should_be() {
    let cluster = Cluster::without_proxies(2);
    let early = cluster.mesh.runtime(1).status();
    assert!(early.unwrap_err().to_string().contains("no network configuration"), "before the proxy");
    let manifests: String = (1..=2).map(|node| lab::manifest(node, node)).collect();
    cluster.mesh.write("nodes.yaml", &manifests).unwrap();
    let mut cluster = cluster.start(&FLAGS);
    cluster.mesh.runtime(1).status().unwrap();
    let before = left(&cluster, 1);
    assert_eq!(before, (2, 4, 2));
    let mesh = &cluster.mesh;
    let again = mesh.with_attached(1, 1, |runtime, container, _| Ok(runtime.add(container)));
    assert_eq!(code(again.unwrap()), Some(4), "it is there already");
    mesh.with_attached(1, 1, |runtime, container, result| runtime.check(container, result)).unwrap();
    reach_each_other(&cluster);

    let stranger = Namespace::new().unwrap();
    let unknown = Container { id: "unknown", namespace: &stranger, capabilities: &json!({}) };
    (0..2).for_each(|_| cluster.mesh.runtime(1).del(unknown, &Value::Null).unwrap());
    assert_eq!(left(&cluster, 1), before, "a DEL of nothing takes nothing");

    let number = cluster.attach(1, json!({}));
    let of_third = cluster.pod(1, number, Family::V4);
    let del = |cluster: &Cluster| {
        cluster.mesh.with_attached(1, number, |runtime, container, result| runtime.del(container, result))
    };
    del(&cluster).unwrap();
    let check = cluster
        .mesh
        .with_attached(1, number, |runtime, container, result| Ok(runtime.check(container, result)));
    assert_eq!(code(check.unwrap()), Some(104), "CHECK after DEL");
    // The second DEL, and the pod itself goes.
    cluster.mesh.detach(1, number).unwrap();
    let number = cluster.attach(1, json!({}));
    assert_ne!(cluster.pod(1, number, Family::V4), of_third, "its address rests");
    cluster.mesh.detach(1, number).unwrap();
    assert_eq!(left(&cluster, 1), before);
    reach_each_other(&cluster);
}

#[test]
fn pods_come_and_go_while_there_is_no_proxy_and_after_it_came_back() {
    let mut cluster = Cluster::new(2, &FLAGS);
    cluster.proxies[0].kill();
    let number = cluster.attach(1, json!({}));
    let (client, server) = (cluster.pod(1, number, Family::V4), cluster.pod(2, 1, Family::V4));
    cluster.expect_seen_as(client, server, client);
    cluster.mesh.runtime(1).status().unwrap();
    cluster.mesh.detach(1, 2).unwrap();
    for _ in 0..2 {
        cluster.restart(1, &FLAGS);
        cluster.expect_seen_as(client, server, client);
        cluster.expect_seen_as(client, lab::outside(Family::V4), lab::address(1, Family::V4));
    }
    let second = cluster.attach(1, json!({}));
    assert_eq!(second, 2, "the number is free, the address another one");
    reach_each_other(&cluster);
    assert_eq!(left(&cluster, 1), (3, 6, 3));
}

/// containerd calls GC when it starts, with what it knows to run.
#[test]
fn gc_of_a_restarted_runtime_leaves_what_runs_and_takes_the_rest() {
    let mut cluster = Cluster::new(2, &FLAGS);
    let ports = |port: u16| json!({"portMappings": [{"hostPort": port, "containerPort": POD_PORT}]});
    let (stays, goes) = (cluster.attach(1, ports(8081)), cluster.attach(1, ports(8082)));
    let ids = |numbers: &[u8]| numbers.iter().map(|number| format!("node1-{number}")).collect::<Vec<_>>();
    let valid = ids(&[1, 2, stays]);
    let valid: Vec<&str> = valid.iter().map(String::as_str).collect();
    for _ in 0..2 {
        cluster.mesh.runtime(1).gc(&valid).unwrap();
        assert_eq!(left(&cluster, 1), (3, 6, 3));
    }
    let at = |port| SocketAddr::new(lab::address(1, Family::V4), port);
    let ask = |port| {
        let outside = lab::outside(Family::V4);
        cluster.mesh.lab.probe(outside, Protocol::Tcp, at(port), Duration::from_secs(2)).unwrap()
    };
    assert!(matches!(ask(8081), Observed::Answered { .. }), "{}", ask(8081));
    assert!(matches!(ask(8082), Observed::Refused), "{}", ask(8082));
    reach_each_other(&cluster);
    let list = cluster.run(1, "nft list table ip ferrovia-host-ports");
    assert!(list.contains("8081") && !list.contains("8082"), "{goes}: {list}");
}

/// A hundred pods at once, in the middle of which the proxy is killed and comes back.
#[test]
fn n7_a_hundred_pods_at_once_have_addresses_of_their_own_though_the_proxy_is_killed() {
    let mut cluster = Cluster::new(2, &FLAGS);
    let pods: Vec<Namespace> = (0..MANY).map(|_| Namespace::new().unwrap()).collect();
    let results = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let Cluster { mesh, proxies } = &mut cluster;
    let mesh: &Mesh = mesh;
    let killed = &mut proxies[0];
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(index) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < MANY)
                {
                    let added = in_turn(mesh, &pods, index, |runtime, container| runtime.add(container));
                    results.lock().unwrap().push((index, added));
                }
            });
        }
        while results.lock().unwrap().len() < MANY / 4 {
            thread::sleep(Duration::from_millis(1));
        }
        killed.kill();
    });
    cluster.restart(1, &FLAGS);
    let results = results.into_inner().unwrap();
    assert_eq!(results.len(), MANY);
    let addresses: BTreeSet<String> = results
        .iter()
        .flat_map(|(_, result)| result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].to_string()))
        .collect();
    assert_eq!(addresses.len(), 2 * MANY, "each has its own, of both families");
    assert_eq!(left(&cluster, 1), (MANY + 2, 2 * (MANY + 2), MANY + 2));
    for (index, result) in &results {
        let check = |runtime: ferrovia::lab::runtime::Runtime<'_>, container: Container<'_>| {
            runtime.check(container, result)
        };
        if index % 10 == 0 {
            in_turn(&cluster.mesh, &pods, *index, check);
        }
        in_turn(&cluster.mesh, &pods, *index, |runtime, container| runtime.del(container, result));
    }
    assert_eq!(left(&cluster, 1), (2, 4, 2));
    reach_each_other(&cluster);
}

fn in_turn<T>(
    mesh: &Mesh,
    pods: &[Namespace],
    index: usize,
    work: impl FnOnce(ferrovia::lab::runtime::Runtime<'_>, Container<'_>) -> Result<T, LabError>,
) -> T {
    let (id, capabilities) = (format!("many-{index}"), json!({}));
    let container = Container { id: &id, namespace: &pods[index], capabilities: &capabilities };
    work(mesh.runtime(1), container)
        .unwrap_or_else(|error| panic!("{index}: {:#}", anyhow::Error::new(error)))
}

/// Pods stay reachable on the way, and addresses on both ends are the pods'.
#[test]
fn the_node_of_a_pod_leaves_and_comes_back() {
    let cluster = Cluster::new(3, &FLAGS);
    let manifests =
        |numbers: &[u8]| numbers.iter().map(|node| lab::manifest(*node, *node)).collect::<String>();
    let (client, server) = (cluster.pod(1, 1, Family::V6), cluster.pod(3, 1, Family::V6));
    for _ in 0..2 {
        cluster.expect_seen_as(client, server, client);
        cluster.expect_seen_as(server, client, server);
        cluster.mesh.write_on(1, "nodes.yaml", &manifests(&[1, 2])).unwrap();
        cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12"]);
        let unreachable = cluster.ask(client, Protocol::Tcp, server);
        assert!(!matches!(unreachable, Observed::Answered { .. }), "{unreachable}");
        cluster.mesh.write_on(1, "nodes.yaml", &manifests(&[1, 2, 3])).unwrap();
        cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12", "10.244.3.0/24 via 172.18.0.13"]);
    }
    cluster.expect_seen_as(client, server, client);
}
