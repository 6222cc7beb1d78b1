//! The pod network of the whole program, in namespaces: three nodes on one segment, whose proxies alone know the ways, and
//! whose pods are attached by a runtime that calls the plugin with what the proxies have written.

mod api;
mod container;
mod containerd;
mod faults;
mod lost;
mod mesh;
mod podman;
mod pods;
mod services;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::lab::mesh::{self as lab, Mesh};
use ferrovia::lab::proxy::Proxy;
use ferrovia::lab::{Observed, POD_PORT};
use ferrovia::model::{Family, Protocol};
use serde_json::{Value, json};

use crate::common::rig::{PATIENCE, PROGRAM, SOON, eventually};

/// On each node, unless a case says otherwise.
const PODS: u8 = 2;

/// Nodes with a proxy each, all of one mode.
struct Cluster {
    mesh: Mesh,
    proxies: Vec<Proxy>,
}

impl Cluster {
    /// As many nodes as asked for, all of which know each other, with two pods each.
    fn new(nodes: u8, flags: &[&str]) -> Self {
        let cluster = Self::without_proxies(nodes);
        let manifests: String = cluster.mesh.nodes().map(|node| lab::manifest(node, node)).collect();
        cluster.mesh.write("nodes.yaml", &manifests).unwrap();
        cluster.start(flags)
    }

    fn without_proxies(nodes: u8) -> Self {
        let mesh = Mesh::new(nodes)
            .unwrap_or_else(|error| panic!("this test needs root: {:#}", anyhow::Error::new(error)));
        Cluster { mesh, proxies: Vec::new() }
    }

    fn start(mut self, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for node in self.mesh.nodes() {
            self.proxies.push(self.mesh.start(node, Path::new(PROGRAM), &flags).unwrap());
        }
        for (node, proxy) in self.mesh.nodes().zip(&mut self.proxies) {
            self.mesh
                .wait_until_ready(node, proxy, PATIENCE)
                .unwrap_or_else(|error| panic!("{:#}", anyhow::Error::new(error)));
        }
        for node in self.mesh.nodes() {
            for _ in 0..PODS {
                self.attach(node, json!({}));
            }
        }
        self
    }

    /// Starts a pod with these capabilities and returns its number on that node.
    fn attach(&mut self, node: u8, capabilities: Value) -> u8 {
        let attached = self.mesh.attach_with(node, capabilities);
        attached.unwrap_or_else(|error| panic!("{:#}\n{}", anyhow::Error::new(error), self.log(node)))
    }

    fn pod(&self, node: u8, number: u8, family: Family) -> IpAddr {
        self.mesh.pod(node, number, family).unwrap()
    }

    /// `kill -9`, and another one in its place.
    fn restart(&mut self, node: u8, flags: &[&str]) {
        self.proxies[usize::from(node) - 1].kill();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut proxy = self.mesh.start(node, Path::new(PROGRAM), &flags).unwrap();
        self.mesh.wait_until_ready(node, &mut proxy, PATIENCE).unwrap();
        self.proxies[usize::from(node) - 1] = proxy;
    }

    fn log(&self, node: u8) -> String {
        self.proxies.get(usize::from(node) - 1).map(Proxy::log).unwrap_or_default()
    }

    /// Runs a program on a node and returns what it prints.
    fn run(&self, node: u8, line: &str) -> String {
        run(&self.mesh.node(node).namespace, line)
    }

    fn ask(&self, from: IpAddr, protocol: Protocol, to: IpAddr) -> Observed {
        self.mesh.lab.probe(from, protocol, SocketAddr::new(to, POD_PORT), Duration::from_secs(3)).unwrap()
    }

    /// A server that sees whom it should, over both protocols.
    fn expect_seen_as(&self, from: IpAddr, to: IpAddr, seen: IpAddr) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            match self.ask(from, protocol, to) {
                Observed::Answered { server, client } => {
                    assert_eq!((server.ip(), client.ip()), (to, seen), "{protocol} from {from} to {to}");
                }
                other => panic!("{protocol} from {from} to {to}: {other}\n{}", self.log(1)),
            }
        }
    }

    fn routes(&self, node: u8, flag: &str) -> Vec<String> {
        let listed = self.run(node, &format!("ip {flag} route show proto 104"));
        listed.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn expect_routes_soon(&self, node: u8, expected: &[&str]) {
        let mut seen = Vec::new();
        let holds = eventually(SOON, || {
            seen = self.routes(node, "-4");
            seen.len() == expected.len()
                && seen.iter().zip(expected).all(|(line, part)| line.starts_with(part))
        });
        assert!(holds, "{seen:?} instead of {expected:?}\n{}", self.log(node));
    }

    fn metrics(&self, node: u8) -> String {
        let server = "127.0.0.1:10249".parse().unwrap();
        let host = &self.mesh.node(node).namespace;
        ferrovia::lab::proxy::get_from(host, server, "/metrics").map(|(_, body)| body).unwrap_or_default()
    }
}

fn run(host: &ferrovia::kernel::netns::Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let mut command = host.command(program).unwrap();
    let output =
        command.args(words).output().unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
