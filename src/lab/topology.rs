//! Who is in the lab, with which addresses and routes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::{CLIENT, ELSEWHERE, HERE, LabError, PODS};
use crate::kernel::netns::Namespace;
use crate::kernel::rtnetlink::{Hop, Link, Network, RoutingTable};
use crate::model::{Family, network_of_host};

/// One of the machines: a node, a pod, the client or the gateway.
#[derive(Debug)]
pub struct Host {
    /// Pods are called `NODE/NUMBER`.
    pub name: String,
    /// One of each family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub namespace: Namespace,
}

impl Host {
    pub fn is_pod(&self) -> bool {
        self.name.contains('/')
    }
}

/// The bridge of the segment, and the interface that each host of the segment has.
pub(super) const BRIDGE: &str = "segment";
pub(super) const INTERFACE: &str = "eth0";
/// What "elsewhere" does with packets that its own pods sent: everything goes through "here", replies to each other too.
const FROM_PODS: RoutingTable = RoutingTable::Numbered(100);
/// Where pods find their node, as on any network of point-to-point links.
const POD_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Written in each namespace before it has interfaces, which copy `default`. ICMP is how rejections arrive, so it must not
/// be rationed. Reverse paths are checked by nobody: sources are kept, and that is what is tested.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
];

pub(super) const GATEWAY: u16 = 1;
const NODE_HERE: u16 = 2;
const NODE_ELSEWHERE: u16 = 3;
const OUTSIDE: u16 = 0x100;

/// The hosts, "here" first.
pub fn build() -> Result<Vec<Host>, LabError> {
    let gateway = host("gateway", segment_addresses(GATEWAY))?;
    let here = host(HERE, segment_addresses(NODE_HERE))?;
    let elsewhere = host(ELSEWHERE, segment_addresses(NODE_ELSEWHERE))?;
    let client = host(CLIENT, segment_addresses(OUTSIDE))?;
    build_segment(&gateway, &[&here, &elsewhere, &client])?;
    let here_pods = build_pods(&here, 1)?;
    let elsewhere_pods = build_pods(&elsewhere, 2)?;
    route_here(&here)?;
    route_elsewhere(&elsewhere)?;
    route_client(&client)?;
    route_gateway(&gateway)?;
    let mut hosts = vec![here, elsewhere, client, gateway];
    hosts.extend(here_pods);
    hosts.extend(elsewhere_pods);
    Ok(hosts)
}

pub(super) fn host(name: &str, addresses: [IpAddr; 2]) -> Result<Host, LabError> {
    let namespace = Namespace::new()?;
    namespace.run(|| -> Result<(), LabError> {
        set_sysctls(SYSCTLS)?;
        let mut network = Network::open()?;
        let loopback = network.link("lo")?;
        Ok(network.up(loopback)?)
    })??;
    Ok(Host { name: name.to_owned(), addresses: addresses.to_vec(), namespace })
}

