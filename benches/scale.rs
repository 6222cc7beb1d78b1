//! The whole program at size, with real connections: `cargo bench --bench scale -- [SERVICES] [ENDPOINTS] [legacy] [nft]`.
//!
//! An API server of the tests' own holds the objects; the proxy runs in a lab of network namespaces. Printed are the
//! figures that an operator sees: how long after its start everything is reachable, how long after an API write traffic
//! follows, what that costs, and what a new connection pays. Needs root.

#![allow(dead_code, unused_imports)] // The test API server has more than is used here.

#[path = "../tests/common/apiserver/mod.rs"]
mod apiserver;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use ferrovia::lab::proxy::CLUSTER_CIDR;
use ferrovia::lab::{Lab, POD_PORT};
use serde_json::{Value, json};

use apiserver::ApiServer;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);
const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(10, 244, 2, 5)];
/// Services whose endpoint is a real pod, spread evenly over all; the last one is the last of all.
const PROBES: u32 = 20;
const CHANGES: usize = 15;
/// Connections are counted in short turns, so that whatever else the machine does meets all kinds alike.
const CONNECTIONS: usize = 25;
const ROUNDS: usize = 160;

struct Size {
    services: u32,
    endpoints: u32,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let numbers: Vec<u32> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let size = Size {
        services: numbers.first().copied().unwrap_or(10_000),
        endpoints: numbers.get(1).copied().unwrap_or(10),
    };
    for flavour in ["legacy", "nft"] {
        if arguments.len() == numbers.len() || arguments.iter().any(|argument| argument == flavour) {
            run(&size, flavour).with_context(|| flavour.to_owned())?;
        }
    }
    Ok(())
}

fn run(size: &Size, flavour: &str) -> Result<()> {
    println!("iptables {flavour}, {} Services with {} endpoints each", size.services, size.endpoints);
    let empty = Lab::new()?;
    iptables(&empty, flavour, &["-t", "nat", "-S"])?;
    // A rule that matches nothing and makes the kernel track connections, as any rule that translates does.
    let tracked = Lab::new()?;
    iptables(&tracked, flavour, &["-t", "nat", "-S"])?;
    iptables(&tracked, flavour, &["-A", "INPUT", "-i", "none", "-m", "conntrack", "--ctstate", "NEW"])?;
    let lab = Lab::new()?;
    let server = lab.here().run(ApiServer::start)?;
    fill(&server, size);

    let started = Instant::now();
    let mut proxy = Proxy::start(&lab, &server, flavour)?;
    wait_until_reachable(&lab, size)?;
    println!("  start to all Services reachable      {:8.0} ms", millis(started.elapsed()));
    // What follows the first sync, such as looking for an earlier proxy's rules, is not part of a change.
    thread::sleep(Duration::from_secs(5));
    measure_changes(&lab, &server, size, &proxy)?;
    compare_connections(&lab, &empty, &tracked, size)?;
    println!("  peak resident memory                 {:8.1} MiB", proxy.peak_memory()? / 1024.0);
    ensure!(proxy.child.try_wait()?.is_none(), "the proxy ended");
    Ok(())
}

/// Looking at a table creates it.
fn iptables(lab: &Lab, flavour: &str, arguments: &[&str]) -> Result<()> {
    let mut command = lab.here().command(format!("iptables-{flavour}"))?;
    let status = command.args(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "iptables-{flavour} {arguments:?}: {status}");
    Ok(())
}

fn cluster_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + 2 + index * 6)
}

fn is_probe(index: u32, size: &Size) -> bool {
    (index + 1).is_multiple_of((size.services / PROBES).max(1))
}

fn fill(server: &ApiServer, size: &Size) {
    server.apply(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
    }));
    for index in 0..size.services {
        server.apply(service(index));
        let endpoints = if is_probe(index, size) { vec![PODS[0]] } else { synthetic(index, size.endpoints) };
        server.apply(slice(index, &endpoints));
    }
}

fn synthetic(index: u32, count: u32) -> Vec<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + index * count;
    (first..first + count).map(Ipv4Addr::from).collect()
}

fn service(index: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": format!("team-{}", index % 50), "name": format!("service-{index:05}"),
            "uid": format!("00000000-0000-0000-0000-{index:012}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip(index), "clusterIPs": [cluster_ip(index)],
            "ipFamilies": ["IPv4"], "selector": {"app": "x"}, "sessionAffinity": "None",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": POD_PORT}]},
        "status": {"loadBalancer": {}},
    })
}

