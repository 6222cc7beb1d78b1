//! The pod network: how long routes take to be in the kernel, alone and through the whole program with an API server of the
//! tests' own, and what it costs a stream between pods of two nodes.
//!
//! Needs root, as it works in network namespaces. `cargo bench --bench routes`

// Of what the tests share, not all is used here.
#![allow(dead_code, unused_imports)]

#[path = "../tests/common/apiserver/mod.rs"]
mod apiserver;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use ferrovia::kernel::netns::Namespace;
use ferrovia::kernel::routes::{KernelRoutes, Notice, RouteWatch, Routes};
use ferrovia::lab::mesh::{self, Mesh};
use ferrovia::lab::proxy::Proxy;
use ferrovia::model::{Family, ServiceName};
use ferrovia::podnet::HostGw;
use ferrovia::sync::objects::{Event, Kind, Node, Object};

const NODES: u16 = 1000;
const ROUNDS: usize = 15;
/// Nodes that come one after the other.
const ARRIVALS: u16 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_ferrovia");
const STREAM: Duration = Duration::from_millis(200);
/// Of each part.
const SLICES: usize = 25;
const PACKETS: u32 = 20_000;

fn main() {
    if std::env::args().any(|argument| argument == "pods") {
        return between_pods();
    }
    let namespace = segment();
    namespace.run(all_at_once).unwrap();
    namespace.run(one_more).unwrap();
    whole_program();
    between_pods();
}

/// A node with 10.128.0.1/9 on its segment.
fn segment() -> Namespace {
    let namespace = Namespace::new().expect("this needs root");
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name peer",
        "link set eth0 up",
        "link set peer up",
        "address add 10.128.0.1/9 dev eth0",
    ] {
        run(&namespace, line);
    }
    namespace
}

fn run(namespace: &Namespace, line: &str) {
    let status = namespace.command("ip").unwrap().args(line.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {line}");
}

fn node(number: u16) -> Node {
    let [high, low] = (number + 1).to_be_bytes();
    let address: IpAddr = [10, 128, high, low].into();
    let [high, low] = number.to_be_bytes();
    Node {
        name: format!("node-{number}").into(),
        uid: format!("uid-{number}").into(),
        created: number.into(),
        internal_addresses: [address].into(),
        addresses: [address].into(),
        zone: None,
        pod_cidrs: [format!("10.{}.{low}.0/24", high).parse().unwrap()].into(),
        leaving: false,
        pod_network: Default::default(),
    }
}

fn applied(node: Node) -> Event {
    Event::Applied(Object::Node(Box::new(node)))
}

fn host_gw() -> HostGw<KernelRoutes> {
    HostGw::new(Arc::from("node-0"), KernelRoutes::open().unwrap())
}

fn listed(host_gw: &mut HostGw<KernelRoutes>) {
    host_gw.handle(&Event::ListStarted(Kind::Node), Instant::now());
    (0..=NODES).for_each(|number| host_gw.handle(&applied(node(number)), Instant::now()));
    host_gw.handle(&Event::ListDone(Kind::Node), Instant::now());
}

/// From the list of all Nodes to all routes in the kernel, read back.
fn all_at_once() {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let mut host_gw = host_gw();
        let start = Instant::now();
        listed(&mut host_gw);
        let synced = host_gw.sync(Instant::now()).unwrap();
        took.push(start.elapsed());
        assert_eq!((synced.plan.changes.len(), synced.refusals), (usize::from(NODES), 0));
        clear();
    }
    report("1,000 nodes at once", took);
}

fn clear() {
    let mut door = KernelRoutes::open().unwrap();
    let routes = door.list(Family::V4).unwrap();
    let changes: Vec<_> = routes.into_iter().map(ferrovia::kernel::routes::RouteChange::Remove).collect();
    door.change(&changes).unwrap();
}

/// From the event of one Node among 1,000 to its route in the kernel, read back.
fn one_more() {
    let mut host_gw = host_gw();
    listed(&mut host_gw);
    host_gw.sync(Instant::now()).unwrap();
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u16 {
        let number = NODES + 1 + round;
        let start = Instant::now();
        host_gw.handle(&applied(node(number)), start);
        assert_eq!(host_gw.sync(start).unwrap().plan.changes.len(), 1);
        came.push(start.elapsed());
        let name = ServiceName { namespace: "".into(), name: format!("node-{number}").into() };
        host_gw.handle(&Event::Deleted(Kind::Node, name), start);
        host_gw.sync(start).unwrap();
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        assert_eq!(host_gw.sync(later).unwrap().plan.changes.len(), 1);
        went.push(start.elapsed());
    }
    report("one more node", came);
    report("one less", went);
    clear();
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    println!("{what}: {:?} (median), {:?} (longest)", took[took.len() / 2], took[took.len() - 1]);
}

