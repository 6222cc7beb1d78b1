//! What the operator decided about the meaning of Services.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{
    DetectLocal, Family, Hashing, LocalTraffic, NodePolicy, NodePortAddresses, NodePortSetting, Scheduler,
    network_of_host,
};
use crate::sync::objects::Node;

/// The part of the configuration that compiling needs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub node_name: Arc<str>,
    /// The node's own addresses where the operator names them (`--bind-address`). They come before the Node object's.
    pub node_addresses: Vec<IpAddr>,
    /// `--allowed-external-ips`. None by default: any author of a Service could take any address (CVE-2020-8554).
    pub allowed_external_ips: Vec<IpNet>,
    /// What the mode has, its default first ([`Mode::SCHEDULERS`](crate::modes::Mode::SCHEDULERS)).
    /// What of it this kernel has is known only at run time.
    pub schedulers: Box<[Scheduler]>,
    /// What the mode has and this kernel does not.
    pub missing_schedulers: Box<[Scheduler]>,
    /// For Services that ask for none, instead of the mode's default.
    pub default_scheduler: Option<Scheduler>,
    /// How the default scheduler hashes where a Service does not say. Schedulers that do not hash ignore it.
    pub default_hashing: Option<Hashing>,
    pub node_port_addresses: NodePortSetting,
    pub detect_local: DetectLocal,
    pub masquerade_all: bool,
}

impl Settings {
    /// kube-proxy's defaults, with no external IPs allowed.
    pub fn new(node_name: Arc<str>, schedulers: impl Into<Box<[Scheduler]>>) -> Self {
        Settings {
            node_name,
            node_addresses: Vec::new(),
            allowed_external_ips: Vec::new(),
            schedulers: schedulers.into(),
            missing_schedulers: Box::default(),
            default_scheduler: None,
            default_hashing: None,
            node_port_addresses: NodePortSetting::default(),
            detect_local: DetectLocal::default(),
            masquerade_all: false,
        }
    }

    pub(super) fn default_scheduler(&self) -> Scheduler {
        self.default_scheduler.or(self.schedulers.first().copied()).unwrap_or(Scheduler::Random)
    }

    /// How a scheduler hashes where a Service does not say. What the operator wants of the default scheduler says nothing
    /// about others that Services ask for.
    pub(super) fn default_hashing(&self, scheduler: Scheduler) -> Hashing {
        self.default_hashing
            .filter(|_| scheduler.hashes() && scheduler == self.default_scheduler())
            .unwrap_or_else(|| Hashing::usual(scheduler))
    }
}

/// What compiling takes from the Node. A change of it concerns every Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub zone: Option<Arc<str>>,
    /// What the operator or the Node object calls the node's own. Addresses that something else put on an interface,
    /// as keepalived and kube-vip do with load balancer addresses, are not among them.
    pub addresses: Vec<IpAddr>,
    pub pod_networks: Vec<IpNet>,
}

impl NodeFacts {
    pub fn new(settings: &Settings, node: Option<&Node>) -> Self {
        let mut addresses = settings.node_addresses.clone();
        addresses.extend(node.iter().flat_map(|node| node.addresses.iter().copied()));
        NodeFacts {
            zone: node.and_then(|node| node.zone.clone()),
            addresses,
            pod_networks: node.map(|node| node.pod_cidrs.to_vec()).unwrap_or_default(),
        }
    }

    /// The address that counts as the node's in this family: the first.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    pub fn policy(
        &self,
        settings: &Settings,
        interface_addresses: &[IpAddr],
        service_networks: impl Iterator<Item = IpNet>,
    ) -> NodePolicy {
        NodePolicy {
            local_traffic: self.local_traffic(&settings.detect_local),
            node_ports: self.node_ports(&settings.node_port_addresses),
            masquerade_all: settings.masquerade_all,
            addresses: interface_addresses.to_vec(),
            primary: Family::ALL.into_iter().filter_map(|family| self.primary(family)).collect(),
            // ServiceCIDRs may overlap.
            service_networks: IpNet::aggregate(&service_networks.collect()),
        }
    }

    fn local_traffic(&self, detect: &DetectLocal) -> LocalTraffic {
        match detect {
            DetectLocal::None => LocalTraffic::Undetected,
            DetectLocal::ClusterCidr(networks) => LocalTraffic::Sources(networks.clone()),
            DetectLocal::NodeCidr => LocalTraffic::Sources(self.pod_networks.clone()),
            DetectLocal::BridgeInterface(name) => LocalTraffic::Interface(name.clone()),
            DetectLocal::InterfaceNamePrefix(prefix) => LocalTraffic::InterfacePrefix(prefix.clone()),
        }
    }

    fn node_ports(&self, setting: &NodePortSetting) -> NodePortAddresses {
        match setting {
            NodePortSetting::All => NodePortAddresses::All,
            NodePortSetting::In(networks) => NodePortAddresses::In(networks.clone()),
            NodePortSetting::Primary => NodePortAddresses::In(
                Family::ALL
                    .into_iter()
                    .filter_map(|family| self.primary(family))
                    .map(network_of_host)
                    .collect(),
            ),
        }
    }
}
