//! CHECK: whether an attachment is as its ADD left it, and later plugins changed it.

use std::net::IpAddr;

use super::add::open_namespace;
use super::config::Config;
use super::error::CniError;
use super::node::{self, Node};
use super::parameters::Parameters;
use super::result::{CniResult, Interface, Ip, Route};
use super::{bandwidth, host_ports};
use crate::kernel::rtnetlink::{InstalledLink, InstalledRoute, Link, Network};
use crate::model::{Family, network_of_host};

pub fn check(config: &Config, parameters: &Parameters) -> Result<(), CniError> {
    let missing = || CniError::Config("prevResult is missing".into());
    let result = CniResult::parse(config.prev_result.as_ref().ok_or_else(missing)?)?;
    let (place, interface) = result
        .pod_interface(&parameters.interface)
        .ok_or_else(|| CniError::Config(format!("prevResult has no interface {}", parameters.interface)))?;
    let ips: Vec<&Ip> = result.ips.iter().filter(|ip| ip.interface == Some(place)).collect();
    let mut node = Node::open(config)?;
    let held = check_record(&mut node, parameters, &ips)?;
    let key = node::key(parameters);
    let node_end = check_node_end(&mut node, &key.node_end(&config.name), &held)?;
    let namespace = open_namespace(parameters)?;
    let pod_end = namespace.run(|| check_pod(&result, interface, &ips, node_end.mtu))??;
    if let Some(limits) = config.runtime_config.bandwidth {
        bandwidth::check(&mut node.network, &namespace, (node_end.link, pod_end), limits)?;
    }
    host_ports::check(&node_end.name, &held, &config.runtime_config.port_mappings)
}

fn differs(what: impl Into<String>) -> CniError {
    CniError::Differs(what.into())
}

/// Every address that we gave must be among those of the result. Others may be a later plugin's.
fn check_record(node: &mut Node, parameters: &Parameters, ips: &[&Ip]) -> Result<Vec<IpAddr>, CniError> {
    let held = node.held_by(&node::key(parameters))?;
    if held.is_empty() {
        return Err(differs("it holds no addresses"));
    }
    match held.iter().find(|address| ips.iter().all(|ip| ip.address.addr() != **address)) {
        None => Ok(held),
        Some(address) => Err(differs(format!("it holds {address}, which prevResult does not have"))),
    }
}

fn check_node_end(node: &mut Node, name: &str, held: &[IpAddr]) -> Result<InstalledLink, CniError> {
    let found = node.network.find_link(name)?.ok_or_else(|| differs(format!("{name} is missing")))?;
    if !found.is_up {
        return Err(differs(format!("{name} is down")));
    }
    for address in held.iter().copied() {
        let route = node.network.route_to(address)?;
        let leads = |route: &InstalledRoute| {
            route.link == Some(found.link) && route.destination == network_of_host(address)
        };
        if !route.as_ref().is_some_and(leads) {
            return Err(differs(format!("the node has no route to {address} through {name}")));
        }
    }
    Ok(found)
}

/// In the namespace of the pod. A later plugin may have lowered the MTU without telling, but what the node's end does not
/// take is lost.
fn check_pod(
    result: &CniResult,
    interface: &Interface,
    ips: &[&Ip],
    largest_mtu: u32,
) -> Result<Link, CniError> {
    let mut network = Network::open()?;
    let name = &interface.name;
    let found = network.find_link(name)?.ok_or_else(|| differs(format!("{name} is missing")))?;
    if !found.is_up {
        return Err(differs(format!("{name} is down")));
    }
    let mac = found.hardware_address.map(|mac| mac.to_string()).unwrap_or_default();
    if !interface.mac.is_empty() && !mac.eq_ignore_ascii_case(&interface.mac) {
        return Err(differs(format!("{name} has the hardware address {mac} instead of {}", interface.mac)));
    }
    if found.mtu > largest_mtu {
        return Err(differs(format!("{name} has the MTU {}, above {largest_mtu}", found.mtu)));
    }
    let addresses = network.addresses(found.link)?;
    if let Some(ip) = ips.iter().find(|ip| !addresses.contains(&ip.address)) {
        return Err(differs(format!("{name} has not the address {}", ip.address)));
    }
    check_routes(&mut network, result)?;
    Ok(found.link)
}

/// Those that the result tells, through whatever interface: a pod may have other networks.
fn check_routes(network: &mut Network, result: &CniResult) -> Result<(), CniError> {
    for family in Family::ALL {
        let mut wanted = result.routes.iter().filter(|route| family.contains(&route.dst)).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let routes = network.routes(family)?;
        let is_there = |wanted: &Route| {
            routes.iter().any(|route| {
                route.destination == wanted.dst.trunc() && (wanted.gw.is_none() || route.gateway == wanted.gw)
            })
        };
        if let Some(route) = wanted.find(|route| !is_there(route)) {
            return Err(differs(format!("the pod has no route to {}", route.dst)));
        }
    }
    Ok(())
}