fn slice(index: u32, endpoints: &[Ipv4Addr]) -> Value {
    let endpoint = |address: &Ipv4Addr| {
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", u32::from(*address) % 500),
            "targetRef": {"kind": "Pod", "name": format!("pod-{address}"), "uid": "11111111-2222-3333-4444-555555555555"},
        })
    };
    let name = format!("service-{index:05}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": format!("team-{}", index % 50), "name": format!("{name}-abcde"),
            "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The proxy under test, in "here".
struct Proxy {
    child: Child,
}

impl Proxy {
    fn start(lab: &Lab, server: &ApiServer, flavour: &str) -> Result<Self> {
        let mut command = lab.here().command(env!("CARGO_BIN_EXE_ferrovia"))?;
        command.args(["proxy", "--proxy-mode=iptables", "--hostname-override=here"]);
        command.arg("--iptables-flavour").arg(flavour).arg("--kubeconfig").arg(server.kubeconfig());
        command.args(["--cluster-cidr", CLUSTER_CIDR]);
        let log = fs::File::create(env::temp_dir().join("ferrovia-bench.log"))?;
        Ok(Proxy { child: command.stdin(Stdio::null()).stderr(log).spawn()? })
    }

    /// Seconds of CPU, of the process and of all programs that it ran.
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
        let fields: Vec<f64> = after_name.split_whitespace().skip(11).take(4).flat_map(str::parse).collect();
        Ok(fields.iter().sum::<f64>() / 100.0)
    }

    /// In KiB.
    fn peak_memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM")?;
        Ok(line.split_whitespace().nth(1).context("no figure")?.parse()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until_reachable(lab: &Lab, size: &Size) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    for index in (0..size.services).filter(|index| is_probe(*index, size)) {
        while answer(lab, cluster_ip(index))?.is_none() {
            ensure!(Instant::now() < deadline, "Service {index} is not reachable after 5 minutes");
        }
    }
    Ok(())
}

/// Which pod answers on port 80 of an address, if one does at once.
fn answer(lab: &Lab, address: Ipv4Addr) -> Result<Option<IpAddr>> {
    let ask = || -> Option<IpAddr> {
        let to = SocketAddr::from((address, 80));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(20)).ok()?;
        leave_no_trace(&stream).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
        let mut text = [0; 128];
        let length = stream.read(&mut text).ok()?;
        let server = std::str::from_utf8(&text[..length]).ok()?.split_whitespace().next()?;
        server.parse::<SocketAddr>().ok().map(|server| server.ip())
    };
    let host = lab.host_of(CLIENT.into()).context("no client")?;
    Ok(host.namespace.run(ask)?)
}

/// Moves the endpoint of the last probe to and fro.
fn measure_changes(lab: &Lab, server: &ApiServer, size: &Size, proxy: &Proxy) -> Result<()> {
    let last = (0..size.services).rev().find(|index| is_probe(*index, size)).context("no probe")?;
    let mut times = Vec::new();
    let before = proxy.cpu()?;
    for change in 1..=CHANGES {
        let pod = PODS[change % 2];
        let written = Instant::now();
        server.apply(slice(last, &[pod]));
        while answer(lab, cluster_ip(last))? != Some(pod.into()) {
            ensure!(written.elapsed() < Duration::from_secs(60), "traffic did not follow within a minute");
            // Not a loop that takes a CPU away from what it measures.
            thread::sleep(Duration::from_millis(1));
        }
        times.push(millis(written.elapsed()));
        // A second change at once would wait for the pause that this one's cost demands.
        thread::sleep(Duration::from_millis(1500));
    }
    let cpu = (proxy.cpu()? - before) / CHANGES as f64 * 1000.0;
    println!(
        "  endpoint changed to traffic follows  {:8.1} ms median, {:.1} max",
        median(&mut times),
        max(&times)
    );
    println!("  CPU for it, programs it runs included{cpu:8.1} ms");
    Ok(())
}

/// New connections through the last Service and past all of them, each against the same with an empty nat table, in turns:
/// without connection tracking, which nobody can do without who translates addresses, and with it.
fn compare_connections(lab: &Lab, empty: &Lab, tracked: &Lab, size: &Size) -> Result<()> {
    pin_to_one_cpu()?;
    let last = (0..size.services).rev().find(|index| is_probe(*index, size)).context("no probe")?;
    let service = SocketAddr::from((cluster_ip(last), 80));
    let pod = SocketAddr::from((PODS[CHANGES % 2], POD_PORT));
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (times, (lab, to)) in
            times.iter_mut().zip([(empty, pod), (tracked, pod), (lab, service), (lab, pod)])
        {
            times.extend(connect_times(lab, to)?);
        }
    }
    let [empty, tracked, through, past] = times.map(|mut times| median(&mut times));
    println!("  new connection, an empty nat table   {empty:8.1} us median; with tracking {tracked:.1}");
    for (what, time) in [("through the last Service", through), ("to an address that is no Service", past)] {
        println!("  {what:36} {time:8.1} us, {:.2} x; {:.2} x", time / empty, time / tracked);
    }
    Ok(())
}

/// Client, server and the kernel's work for both on one CPU: whether a packet wakes a sleeping one costs more than any rule.
fn pin_to_one_cpu() -> Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.file_name().to_string_lossy().parse()?;
        rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(task), &cpus)?;
    }
    Ok(())
}

fn connect_times(lab: &Lab, to: SocketAddr) -> Result<Vec<f64>> {
    let connect = || -> std::io::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let started = Instant::now();
            let stream = TcpStream::connect(to)?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
            drop(stream);
        }
        Ok(times)
    };
    let host = lab.host_of(CLIENT.into()).context("no client")?;
    Ok(host.namespace.run(connect)??)
}

/// Closes with a reset: with thousands of ports in TIME_WAIT, finding a free one takes longer than connecting.
fn leave_no_trace(stream: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