/// As the API has it, in the segment of the mesh.
fn api_node(number: u16) -> serde_json::Value {
    let [high, low] = (number + 256).to_be_bytes();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": format!("peer-{number}"), "uid": format!("uid-{number}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"podCIDRs": [api_network(number)]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("172.18.{high}.{low}")}]},
    })
}

fn api_network(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("10.{}.{low}.0/24", 16 + high)
}

/// From what is written to the API server to the kernel's word that there is a route, with everything between.
fn whole_program() {
    let mesh = Mesh::new(1).unwrap();
    let host = &mesh.node(1).namespace;
    let server = host.run(ApiServer::start).unwrap();
    let mut this = api_node(0);
    this["metadata"]["name"] = "node1".into();
    this["spec"] = serde_json::json!({"podCIDRs": ["10.244.1.0/24"]});
    this["status"]["addresses"][0]["address"] = mesh::address(1, Family::V4).to_string().into();
    server.apply(this);
    (1..=NODES).for_each(|number| server.apply(api_node(number)));
    let mut command = mesh.command(1, Path::new(PROGRAM)).unwrap();
    command.arg("--kubeconfig").arg(server.kubeconfig()).arg("--proxy-mode=nftables");
    let mut watch = host.run(|| KernelRoutes::open().unwrap().watch().unwrap()).unwrap();
    let start = Instant::now();
    let mut proxy = Proxy::spawn(command).unwrap();
    let (mut seen, mut first) = (0, None);
    while seen < usize::from(NODES) {
        seen += own_routes(&mut watch).len();
        first.get_or_insert_with(|| start.elapsed());
    }
    let (first, last) = (first.unwrap(), start.elapsed());
    println!("whole program, start to the first of 1,000 routes: {first:?}, to the last one: {last:?}");
    mesh.wait_until_ready(1, &mut proxy, PATIENCE).unwrap();
    let (mut came, cpu) = (Vec::new(), cpu(proxy.id()));
    for number in NODES + 1..=NODES + ARRIVALS {
        let network = api_network(number).parse().unwrap();
        let start = Instant::now();
        server.apply(api_node(number));
        while !own_routes(&mut watch).contains(&network) {}
        came.push(start.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    report("whole program, one more node to its route", came);
    // Whatever else the machine does.
    println!("CPU of the program for it: {:?}", (self::cpu(proxy.id()) - cpu) / u32::from(ARRIVALS));
}

/// What a process has used so far, with all its threads.
fn cpu(process: u32) -> Duration {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to what they are given and nothing else.
    let failed = unsafe {
        libc::clock_getcpuclockid(process as libc::pid_t, &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    assert!(!failed, "no CPU clock of the proxy");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Waits for routes of the proxy that came or changed.
fn own_routes(watch: &mut RouteWatch) -> Vec<ipnet::IpNet> {
    let notices = watch.wait().unwrap().into_iter();
    let own = |notice| match notice {
        Notice::OwnRoute(network) => Some(network),
        Notice::Lost => panic!("notifications were lost"),
        _ => None,
    };
    notices.filter_map(own).collect()
}

/// Two nodes with a pod each.
fn mesh_with_pods() -> (Mesh, Vec<Proxy>) {
    let mut mesh = Mesh::new(2).unwrap();
    let manifests: String = (1..=2).map(|node| mesh::manifest(node, node)).collect();
    mesh.write("nodes.yaml", &manifests).unwrap();
    let mut proxies: Vec<_> =
        (1..=2).map(|node| mesh.start(node, Path::new(PROGRAM), &[]).unwrap()).collect();
    for (node, proxy) in (1..).zip(&mut proxies) {
        mesh.wait_until_ready(node, proxy, PATIENCE).unwrap();
        mesh.attach(node).unwrap();
    }
    (mesh, proxies)
}

/// What a packet between pods of two nodes meets beside the routes, one part after the other, again and again.
fn between_pods() {
    let ((plain, proxies), (ours, others)) = (mesh_with_pods(), mesh_with_pods());
    // Routes and rules outlive them, and nobody repairs.
    drop((proxies, others));
    replace_by_static_routes(&plain);
    let parts = [
        Part {
            name: "static routes",
            mesh: &plain,
            rules: "add table ip tracking; delete table ip tracking",
        },
        Part { name: "static routes, and connections are tracked", mesh: &plain, rules: TRACKING },
        Part { name: "the pod network", mesh: &ours, rules: "add table ip ferrovia { flags dormant; }" },
        Part {
            name: "the pod network and the rules of Services",
            mesh: &ours,
            rules: "add table ip ferrovia",
        },
    ];
    let mut packets = vec![Vec::new(); parts.len()];
    let mut streams = vec![Vec::new(); parts.len()];
    for _ in 0..SLICES {
        for (part, (packets, streams)) in parts.iter().zip(packets.iter_mut().zip(&mut streams)) {
            part.choose();
            packets.push(packet(part.mesh));
            streams.push(stream(part.mesh));
        }
    }
    for (part, (packets, rates)) in parts.iter().zip(packets.iter().zip(&streams)) {
        let of_first: Vec<f64> = rates.iter().zip(&streams[0]).map(|(rate, first)| rate / first).collect();
        let (packet, rate, of_first) = (median(packets), median(rates), median(&of_first));
        println!(
            "pod to pod, {}: {packet:.0} ns a packet; a stream {rate:.2} Gbit/s, {of_first:.3} x",
            part.name
        );
    }
}

struct Part<'a> {
    name: &'static str,
    mesh: &'a Mesh,
    rules: &'static str,
}

/// The least that has the kernel track connections.
const TRACKING: &str =
    "add table ip tracking { chain c { type filter hook prerouting priority 0; ct state invalid accept; }; }";

impl Part<'_> {
    fn choose(&self) {
        for node in self.mesh.nodes() {
            let mut nft = self.mesh.node(node).namespace.command("nft").unwrap();
            assert!(nft.arg(self.rules).status().unwrap().success(), "{}", self.rules);
        }
    }
}

fn replace_by_static_routes(mesh: &Mesh) {
    for (node, other) in [(1, 2), (2, 1)] {
        let host = &mesh.node(node).namespace;
        let mut cleanup = host.command(PROGRAM).unwrap();
        let cleanup = cleanup.args(["cleanup", "--cni-conf-dir", mesh::CONFIGURATIONS]);
        let cleanup = cleanup.args(["--cni-bin-dir", mesh::PLUGINS]);
        assert!(cleanup.status().unwrap().success());
        run(host, &format!("route add 10.244.{other}.0/24 via {}", mesh::address(other, Family::V4)));
    }
}

/// CPU time of a datagram from one pod to the other, in nanoseconds. The kernel carries it all the way within the call that
/// sends it.
fn packet(mesh: &Mesh) -> f64 {
    let server = SocketAddr::new(mesh.pod(2, 1, Family::V4).unwrap(), 5202);
    let receiver = host(mesh, server.ip()).run(|| UdpSocket::bind(server)).unwrap().unwrap();
    let client = host(mesh, mesh.pod(1, 1, Family::V4).unwrap());
    let sender = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    sender.connect(server).unwrap();
    // An answer, or no connection would be established.
    let mut buffer = [0; 64];
    sender.send(&buffer).unwrap();
    let (_, client) = receiver.recv_from(&mut buffer).unwrap();
    receiver.send_to(&buffer, client).unwrap();
    sender.recv(&mut buffer).unwrap();
    let process = std::process::id();
    let start = cpu(process);
    for _ in 0..PACKETS {
        sender.send(&buffer).unwrap();
    }
    (cpu(process) - start).as_nanos() as f64 / f64::from(PACKETS)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// In Gbit/s.
fn stream(mesh: &Mesh) -> f64 {
    let server = SocketAddr::new(mesh.pod(2, 1, Family::V4).unwrap(), 5201);
    let listener = host(mesh, server.ip()).run(|| TcpListener::bind(server)).unwrap().unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut received) = (vec![0; 256 << 10], 0u64);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            received += length as u64;
        }
        received
    });
    let client = host(mesh, mesh.pod(1, 1, Family::V4).unwrap());
    let mut stream = client.run(|| TcpStream::connect(server)).unwrap().unwrap();
    let (buffer, start) = (vec![0; 256 << 10], Instant::now());
    while start.elapsed() < STREAM {
        stream.write_all(&buffer).unwrap();
    }
    drop(stream);
    let received = receiver.join().unwrap();
    received as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}

fn host(mesh: &Mesh, address: IpAddr) -> &Namespace {
    &mesh.lab.host_of(address).unwrap().namespace
}
