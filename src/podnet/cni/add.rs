//! ADD: gives a pod an interface with addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::attachment::{AttachmentKey, hardware_address};
use super::config::Config;
use super::error::CniError;
use super::ipam::{Lease, Origin};
use super::link::{self, Connected, PodLink};
use super::node::{self, Node};
use super::parameters::Parameters;
use super::result::{CniResult, Interface, Ip, Route};
use super::version::Version;
use super::{bandwidth, host_ports};
use crate::kernel::netns::OpenedNamespace;
use crate::kernel::rtnetlink::{HardwareAddress, Network};
use crate::model::{Family, network_of_host};
use crate::podnet::state::{Condition, NodeState};

pub fn add(config: &Config, parameters: &Parameters) -> Result<CniResult, CniError> {
    config.validate()?;
    let mut result = previous(config)?;
    let wanted_mac = wanted_hardware_address(config)?;
    check_node(config)?;
    let namespace = open_namespace(parameters)?;
    refuse_existing(&namespace, &parameters.interface)?;
    let mut node = Node::open(config)?;
    let key = node::key(parameters);
    let lease = node.lease(&key)?;
    let pod = PodLink {
        node_end: key.node_end(&config.name),
        pod_end: parameters.interface.clone(),
        hardware_address: wanted_mac.unwrap_or_else(|| hardware_address(lease.addresses[0])),
        addresses: lease.addresses.clone(),
        mtu: config.mtu,
        alias: parameters.pod.clone(),
    };
    match attach(config, &mut node.network, &namespace, &pod, &lease) {
        Ok(connected) => {
            describe(config.version()?, parameters, &pod, connected, &mut result);
            result.dns = result.dns.or_else(|| config.dns.clone());
            Ok(result)
        }
        Err(error) => {
            roll_back(config, &mut node, &key, &pod);
            Err(error)
        }
    }
}

/// What an earlier plugin of the chain did.
fn previous(config: &Config) -> Result<CniResult, CniError> {
    let parsed = config.prev_result.as_ref().map(CniResult::parse).transpose()?;
    Ok(CniResult { cni_version: config.version()?.to_string(), ..parsed.unwrap_or_default() })
}

fn wanted_hardware_address(config: &Config) -> Result<Option<HardwareAddress>, CniError> {
    let parse =
        |text: &String| text.parse().map_err(|error| CniError::Config(format!("runtimeConfig.mac: {error}")));
    config.runtime_config.mac.as_ref().map(parse).transpose()
}

/// Whether the daemon says that this node can have pods, with addresses of these ranges.
fn check_node(config: &Config) -> Result<(), CniError> {
    let Some(path) = &config.state_file else { return Ok(()) };
    let Some(state) = NodeState::read(path)? else {
        return Err(CniError::Later("the node's pod network has not been set up since the boot".into()));
    };
    check_ranges(config, &state)?;
    match state.condition {
        Condition::Starting => Err(CniError::Later(format!("routes are not ready. {}", state.reason))),
        Condition::Ready | Condition::Limited => Ok(()),
    }
}

/// Ranges that several nodes have would give one address to several pods (containernetworking/cni#629).
pub fn check_ranges(config: &Config, state: &NodeState) -> Result<(), CniError> {
    let is_ours = |range: &&IpNet| state.pod_cidrs.iter().any(|cidr| cidr.contains(*range));
    match config.ranges.iter().find(|range| !is_ours(range)) {
        None => Ok(()),
        Some(range) => {
            let cidrs: Vec<String> = state.pod_cidrs.iter().map(IpNet::to_string).collect();
            let cidrs = cidrs.join(", ");
            Err(CniError::Config(format!("range {range} is not within the node's pod CIDRs {cidrs}")))
        }
    }
}

pub fn open_namespace(parameters: &Parameters) -> Result<OpenedNamespace, CniError> {
    let path = parameters.namespace.clone().unwrap_or_default();
    let wrong = |why: &str| CniError::Environment(format!("CNI_NETNS={} {why}", path.display()));
    let namespace = OpenedNamespace::open(&path)?.ok_or_else(|| wrong("does not exist"))?;
    let is_own =
        namespace.is_own().map_err(|source| CniError::Io { attempted: "look at CNI_NETNS", source })?;
    if is_own { Err(wrong("is the node's own network namespace")) } else { Ok(namespace) }
}

