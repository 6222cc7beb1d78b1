//! `ferrovia demo --nodes 3`: the pod network at work.
//!
//! Nothing but the proxies makes routes between the nodes of the lab. Each client says whom its server saw.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Arguments;
use crate::lab::mesh::{self, Mesh};
use crate::lab::proxy::Proxy;
use crate::lab::{LabError, Observed, POD_PORT};
use crate::model::{Family, Protocol};

const START: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a Service may take to be programmed on all nodes.
const SETTLING: Duration = Duration::from_secs(10);
const SERVICE: &str = "10.96.0.10:80";
/// On each node.
const PODS: u8 = 2;

pub fn run(nodes: u8, arguments: &Arguments, interrupted: &AtomicBool) -> anyhow::Result<ExitCode> {
    let mut mesh = Mesh::new(nodes).context("cannot set up the lab")?;
    println!("ferrovia demo: {nodes} nodes on one segment that know no way to each other's pods\n");
    let started = Instant::now();
    let _proxies = start(&mesh, arguments)?;
    println!("{:4.1} s  all {nodes} proxies are ready", started.elapsed().as_secs_f32());
    attach(&mut mesh)?;
    println!("{:4.1} s  ferrovia-cni has attached {PODS} pods on each\n", started.elapsed().as_secs_f32());
    let mut failures = 0;
    for family in Family::ALL {
        failures += show_pods(&mesh, family)?;
    }
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    failures += show_service(&mesh)?;
    show_routes(&mesh)?;
    match failures {
        0 => println!("All requests were answered, none failed."),
        _ => println!("{failures} requests went wrong."),
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(mesh: &Mesh, arguments: &Arguments) -> anyhow::Result<Vec<Proxy>> {
    let manifests: String = mesh.nodes().map(|node| mesh::manifest(node, node)).collect();
    mesh.write("nodes.yaml", &manifests)?;
    let mut flags = vec![format!("--proxy-mode={}", arguments.mode)];
    flags.extend(arguments.flags.iter().cloned());
    let mut proxies = Vec::new();
    for node in mesh.nodes() {
        proxies.push(mesh.start(node, &arguments.program, &flags)?);
    }
    for (node, proxy) in mesh.nodes().zip(&mut proxies) {
        mesh.wait_until_ready(node, proxy, START)?;
    }
    Ok(proxies)
}

/// By the plugin that the proxies have installed, called as a container runtime does.
fn attach(mesh: &mut Mesh) -> anyhow::Result<()> {
    for node in mesh.nodes() {
        for _ in 0..PODS {
            mesh.attach(node).with_context(|| format!("cannot attach a pod on {}", mesh::name(node)))?;
        }
    }
    let service = service(mesh)?;
    Ok(mesh.write("service.yaml", &service)?)
}

/// A Service in front of one pod of each node.
fn service(mesh: &Mesh) -> Result<String, LabError> {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: web}}\n\
         spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\n\
         kind: EndpointSlice\nmetadata:\n  namespace: demo\n  name: web-1\n  \
         labels: {{kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{{port: {POD_PORT}}}]\nendpoints:\n"
    );
    for node in mesh.nodes() {
        let (pod, name) = (mesh.pod(node, PODS, Family::V4)?, mesh::name(node));
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "  - {{addresses: [\"{pod}\"], nodeName: {name}, conditions: {{ready: true}}}}");
    }
    Ok(text)
}

/// From a pod of each node to one of the next, to a node and to the outside. Returns how many went wrong.
fn show_pods(mesh: &Mesh, family: Family) -> anyhow::Result<usize> {
    println!("{family}: from            to                     is seen as");
    let mut failures = 0;
    for node in mesh.nodes() {
        let next = node % mesh.nodes().end() + 1;
        let client = mesh.pod(node, 1, family)?;
        let expected = [
            ("pod", mesh.pod(next, PODS, family)?, client),
            ("node", mesh::address(next, family), client),
            ("outside", mesh::outside(family), mesh::address(node, family)),
        ];
        for (what, server, as_whom) in expected {
            failures += usize::from(!show(mesh, client, (what, server), as_whom)?);
        }
    }
    println!();
    Ok(failures)
}

fn show(mesh: &Mesh, client: IpAddr, server: (&str, IpAddr), as_whom: IpAddr) -> anyhow::Result<bool> {
    let (what, address) = server;
    let observed = mesh.lab.probe(client, Protocol::Tcp, SocketAddr::new(address, POD_PORT), PATIENCE)?;
    let (seen, good) = match observed {
        Observed::Answered { client, .. } => (client.ip().to_string(), client.ip() == as_whom),
        other => (other.to_string(), false),
    };
    let remark = if good { "" } else { "  WRONG" };
    println!("      {client:<15} {what:<7} {address:<14} {seen}{remark}");
    Ok(good)
}

/// Asks through the Service until every endpoint has answered.
fn show_service(mesh: &Mesh) -> anyhow::Result<usize> {
    let frontend: SocketAddr = SERVICE.parse()?;
    let client = mesh.pod(1, 1, Family::V4)?;
    let deadline = Instant::now() + SETTLING;
    let mut answers = std::collections::BTreeMap::<IpAddr, usize>::new();
    let mut strange = 0;
    while answers.len() < mesh.nodes().count() && Instant::now() < deadline {
        match mesh.lab.probe(client, Protocol::Tcp, frontend, PATIENCE)? {
            Observed::Answered { server, client: as_whom } if as_whom.ip() == client => {
                *answers.entry(server.ip()).or_default() += 1;
            }
            Observed::Answered { .. } => strange += 1,
            _ => {}
        }
    }
    println!("Service {SERVICE} from {client}, answered by:");
    for (server, count) in &answers {
        println!("      {server:<15} {count} times");
    }
    println!();
    Ok(strange + mesh.nodes().count() - answers.len())
}

fn show_routes(mesh: &Mesh) -> anyhow::Result<()> {
    println!("ip route show proto 104, on {}:", mesh::name(1));
    let mut command = mesh.node(1).namespace.command("ip")?;
    let output = command.args(["route", "show", "proto", "104"]).output().context("cannot run ip")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("      {}", line.trim());
    }
    println!();
    Ok(())
}
