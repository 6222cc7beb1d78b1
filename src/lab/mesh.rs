//! A cluster of equal nodes on one segment, for the pod network: nobody but the proxies on them knows the way to their pods.
//!
//! ```text
//!   10.244.1.5, .6                10.244.2.5, .6                10.244.3.5, .6
//!   pods of "node1" ── node1      pods of "node2" ── node2      pods of "node3" ── node3
//!                  172.18.0.11                   172.18.0.12                   172.18.0.13
//!                        └───────────── 172.18.0.0/16 ┴─────────────────────────────┘
//!                                             │
//!                                          gateway
//!                                         172.18.0.1
//! ```
//!
//! Each has IPv6 addresses too. The gateway knows no way to pods: what comes to it with a pod's address gets no answer.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::proxy::{self, MANIFESTS, Proxy};
use super::topology::{self, BRIDGE, GATEWAY, INTERFACE};
use super::{Host, Lab, LabError, POD_PORT};
use crate::kernel::rtnetlink::{Hop, Network, RoutingTable};
use crate::model::{Family, Protocol};

/// The last parts of the pods' addresses on each node.
pub const PODS: [u8; 2] = [5, 6];
const FIRST_NODE: u16 = 10;
/// Below `/run`, so that it is gone with the lab.
const PLACEHOLDER: &str = "/run/ferrovia-cni";
pub const CONFIGURATIONS: &str = "/run/cni/net.d";
const PLUGINS: &str = "/run/cni/bin";

/// What hosts of the lab have and a node has not before its proxy starts.
const NOT_FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")];

/// Dropping it removes everything.
pub struct Mesh {
    pub lab: Lab,
    nodes: u8,
}

/// By its number, from 1.
pub fn name(node: u8) -> String {
    format!("node{node}")
}

/// The pod's address of a family.
pub fn pod(node: u8, number: u8, family: Family) -> IpAddr {
    let network = topology::pod_network(node, family).addr();
    match network {
        IpAddr::V4(address) => (u32::from(address) | u32::from(number)).to_be_bytes().into(),
        IpAddr::V6(address) => (u128::from(address) | u128::from(number)).to_be_bytes().into(),
    }
}

/// The node's InternalIP of a family.
pub fn address(node: u8, family: Family) -> IpAddr {
    let [v4, v6] = addresses(node);
    if family == Family::V4 { v4 } else { v6 }
}

/// The gateway's address, which is outside of the cluster.
pub fn outside(family: Family) -> IpAddr {
    let [v4, v6] = topology::segment_addresses(GATEWAY);
    if family == Family::V4 { v4 } else { v6 }
}

fn addresses(node: u8) -> [IpAddr; 2] {
    topology::segment_addresses(FIRST_NODE + u16::from(node))
}

/// A Node of the API, made in this second of 1970.
pub fn manifest(node: u8, created: u8) -> String {
    let [v4, v6] = addresses(node);
    let cidr = |family| topology::pod_network(node, family);
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  uid: uid-{name}\n  \
         creationTimestamp: \"1970-01-01T00:00:{created:02}Z\"\n\
         spec:\n  podCIDR: {cidr4}\n  podCIDRs: [\"{cidr4}\", \"{cidr6}\"]\n\
         status:\n  addresses:\n    - {{type: InternalIP, address: \"{v4}\"}}\n    - {{type: InternalIP, address: \"{v6}\"}}\n",
        name = name(node),
        cidr4 = cidr(Family::V4),
        cidr6 = cidr(Family::V6),
    )
}

impl Mesh {
    /// Sets up all hosts and lets every pod, every node and the gateway serve on [`POD_PORT`].
    pub fn new(nodes: u8) -> Result<Self, LabError> {
        let gateway = topology::host("gateway", topology::segment_addresses(GATEWAY))?;
        let mut hosts = Vec::new();
        for node in 1..=nodes {
            let host = topology::host(&name(node), addresses(node))?;
            host.namespace.run(|| topology::set_sysctls(NOT_FORWARDING))??;
            hosts.push(host);
        }
        topology::build_segment(&gateway, &hosts.iter().collect::<Vec<_>>())?;
        let mut pods = Vec::new();
        for (host, node) in hosts.iter().zip(1..) {
            route_node(host)?;
            for number in PODS {
                pods.push(topology::attach_pod(host, node, number)?);
            }
        }
        hosts.push(gateway);
        hosts.extend(pods);
        let mesh = Mesh { lab: Lab::of(hosts)?, nodes };
        mesh.serve_on_nodes()?;
        Ok(mesh)
    }

