//! A cluster of equal nodes on one segment, for the pod network: nobody but the proxies on them knows the way to their pods.
//!
//! ```text
//!   10.244.1.1 ...                10.244.2.1 ...                10.244.3.1 ...
//!   pods of "node1" ── node1      pods of "node2" ── node2      pods of "node3" ── node3
//!                  172.18.0.11                   172.18.0.12                   172.18.0.13
//!                        └───────────── 172.18.0.0/16 ┴─────────────────────────────┘
//!                                             │
//!                                          gateway
//!                                         172.18.0.1
//! ```
//!
//! Each has IPv6 addresses too. The gateway knows no way to pods: what comes to it with a pod's address gets no answer.
//! Pods are attached as on a real node: by the plugin that the node's proxy has installed, with the configuration that it has
//! written, called by a [`Runtime`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::proxy::{self, MANIFESTS, Proxy};
use super::runtime::{Container, Runtime};
use super::topology::{self, BRIDGE, GATEWAY, INTERFACE};
use super::{Host, Lab, LabError, POD_PORT};
use crate::kernel::netns::Namespace;
use crate::kernel::rtnetlink::{Hop, Network, RoutingTable};
use crate::model::{Family, Protocol};

const FIRST_NODE: u16 = 10;
/// Below `/run`, which each node has for itself, so that it is gone with the lab.
pub const CONFIGURATIONS: &str = "/run/cni/net.d";
pub const PLUGINS: &str = "/run/cni/bin";
pub const LEASES: &str = "/run/cni/leases";

/// What hosts of the lab have and a node has not before its proxy starts.
const NOT_FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")];

/// Dropping it removes everything.
pub struct Mesh {
    pub lab: Lab,
    nodes: u8,
    /// By the names of pods.
    attached: BTreeMap<String, Attached>,
}

/// What a runtime remembers of a pod that it has attached.
struct Attached {
    capabilities: Value,
    result: Value,
}

/// By its number, from 1.
pub fn name(node: u8) -> String {
    format!("node{node}")
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
    /// Sets up nodes without pods, and lets every node and the gateway serve on [`POD_PORT`].
    pub fn new(nodes: u8) -> Result<Self, LabError> {
        let gateway = topology::host("gateway", topology::segment_addresses(GATEWAY))?;
        let mut hosts = Vec::new();
        for node in 1..=nodes {
            let host = topology::host(&name(node), addresses(node))?;
            host.namespace.run(|| topology::set_sysctls(NOT_FORWARDING))??;
            hosts.push(host);
        }
        topology::build_segment(&gateway, &hosts.iter().collect::<Vec<_>>())?;
        hosts.iter().try_for_each(route_node)?;
        hosts.push(gateway);
        let mesh = Mesh { lab: Lab::of(hosts)?, nodes, attached: BTreeMap::new() };
        mesh.lab.hosts.iter().try_for_each(|host| mesh.lab.serve(host))?;
        Ok(mesh)
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

    /// The container runtime of a node.
    pub fn runtime(&self, node: u8) -> Runtime<'_> {
        Runtime {
            node: &self.node(node).namespace,
            configurations: Path::new(CONFIGURATIONS),
            plugins: Path::new(PLUGINS),
        }
    }

    /// Starts a pod on a node that is ready, lets it serve on [`POD_PORT`], and returns its number there, from 1.
    pub fn attach(&mut self, node: u8) -> Result<u8, LabError> {
        self.attach_with(node, json!({}))
    }

    /// The same, with what it wants of the plugins' capabilities.
    pub fn attach_with(&mut self, node: u8, capabilities: Value) -> Result<u8, LabError> {
        let number = (1..=u8::MAX).find(|number| self.pod_host(node, *number).is_err()).unwrap_or(u8::MAX);
        let name = pod_name(node, number);
        let namespace = Namespace::new()?;
        let id = container_id(&name);
        let container = Container { id: &id, namespace: &namespace, capabilities: &capabilities };
        let result = self.runtime(node).add(container).inspect_err(|_| {
            // As runtimes do, and it may fail as well.
            let _ = self.runtime(node).del(container, &Value::Null);
        })?;
        let addresses = addresses_in(&result);
        self.attached.insert(name.clone(), Attached { capabilities, result });
        self.lab.hosts.push(Host { name, addresses, namespace });
        self.lab.serve(self.pod_host(node, number)?)?;
        Ok(number)
    }

    /// Ends a pod.
    pub fn detach(&mut self, node: u8, number: u8) -> Result<(), LabError> {
        self.with_attached(node, number, |runtime, container, result| runtime.del(container, result))?;
        let host = self.pod_host(node, number)?;
        for address in &host.addresses {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.lab.stop_listening(SocketAddr::new(*address, POD_PORT), protocol);
            }
        }
        let name = pod_name(node, number);
        self.attached.remove(&name);
        self.lab.hosts.retain(|host| host.name != name);
        Ok(())
    }

    /// Lets the runtime do something with a pod and what it remembers of it.
    pub fn with_attached<T>(
        &self,
        node: u8,
        number: u8,
        work: impl FnOnce(Runtime<'_>, Container<'_>, &Value) -> Result<T, LabError>,
    ) -> Result<T, LabError> {
        let name = pod_name(node, number);
        let attached = self.attached.get(&name).ok_or_else(|| LabError::NoSuchPod(name.clone()))?;
        let namespace = &self.pod_host(node, number)?.namespace;
        let id = container_id(&name);
        let container = Container { id: &id, namespace, capabilities: &attached.capabilities };
        work(self.runtime(node), container, &attached.result)
    }

    pub fn pod_host(&self, node: u8, number: u8) -> Result<&Host, LabError> {
        let name = pod_name(node, number);
        let found = self.lab.hosts.iter().find(|host| host.name == name);
        found.ok_or(LabError::NoSuchPod(name))
    }

    /// The pod's address of a family.
    pub fn pod(&self, node: u8, number: u8, family: Family) -> Result<IpAddr, LabError> {
        let addresses = &self.pod_host(node, number)?.addresses;
        let found = addresses.iter().copied().find(|address| Family::of(*address) == family);
        found.ok_or_else(|| LabError::NoSuchPod(format!("{} in {family}", pod_name(node, number))))
    }

    /// The command line of a node's proxy, with the pod network on.
    pub fn command(&self, node: u8, program: &Path) -> Result<Command, LabError> {
        let host = &self.node(node).namespace;
        host.run(|| fs::create_dir_all(MANIFESTS))?.map_err(LabError::Manifests)?;
        let mut command = host.command(program).map_err(LabError::Proxy)?;
        command.args(["proxy", "--pod-network=host-gw", "--detect-local-mode=NodeCIDR"]);
        command.args(["--hostname-override", &name(node), "--healthz-bind-address", "0.0.0.0:10256"]);
        command.args(["--cni-conf-dir", CONFIGURATIONS, "--cni-bin-dir", PLUGINS, "--cni-data-dir", LEASES]);
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

fn pod_name(node: u8, number: u8) -> String {
    format!("{}/{number}", name(node))
}

fn container_id(pod: &str) -> String {
    pod.replace('/', "-")
}

/// IPv4 first, as the plugin has it.
fn addresses_in(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map_or(&[][..], |ips| ips);
    let text = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.iter().filter_map(text).collect()
}

/// The interface that each node has on the segment, and the gateway's.
pub const SEGMENT_INTERFACES: [&str; 2] = [INTERFACE, BRIDGE];
