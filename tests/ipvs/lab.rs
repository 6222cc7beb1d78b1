//! The whole program in a lab, and what other programs read of IPVS there.

use std::collections::BTreeMap;

use ferrovia::lab::Observed;
use ferrovia::lab::proxy::get;
use ferrovia::model::Protocol;

use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, Rig, address, endpoints, eventually, service};

pub const WEB: &str = "10.96.0.10:80";

/// The ClusterIP 10.96.0.10 in front of pods of "here" and "elsewhere", with annotations of the Service.
pub fn web(annotations: &str, pods: &[&str]) -> String {
    annotated(&crate::common::rig::web("type: NodePort", pods), annotations)
}

/// Gives the first object annotations, written as the inside of a flow mapping.
pub fn annotated(manifest: &str, annotations: &str) -> String {
    manifest.replacen("metadata: {", &format!("metadata: {{annotations: {{{annotations}}}, "), 1)
}

/// A Service `default/NAME` whose port 80 leads to port 8080 of pods.
pub fn at(name: &str, cluster_ip: &str, pods: &[&str]) -> String {
    service(name, &format!("clusterIP: {cluster_ip}, ports: [{{port: 80}}]"))
        + &endpoints(name, "TCP", 8080, pods)
}

pub fn without_proxy(manifests: &[(&str, &str)], flags: &[&str]) -> Rig {
    let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
    Rig::without_proxy(DataPlane::Ipvs, manifests, &flags)
}

pub fn start(manifests: &[(&str, &str)], flags: &[&str]) -> Rig {
    let mut rig = without_proxy(manifests, flags);
    rig.start_proxy();
    rig
}

/// Runs a shell script on the proxy's node.
pub fn shell(rig: &Rig, script: &str) -> String {
    let output = rig.lab.here().command("sh").unwrap().args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}\n{}", rig.evidence());
    String::from_utf8(output.stdout).unwrap()
}

/// A real server as `ipvsadm -Ln` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServer {
    pub weight: u32,
    pub active: u32,
    pub inactive: u32,
}

/// What a program lists of IPVS, once it says the same twice: others' changes of the table, which all namespaces share, may
/// cost a listing lines or make some come twice. Where it never does, as connections come and go, the last word.
pub fn steady(mut list: impl FnMut() -> String) -> String {
    let mut last = list();
    for _ in 0..10 {
        let next = list();
        if next == last {
            break;
        }
        last = next;
    }
    last
}

pub fn virtual_servers(rig: &Rig) -> String {
    steady(|| rig.run("ipvsadm -Ln"))
}

/// The lines of a virtual server: its own first.
fn lines_of(rig: &Rig, server: &str) -> Vec<String> {
    let listed = virtual_servers(rig);
    let begins = |line: &&str| line.split_whitespace().nth(1) == Some(server) && !line.contains("->");
    let mut lines = listed.lines().skip_while(|line| !begins(line));
    let own = lines.next().map(str::to_owned);
    let real = lines.take_while(|line| line.contains("->")).map(str::to_owned);
    own.into_iter().chain(real).collect()
}

/// Scheduler and options of a virtual server, as in `rr persistent 10800`; empty where there is none.
pub fn options(rig: &Rig, server: &str) -> String {
    let lines = lines_of(rig, server);
    let words = lines.first().map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>());
    words.unwrap_or_default().join(" ")
}

pub fn real_servers(rig: &Rig, server: &str) -> BTreeMap<String, RealServer> {
    let lines = lines_of(rig, server);
    let real = lines.iter().skip(1).map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |place: usize| words[place].parse().unwrap();
        (words[1].to_owned(), RealServer { weight: number(3), active: number(4), inactive: number(5) })
    });
    real.collect()
}

/// The weight that an endpoint has as a real server of [`WEB`].
pub fn weight(rig: &Rig, endpoint: &str) -> Option<u32> {
    real_servers(rig, WEB).get(&format!("{endpoint}:8080")).map(|real| real.weight)
}

#[track_caller]
pub fn wait_for_weight(rig: &Rig, endpoint: &str, wanted: Option<u32>) {
    assert!(eventually(PATIENCE, || weight(rig, endpoint) == wanted), "{endpoint}\n{}", rig.evidence());
}

/// The endpoint, without its port, that answers a new connection.
#[track_caller]
pub fn server_of(rig: &Rig, from: &str, to: &str) -> String {
    match rig.lab.probe(from.parse().unwrap(), Protocol::Tcp, address(to), PATIENCE).unwrap() {
        Observed::Answered { server, .. } => server.ip().to_string(),
        other => panic!("{from} {to}: {other}\n{}", rig.evidence()),
    }
}

/// How many of some new connections each endpoint got.
#[track_caller]
pub fn distribution(rig: &Rig, from: &str, to: &str, connections: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        *counts.entry(server_of(rig, from, to)).or_default() += 1;
    }
    counts
}

/// A metric of IPv4 as it stands in `/metrics`; 0 where it is not there.
pub fn metric(rig: &Rig, name: &str) -> u64 {
    value(rig, &format!("{name}{{ip_family=\"IPv4\"}} "))
}

/// How many things of a kind were put right, as told.
pub fn repaired(rig: &Rig, kind: &str) -> u64 {
    value(rig, &format!("ferrovia_drift_repaired_parts_total{{ip_family=\"IPv4\",kind=\"{kind}\"}} "))
}

fn value(rig: &Rig, series: &str) -> u64 {
    let (_, text) = get(&rig.lab, address("127.0.0.1:10249"), "/metrics").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    value.map_or(0, |value| value.parse().unwrap())
}