    fn serve_on_nodes(&self) -> Result<(), LabError> {
        let machines = self.lab.hosts().iter().filter(|host| !host.is_pod());
        for address in machines.flat_map(|host| host.addresses.clone()) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.lab.listen(SocketAddr::new(address, POD_PORT), protocol)?;
            }
        }
        Ok(())
    }

    pub fn nodes(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.nodes
    }

    pub fn node(&self, node: u8) -> &Host {
        &self.lab.hosts()[usize::from(node) - 1]
    }

    pub fn gateway(&self) -> &Host {
        &self.lab.hosts()[usize::from(self.nodes)]
    }

    /// The command line of a node's proxy, with the pod network on.
    pub fn command(&self, node: u8, program: &Path) -> Result<Command, LabError> {
        let host = &self.node(node).namespace;
        host.run(|| fs::create_dir_all(MANIFESTS).and_then(|()| place_plugin()))?
            .map_err(LabError::Manifests)?;
        let mut command = host.command(program).map_err(LabError::Proxy)?;
        command.args(["proxy", "--pod-network=host-gw", "--detect-local-mode=NodeCIDR"]);
        command.args(["--hostname-override", &name(node), "--healthz-bind-address", "0.0.0.0:10256"]);
        command.args([
            "--cni-conf-dir",
            CONFIGURATIONS,
            "--cni-bin-dir",
            PLUGINS,
            "--cni-plugin",
            PLACEHOLDER,
        ]);
        Ok(command)
    }

    /// Starts a node's proxy on its directory of manifests.
    pub fn start(&self, node: u8, program: &Path, flags: &[String]) -> Result<Proxy, LabError> {
        let mut command = self.command(node, program)?;
        command.args(["--manifests", MANIFESTS]).args(flags);
        Proxy::spawn(command)
    }

    /// Writes or replaces a file of a node's directory of manifests.
    pub fn write_on(&self, node: u8, file: &str, text: &str) -> Result<(), LabError> {
        proxy::write_manifest_on(&self.node(node).namespace, file, text)
    }

    /// The same on every node.
    pub fn write(&self, file: &str, text: &str) -> Result<(), LabError> {
        self.nodes().try_for_each(|node| self.write_on(node, file, text))
    }

    /// Status and body of a node's `/readyz`.
    pub fn readyz(&self, node: u8) -> Result<(u16, String), LabError> {
        let server = SocketAddr::new(address(node, Family::V4), 10256);
        proxy::get_from(&self.node(node).namespace, server, "/readyz")
    }

    /// Waits until a node's proxy has all in place.
    pub fn wait_until_ready(&self, node: u8, proxy: &mut Proxy, patience: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.readyz(node);
            if matches!(&answer, Ok((200, _))) {
                return Ok(());
            }
            if !proxy.is_running() {
                return Err(LabError::ProxyEnded { log: proxy.log() });
            }
            if Instant::now() >= deadline {
                return Err(LabError::NotHealthy {
                    patience,
                    answer: format!("{answer:?}"),
                    log: proxy.log(),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn route_node(node: &Host) -> Result<(), LabError> {
    topology::on_segment(node, |network: &mut Network, link| {
        for gateway in topology::segment_addresses(GATEWAY) {
            let hop = Hop { gateway: Some(gateway), link };
            network.add_route(topology::everything(Family::of(gateway)), hop, RoutingTable::Main)?;
        }
        Ok(())
    })
}

/// The lab attaches its pods itself, and the proxy installs what it is told to be the plugin.
fn place_plugin() -> std::io::Result<()> {
    fs::write(PLACEHOLDER, "#!/bin/sh\nexit 1\n")?;
    fs::set_permissions(PLACEHOLDER, fs::Permissions::from_mode(0o755))
}

/// The interface that each node has on the segment, and the gateway's.
pub const SEGMENT_INTERFACES: [&str; 2] = [INTERFACE, BRIDGE];