/// In the network namespace of the calling thread.
pub(super) fn set_sysctls(sysctls: &[(&str, &'static str)]) -> Result<(), LabError> {
    sysctls.iter().try_for_each(|(name, value)| write_sysctl(name, value))
}

fn write_sysctl(name: &str, value: &'static str) -> Result<(), LabError> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(|source| LabError::Sysctl { path, value, source })
}

pub(super) fn build_segment(gateway: &Host, members: &[&Host]) -> Result<(), LabError> {
    gateway.namespace.run(|| -> Result<(), LabError> {
        let mut network = Network::open()?;
        let bridge = network.add_bridge(BRIDGE)?;
        network.up(bridge)?;
        add_addresses(&mut network, bridge, gateway, [16, 64])?;
        for member in members {
            let port = network.add_veth(&member.name, INTERFACE, member.namespace.as_fd())?;
            network.attach(port, bridge)?;
            network.up(port)?;
        }
        Ok(())
    })??;
    for member in members {
        member.namespace.run(|| -> Result<(), LabError> {
            let mut network = Network::open()?;
            let link = network.link(INTERFACE)?;
            network.up(link)?;
            add_addresses(&mut network, link, member, [16, 64])
        })??;
    }
    Ok(())
}

/// The pods of a node, each at the end of a link of its own, named `pod5` and so on at the node's end.
fn build_pods(node: &Host, network_number: u8) -> Result<Vec<Host>, LabError> {
    PODS.map(|number| attach_pod(node, network_number, number)).collect()
}

fn attach_pod(node: &Host, network_number: u8, number: u8) -> Result<Host, LabError> {
    let pod = host(&format!("{}/{number}", node.name), pod_addresses(network_number, number))?;
    node.namespace.run(|| connect_pod(&pod, number))??;
    pod.namespace.run(|| route_pod(&pod, node))??;
    Ok(pod)
}

fn connect_pod(pod: &Host, number: u8) -> Result<(), LabError> {
    let mut network = Network::open()?;
    let link = network.add_veth(&pod_interface(number), INTERFACE, pod.namespace.as_fd())?;
    network.up(link)?;
    network.add_address(link, network_of_host(POD_GATEWAY.into()))?;
    for address in &pod.addresses {
        network.add_route(network_of_host(*address), Hop { gateway: None, link }, RoutingTable::Main)?;
    }
    Ok(())
}

fn route_pod(pod: &Host, node: &Host) -> Result<(), LabError> {
    let mut network = Network::open()?;
    let link = network.link(INTERFACE)?;
    network.up(link)?;
    add_addresses(&mut network, link, pod, [32, 128])?;
    let node_address = node.addresses[0];
    for gateway in [node_address, POD_GATEWAY.into()] {
        network.add_route(network_of_host(gateway), Hop { gateway: None, link }, RoutingTable::Main)?;
        let hop = Hop { gateway: Some(gateway), link };
        network.add_route(everything(Family::of(gateway)), hop, RoutingTable::Main)?;
    }
    Ok(())
}

fn route_here(here: &Host) -> Result<(), LabError> {
    on_segment(here, |network, link| {
        for (gateway, elsewhere) in
            segment_addresses(GATEWAY).into_iter().zip(segment_addresses(NODE_ELSEWHERE))
        {
            let hop = |gateway| Hop { gateway: Some(gateway), link };
            network.add_route(everything(Family::of(gateway)), hop(gateway), RoutingTable::Main)?;
            network.add_route(pod_network(2, Family::of(gateway)), hop(elsewhere), RoutingTable::Main)?;
        }
        Ok(())
    })
}

fn route_elsewhere(elsewhere: &Host) -> Result<(), LabError> {
    on_segment(elsewhere, |network, link| {
        for (here, client) in segment_addresses(NODE_HERE).into_iter().zip(segment_addresses(OUTSIDE)) {
            let hop = Hop { gateway: Some(here), link };
            let family = Family::of(here);
            network.add_route(everything(family), hop, RoutingTable::Main)?;
            network.add_route(everything(family), hop, FROM_PODS)?;
            network.add_route(network_of_host(client), hop, RoutingTable::Main)?;
            for number in PODS {
                network.add_rule(family, &pod_interface(number), FROM_PODS)?;
            }
        }
        Ok(())
    })
}

fn route_client(client: &Host) -> Result<(), LabError> {
    on_segment(client, |network, link| {
        for (here, elsewhere) in
            segment_addresses(NODE_HERE).into_iter().zip(segment_addresses(NODE_ELSEWHERE))
        {
            let hop = Hop { gateway: Some(here), link };
            network.add_route(everything(Family::of(here)), hop, RoutingTable::Main)?;
            network.add_route(network_of_host(elsewhere), hop, RoutingTable::Main)?;
        }
        Ok(())
    })
}

/// The gateway knows the way to the pods, to tell them that it knows none to anybody else.
fn route_gateway(gateway: &Host) -> Result<(), LabError> {
    gateway.namespace.run(|| -> Result<(), LabError> {
        let mut network = Network::open()?;
        let link = network.link(BRIDGE)?;
        for here in segment_addresses(NODE_HERE) {
            let hop = Hop { gateway: Some(here), link };
            for number in [1, 2] {
                network.add_route(pod_network(number, Family::of(here)), hop, RoutingTable::Main)?;
            }
        }
        Ok(())
    })?
}

pub(super) fn on_segment(
    host: &Host,
    work: impl FnOnce(&mut Network, Link) -> Result<(), LabError> + Send,
) -> Result<(), LabError> {
    host.namespace.run(|| {
        let mut network = Network::open()?;
        let link = network.link(INTERFACE)?;
        work(&mut network, link)
    })?
}

fn add_addresses(network: &mut Network, link: Link, host: &Host, prefixes: [u8; 2]) -> Result<(), LabError> {
    for (address, prefix) in host.addresses.iter().zip(prefixes) {
        network.add_address(link, IpNet::new_assert(*address, prefix))?;
    }
    Ok(())
}

fn pod_interface(number: u8) -> String {
    format!("pod{number}")
}

/// 172.18.0.N and fd00:18::N, where N reads the same in both: the client is 100 in decimal and in hexadecimal.
pub(super) fn segment_addresses(number: u16) -> [IpAddr; 2] {
    let last = if number == OUTSIDE { 100 } else { number as u8 };
    [Ipv4Addr::new(172, 18, 0, last).into(), Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, number).into()]
}

/// 10.244.NETWORK.NUMBER and fd00:244:NETWORK::NUMBER.
fn pod_addresses(network: u8, number: u8) -> [IpAddr; 2] {
    let (network16, number16) = (u16::from(network), u16::from(number));
    [
        Ipv4Addr::new(10, 244, network, number).into(),
        Ipv6Addr::new(0xfd00, 0x244, network16, 0, 0, 0, 0, number16).into(),
    ]
}

pub(super) fn pod_network(network: u8, family: Family) -> IpNet {
    let [v4, v6] = pod_addresses(network, 0);
    match family {
        Family::V4 => IpNet::new_assert(v4, 24),
        Family::V6 => IpNet::new_assert(v6, 64),
    }
}

pub(super) fn everything(family: Family) -> IpNet {
    IpNet::new_assert(family.unspecified(), 0)
}
