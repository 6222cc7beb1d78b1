//! The link between node and pod.
//!
//! Nothing about it needs an answer from the other end: each end knows the other's hardware address from the start, the
//! node without giving up to learn another one (the `tuning` plugin may change the pod's), the pod for good.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::error::CniError;
use crate::kernel::netns::OpenedNamespace;
use crate::kernel::rtnetlink::address::{self, Scope};
use crate::kernel::rtnetlink::neighbour::{self, Trust};
use crate::kernel::rtnetlink::{
    Change, HardwareAddress, Hop, Link, Network, Route, RoutingTable, VethEnd, link, route,
};
use crate::model::{Family, network_of_host};
use crate::podnet::POD_ROUTE_PROTOCOL;

/// Where every pod sends what it has for others. The node's end has these addresses, in case that somebody asks.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee)),
];
/// Of every node end: they never meet. The IPv6 gateway is what RFC 4291 derives from it.
const NODE_END: HardwareAddress = HardwareAddress([0xee; 6]);

/// What becomes of a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub node_end: String,
    pub pod_end: String,
    pub addresses: Vec<IpAddr>,
    pub hardware_address: HardwareAddress,
    pub mtu: Option<u32>,
    /// For people who look at the node's interfaces.
    pub alias: Option<String>,
}

/// The interfaces as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    pub node_end: Link,
    pub pod_end: Link,
    pub mtu: u32,
}

pub fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => GATEWAYS[0],
        Family::V6 => GATEWAYS[1],
    }
}

/// The hardware address of the node's end.
pub fn node_hardware_address() -> HardwareAddress {
    NODE_END
}

/// Makes the pair, the node's end first, so that the pod's has a carrier from the start. Where this fails, the pair may be
/// there: [`disconnect`] removes it.
pub fn connect(
    network: &mut Network,
    namespace: &OpenedNamespace,
    pod: &PodLink,
) -> Result<Connected, CniError> {
    let here = VethEnd { name: &pod.node_end, hardware_address: Some(NODE_END), mtu: pod.mtu };
    let there = VethEnd { name: &pod.pod_end, hardware_address: Some(pod.hardware_address), mtu: pod.mtu };
    network.apply([link::add_veth(&here, &there, namespace.as_fd())])?;
    let node_end = network.link(&pod.node_end)?;
    network.apply([link::without_link_local_address(node_end), link::up(node_end)])?;
    let pod_end = namespace.run(|| set_up_pod(pod))??;
    network.apply(node_changes(pod, node_end))?;
    let mtu = network.find_link(&pod.node_end)?.map(|link| link.mtu).unwrap_or_default();
    Ok(Connected { node_end, pod_end, mtu })
}

/// Removes the pair, from wherever it is. It may be gone already.
pub fn disconnect(network: &mut Network, node_end: &str) -> Result<(), CniError> {
    Ok(network.delete_link(node_end)?)
}

/// In the namespace of the pod.
fn set_up_pod(pod: &PodLink) -> Result<Link, CniError> {
    let mut network = Network::open()?;
    let pod_end = network.link(&pod.pod_end)?;
    if pod.addresses.iter().any(IpAddr::is_ipv6) {
        enable_ipv6(&pod.pod_end)?;
    }
    network.apply([link::up(Link::LOOPBACK), link::up(pod_end)])?;
    network.apply(pod_changes(pod, pod_end))?;
    Ok(pod_end)
}

/// Some runtimes turn IPv6 off in each new namespace.
fn enable_ipv6(interface: &str) -> Result<(), CniError> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    let enabled = || -> io::Result<()> {
        match fs::read_to_string(&path)?.trim() {
            "0" => Ok(()),
            _ => fs::write(&path, "0"),
        }
    };
    enabled().map_err(|source| CniError::Io { attempted: "enable IPv6 in the pod", source })
}

fn pod_changes(pod: &PodLink, link: Link) -> Vec<Change> {
    let to = |address: IpAddr| {
        let family = Family::of(address);
        let gateway = gateway(family);
        let everything = IpNet::new_assert(family.unspecified(), 0);
        let direct = Route::new(network_of_host(gateway), Hop { gateway: None, link });
        let default = Route::new(everything, Hop { gateway: Some(gateway), link });
        [
            address::add(link, network_of_host(address), Scope::Global),
            neighbour::replace(link, gateway, NODE_END, Trust::Permanent),
            route::add(&direct),
            // Another network of the pod may have been there first: the specification leaves it the default route.
            route::add(&default).unless_there(),
        ]
    };
    pod.addresses.iter().flat_map(|address| to(*address)).collect()
}

/// The routes come last: as soon as they are there, others can reach the pod. That one of them is there already means that
/// somebody else has the address.
fn node_changes(pod: &PodLink, link: Link) -> Vec<Change> {
    let to = |address: IpAddr| {
        let gateway = network_of_host(gateway(Family::of(address)));
        [
            address::add(link, gateway, Scope::Host),
            neighbour::replace(link, address, pod.hardware_address, Trust::Initial),
            route::add(&node_route(address, link)),
        ]
    };
    let alias = pod.alias.iter().map(|alias| link::alias(link, alias));
    alias.chain(pod.addresses.iter().flat_map(|address| to(*address))).collect()
}

fn node_route(address: IpAddr, link: Link) -> Route {
    Route {
        destination: network_of_host(address),
        hop: Hop { gateway: None, link },
        table: RoutingTable::Main,
        protocol: POD_ROUTE_PROTOCOL,
    }
}
