//! Nodes from an API server, and what it is told.

use super::*;
use crate::common::apiserver::{ApiServer, Fault, Verb, What};

fn node(number: u8) -> Value {
    let address = lab::address(number, Family::V4).to_string();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": lab::name(number), "uid": format!("uid-{number}"),
            "creationTimestamp": format!("1970-01-01T00:00:{number:02}Z"),
        },
        "spec": {"podCIDRs": [format!("10.244.{number}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

/// A node whose proxy follows an API server.
fn started(prepare: impl FnOnce(&ApiServer)) -> (ApiServer, Cluster) {
    let mut cluster = Cluster::without_proxies(2);
    let server = cluster.mesh.node(1).namespace.run(ApiServer::start).unwrap();
    [1, 2].into_iter().for_each(|number| server.apply(node(number)));
    prepare(&server);
    let proxy = follower(&cluster, &server);
    cluster.proxies.push(proxy);
    (server, cluster)
}

fn follower(cluster: &Cluster, server: &ApiServer) -> Proxy {
    let mut command = cluster.mesh.command(1, Path::new(PROGRAM)).unwrap();
    command.arg("--kubeconfig").arg(server.kubeconfig()).arg("--proxy-mode=nftables");
    let mut proxy = Proxy::spawn(command).unwrap();
    cluster.mesh.wait_until_ready(1, &mut proxy, PATIENCE).unwrap();
    proxy
}

#[test]
fn the_node_s_condition_tells_whether_it_has_a_network() {
    let (server, _cluster) = started(|server| {
        server.fault(Fault::once(Verb::Patch, "nodes/status", What::Status(503)));
    });
    let condition = |server: &ApiServer| {
        let last = server.patches().pop()?;
        let condition = last["status"]["conditions"][0].clone();
        (condition["type"] == "NetworkUnavailable").then_some(condition["status"].clone())
    };
    server.until("the network is available", |server| condition(server) == Some(json!("False")));
    let taken = json!({"spec": {"podCIDRs": ["10.244.0.0/16"]}});
    let mut older = node(3);
    older["spec"] = taken["spec"].clone();
    older["metadata"]["creationTimestamp"] = json!("1969-01-01T00:00:00Z");
    server.apply(older);
    server.until("the network is gone", |server| condition(server) == Some(json!("True")));
}

#[test]
fn nodes_come_and_go_and_what_is_wrong_with_them_becomes_events() {
    let (server, cluster) = started(|_| {});
    cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12"]);
    server.apply(node(3));
    cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12", "10.244.3.0/24 via 172.18.0.13"]);
    let mut far = node(3);
    far["status"]["addresses"][0]["address"] = json!("203.0.113.13");
    server.apply(far);
    cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12"]);
    server.until("an Event", |server| {
        let reasons = server.posted_events().into_iter().map(|event| event["reason"].clone());
        reasons.collect::<Vec<_>>().contains(&json!("NoDirectRoute"))
    });
    server.delete("nodes", &lab::name(2));
    cluster.expect_routes_soon(1, &[]);
}

/// A list that the server cuts short must not take routes away (flannel#1145).
#[test]
fn n5_what_changes_between_list_and_watch_is_not_missed() {
    let (server, cluster) = started(|_| {});
    server.fault(Fault::once(Verb::StreamingList, "nodes", What::CutAfter(1)));
    server.compact();
    server.signal(crate::common::apiserver::Signal::End);
    server.apply(node(3));
    cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12", "10.244.3.0/24 via 172.18.0.13"]);
}

/// As an operator takes a DaemonSet back: with the flags of the proxy and `--cleanup`.
#[test]
fn the_proxys_own_cleanup_leaves_nothing_of_the_pod_network() {
    let mut this = node(1);
    this["metadata"]["annotations"] = json!({"example.com/others": "stays"});
    let (server, mut cluster) = started(|server| server.apply(this));
    server.until("annotations", |server| annotations(server) == says("1500"));
    server.until("a condition", |server| !conditions(server).is_empty());
    cluster.expect_routes_soon(1, &["10.244.2.0/24 via 172.18.0.12"]);
    let ports = json!({"portMappings": [{"hostPort": 8081, "containerPort": POD_PORT}]});
    let pod = cluster.attach(1, ports);
    let conflist = format!("{}/10-ferrovia.conflist", lab::CONFIGURATIONS);
    let kept = cluster.mesh.node(1).namespace.run(|| fs::read(&conflist)).unwrap().unwrap();
    cluster.proxies[0].kill();

    clean(&cluster, &server);
    assert_eq!(files(&cluster), [0, 1], "a pod is there, which only the plugin can detach");
    assert!(cluster.run(1, "nft list tables").contains("ferrovia-host-ports"), "and its port stays open");
    // What the runtime remembers.
    cluster.mesh.node(1).namespace.run(|| fs::write(&conflist, kept)).unwrap().unwrap();
    cluster.mesh.detach(1, pod).unwrap();
    for _ in 0..2 {
        clean(&cluster, &server);
        assert_eq!(files(&cluster), [0, 0]);
        assert_eq!(cluster.routes(1, "-4"), [] as [&str; 0]);
        assert!(!cluster.run(1, "nft list tables").contains("ferrovia"));
        assert_eq!(annotations(&server), json!({"example.com/others": "stays"}));
        assert_eq!(conditions(&server), [] as [Value; 0]);
    }
}

fn clean(cluster: &Cluster, server: &ApiServer) {
    let mut command = cluster.mesh.command(1, Path::new(PROGRAM)).unwrap();
    command.arg("--kubeconfig").arg(server.kubeconfig()).args(["--proxy-mode=nftables", "--cleanup"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How many configurations there are, and how many plugins.
fn files(cluster: &Cluster) -> [usize; 2] {
    let count = |directory: &str| fs::read_dir(directory).unwrap().count();
    let counted = || [lab::CONFIGURATIONS, lab::PLUGINS].map(count);
    cluster.mesh.node(1).namespace.run(counted).unwrap()
}

fn conditions(server: &ApiServer) -> Vec<Value> {
    let node = server.get("nodes", "node1").unwrap();
    node["status"]["conditions"].as_array().cloned().unwrap_or_default()
}

fn annotations(server: &ApiServer) -> Value {
    server.get("nodes", "node1").unwrap()["metadata"]["annotations"].clone()
}

/// How often annotations were written.
fn written(server: &ApiServer) -> usize {
    server.patches().iter().filter(|patch| !patch["metadata"]["annotations"].is_null()).count()
}

fn says(mtu: &str) -> Value {
    json!({
        "example.com/others": "stays",
        "ferrovia.dev/pod-network": "host-gw",
        "ferrovia.dev/pod-network-interface": "eth0",
        "ferrovia.dev/pod-network-mtu": mtu,
    })
}

#[test]
fn annotations_say_what_there_is_and_are_written_only_when_they_say_something_else() {
    let mut this = node(1);
    this["metadata"]["annotations"] = json!({"example.com/others": "stays"});
    let (server, mut cluster) = started(|server| server.apply(this.clone()));
    server.until("annotations", |server| annotations(server) == says("1500"));
    // As kubelet writes the Node again and again.
    let mut beat = server.get("nodes", "node1").unwrap();
    beat["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let before = written(&server);
    server.apply(beat);
    cluster.run(1, "ip link set eth0 mtu 1400");
    server.until("the MTU", |server| annotations(server) == says("1400"));
    assert_eq!(written(&server), before + 1, "{:#?}", server.patches());

    cluster.proxies[0].kill();
    cluster.proxies[0] = follower(&cluster, &server);
    let mut spoilt = server.get("nodes", "node1").unwrap();
    spoilt["metadata"]["annotations"]["ferrovia.dev/pod-network-mtu"] = json!("9000");
    assert_eq!(written(&server), before + 1, "a restart finds them as they are");
    server.apply(spoilt);
    server.until("what somebody changed", |server| annotations(server) == says("1400"));

    cluster.proxies[0].kill();
    let kubeconfig = server.kubeconfig().display().to_string();
    for _ in 0..2 {
        cluster.run(
            1,
            &format!(
                "{PROGRAM} cleanup --cni-conf-dir {} --cni-bin-dir {} --kubeconfig {kubeconfig} \
                 --hostname-override node1",
                lab::CONFIGURATIONS,
                lab::PLUGINS,
            ),
        );
        assert_eq!(annotations(&server), json!({"example.com/others": "stays"}));
        let conditions = server.get("nodes", "node1").unwrap()["status"]["conditions"].clone();
        assert_eq!(conditions, json!([{"type": "Ready", "status": "True"}]));
    }
}
