//! What holds for every Service on this node.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Destination, Family, FrontendKey, Protocol};

/// The node-wide part of the table. A change of it may concern every ServicePort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePolicy {
    pub local_traffic: LocalTraffic,
    pub node_ports: NodePortAddresses,
    /// `--masquerade-all`: traffic to every ClusterIP gets the node's source address.
    pub masquerade_all: bool,
    /// Every address of the node's interfaces, both families. Sorted.
    pub addresses: Vec<IpAddr>,
    /// The node's own address of each family that it has: what its traffic should come from.
    pub primary: Vec<IpAddr>,
    /// The networks that ClusterIPs are taken from, both families, none of which overlap. Empty where nobody says.
    pub service_networks: Vec<IpNet>,
}

impl NodePolicy {
    /// The node's own address of a family, if one of its interfaces has it.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        let own = self.primary.iter().copied().find(|address| Family::of(*address) == family);
        own.filter(|address| self.addresses.binary_search(address).is_ok())
    }

    /// Whether an address could be a ClusterIP, and is not one of the node's own, as that of a cache for DNS may be.
    pub fn is_for_cluster_ips(&self, address: IpAddr) -> bool {
        self.service_networks.iter().any(|network| network.contains(&address))
            && self.addresses.binary_search(&address).is_err()
    }

    /// What a packet to this address reaches, by whatever knows the owners of frontends. An address of a Service comes
    /// before NodePorts, whatever the address.
    pub fn reached<T>(
        &self,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
        owner: impl Fn(FrontendKey) -> Option<T>,
    ) -> Option<T> {
        let at = |destination| owner(FrontendKey { destination, protocol, port });
        at(Destination::Address(address))
            .or_else(|| self.has_node_ports(address).then(|| at(Destination::Node)).flatten())
    }

    /// Whether NodePorts listen on `address`. Never on loopback: that would need `route_localnet` (CVE-2020-8558).
    pub fn has_node_ports(&self, address: IpAddr) -> bool {
        !address.is_loopback()
            && self.addresses.binary_search(&address).is_ok()
            && match &self.node_ports {
                NodePortAddresses::All => true,
                NodePortAddresses::In(networks) => networks.iter().any(|network| network.contains(&address)),
            }
    }
}

/// `--nodeport-addresses`, with `primary` resolved to the node's own address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every local address but loopback.
    #[default]
    All,
    /// The local addresses in these networks, both families. With none of a family, it has no NodePorts.
    In(Vec<IpNet>),
}

impl NodePortAddresses {
    /// The networks of one family, or `None` for every address.
    pub fn networks(&self, family: Family) -> Option<Vec<IpNet>> {
        match self {
            NodePortAddresses::All => None,
            NodePortAddresses::In(networks) => {
                Some(networks.iter().copied().filter(|network| family.contains(network)).collect())
            }
        }
    }
}

/// `--detect-local-mode`: how traffic of this node's pods is told from traffic that comes from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalTraffic {
    /// It cannot be told: nothing counts as coming from local pods, and nothing as coming from off-cluster.
    #[default]
    Undetected,
    /// ClusterCIDR and NodeCIDR: pods have these source addresses, both families.
    Sources(Vec<IpNet>),
    /// BridgeInterface: pods' packets arrive through this bridge.
    Interface(String),
    /// InterfaceNamePrefix: pods' packets arrive through interfaces whose names begin so.
    InterfacePrefix(String),
}

impl LocalTraffic {
    /// Whether this can tell local traffic for a family at all: CIDRs of the other family alone cannot.
    pub fn detects(&self, family: Family) -> bool {
        match self {
            LocalTraffic::Undetected => false,
            LocalTraffic::Sources(networks) => networks.iter().any(|network| family.contains(network)),
            LocalTraffic::Interface(_) | LocalTraffic::InterfacePrefix(_) => true,
        }
    }

    /// An interface that pods' packets may come by, where that is how they are told.
    pub fn interface(&self) -> Option<&str> {
        match self {
            LocalTraffic::Interface(name) | LocalTraffic::InterfacePrefix(name) => Some(name),
            LocalTraffic::Undetected | LocalTraffic::Sources(_) => None,
        }
    }

    /// Whether a packet counts as coming from a pod of this node. A packet of the node itself has no interface.
    pub fn is_local(&self, source: IpAddr, interface: Option<&str>) -> bool {
        match self {
            LocalTraffic::Undetected => false,
            LocalTraffic::Sources(networks) => networks.iter().any(|network| network.contains(&source)),
            LocalTraffic::Interface(name) => interface == Some(name),
            LocalTraffic::InterfacePrefix(prefix) => {
                interface.is_some_and(|name| name.starts_with(prefix.as_str()))
            }
        }
    }
}

/// `--detect-local-mode` with what it needs, before the Node is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// Not at all.
    #[default]
    None,
    /// By these source addresses.
    ClusterCidr(Vec<IpNet>),
    /// By the Node's `spec.podCIDRs`.
    NodeCidr,
    BridgeInterface(String),
    InterfaceNamePrefix(String),
}

/// `--nodeport-addresses` as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodePortSetting {
    #[default]
    All,
    /// The node's address of each family, by the Node object.
    Primary,
    In(Vec<IpNet>),
}