/// Before anything is taken: what an ADD of before has made is not this one's to take back.
fn refuse_existing(namespace: &OpenedNamespace, interface: &str) -> Result<(), CniError> {
    let existing = namespace.run(|| Network::open()?.find_link(interface))??;
    match existing {
        None => Ok(()),
        Some(_) => Err(CniError::Environment(format!(
            "CNI_IFNAME={interface}: the pod has an interface of this name"
        ))),
    }
}

fn attach(
    config: &Config,
    network: &mut Network,
    namespace: &OpenedNamespace,
    pod: &PodLink,
    lease: &Lease,
) -> Result<Connected, CniError> {
    if lease.origin == Origin::Earlier {
        link::disconnect(network, &pod.node_end)?;
    }
    let connected = link::connect(network, namespace, pod)?;
    if let Some(limits) = config.runtime_config.bandwidth {
        bandwidth::limit(network, namespace, connected, limits)?;
    }
    let mappings = &config.runtime_config.port_mappings;
    if !mappings.is_empty() {
        host_ports::open(&pod.node_end, &pod.addresses, mappings)?;
    }
    Ok(connected)
}

/// Takes everything back. What cannot be is left to the DEL that the runtime owes.
fn roll_back(config: &Config, node: &mut Node, key: &AttachmentKey, pod: &PodLink) {
    let mappings = &config.runtime_config.port_mappings;
    if !mappings.is_empty() {
        let closed = host_ports::close(&pod.node_end, &pod.addresses, mappings);
        node::note(closed.map_err(CniError::from));
    }
    let removed = link::disconnect(&mut node.network, &pod.node_end);
    let is_removed = removed.is_ok();
    node::note(removed);
    if is_removed {
        node::note(node.release(key));
    }
}

fn describe(
    version: Version,
    parameters: &Parameters,
    pod: &PodLink,
    connected: Connected,
    result: &mut CniResult,
) {
    let mtu = (version >= Version::V1_1_0).then_some(connected.mtu);
    let interface = |name: &str, mac: HardwareAddress, sandbox: String| Interface {
        name: name.to_owned(),
        mac: mac.to_string(),
        mtu,
        sandbox,
        ..Interface::default()
    };
    let sandbox = parameters.namespace.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    result.interfaces.push(interface(&pod.node_end, link::node_hardware_address(), String::new()));
    result.interfaces.push(interface(&pod.pod_end, pod.hardware_address, sandbox));
    let place = result.interfaces.len() - 1;
    for address in &pod.addresses {
        let gateway = link::gateway(Family::of(*address));
        result.ips.push(Ip::new(version, network_of_host(*address), gateway, place));
        result.routes.extend(routes(gateway));
    }
}

/// As they are in the pod.
fn routes(gateway: IpAddr) -> [Route; 2] {
    let everything = IpNet::new_assert(Family::of(gateway).unspecified(), 0);
    [Route::new(network_of_host(gateway), None), Route::new(everything, Some(gateway))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row N13 of the faults: a range that several nodes have (containernetworking/cni#629).
    #[test]
    fn n13_ranges_outside_the_nodes_pod_cidrs_are_refused() {
        let state = NodeState::new(
            vec!["10.244.1.0/24".parse().unwrap(), "fd00:244:1::/64".parse().unwrap()],
            Condition::Ready,
            "",
        );
        let check = |ranges: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"pods","ranges":{ranges}}}"#);
            check_ranges(&Config::decode(text.as_bytes()).unwrap(), &state)
        };
        check(r#"["10.244.1.0/24","fd00:244:1::/64"]"#).unwrap();
        check(r#"["10.244.1.128/25"]"#).unwrap();
        for ranges in [r#"["10.244.0.0/16"]"#, r#"["10.244.1.0/24","10.244.2.0/24"]"#, r#"["fd00::/16"]"#] {
            let error = check(ranges).unwrap_err();
            assert_eq!(error.code(), 7, "{error}");
        }
    }
}
