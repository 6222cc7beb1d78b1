//! What kube-proxy's own IPVS mode leaves behind: virtual servers, a device with addresses, sets.
//!
//! Its chains have the names of its iptables mode and go with those. Its virtual servers carry no name either: they are
//! those at the addresses of its device, and those at the node's addresses whose port is in one of its sets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::cleanup::{destroy_all, has_sets, remove_addresses};
use super::names::Set;
use crate::kernel::ipset::{Element, KernelSets, Sets};
use crate::kernel::ipvs::{Command, Ipvs, KernelIpvs, VirtualServer};
use crate::kernel::links;
use crate::kernel::virtual_addresses::{
    DEVICE, DummyDevice, VirtualAddressError, VirtualAddresses, remove_device,
};
use crate::model::{Family, Protocol};
use crate::modes::{Leftovers, RemovalError};

/// Of one address family.
#[derive(Debug)]
pub struct KubeProxy {
    pub family: Family,
    /// Whether the mode in use has its own addresses on that device.
    pub device: DeviceUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceUse {
    Ours,
    Nobodys,
}

impl Leftovers for KubeProxy {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        let has_device = self.device == DeviceUse::Nobodys && links::exists(DEVICE);
        let has_sets = has_sets(prefix(self.family))?;
        if !has_device && !has_sets {
            return Ok(());
        }
        let mut sets = KernelSets::open()?;
        let mut theirs = Theirs::default();
        if has_device {
            theirs.addresses = DummyDevice::open(self.family)?.list(self.family)?.into_keys().collect();
        }
        theirs.node_addresses = links::addresses()?.into_iter().collect();
        theirs.read_node_ports(&mut sets, self.family)?;
        self.remove_servers(&theirs, &mut sets)?;
        if has_device {
            remove_addresses(&mut DummyDevice::open(self.family)?, self.family)?;
            remove_device_if_bare()?;
        }
        let headers = sets.headers(prefix(self.family))?;
        let names = headers.iter().map(|header| &*header.name).filter(|name| is_of(name, self.family));
        Ok(destroy_all(&mut sets, names)?)
    }
}

impl KubeProxy {
    fn remove_servers(&self, theirs: &Theirs, sets: &mut KernelSets) -> Result<(), RemovalError> {
        let ours = Ours::read(sets, self.family)?;
        let mut ipvs = KernelIpvs::open()?;
        let mut commands = Vec::new();
        ipvs.services(&mut |service, _| {
            let at = service.server;
            if at.family() == self.family && theirs.has(&at) && !ours.has(&at) {
                commands.push(Command::DeleteService(at));
            }
        })?;
        Ok(ipvs.execute(&commands)?)
    }
}

/// All begin with `KUBE-`, those of IPv6 with `KUBE-6-`.
fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "KUBE-",
        Family::V6 => "KUBE-6-",
    }
}

fn is_of(name: &str, family: Family) -> bool {
    name.starts_with(prefix(Family::V6)) == (family == Family::V6)
}

/// The device serves both families.
pub(super) fn remove_device_if_bare() -> Result<(), VirtualAddressError> {
    for family in Family::ALL {
        if !DummyDevice::open(family)?.list(family)?.is_empty() {
            return Ok(());
        }
    }
    remove_device()
}

#[derive(Debug, Default)]
struct Theirs {
    addresses: BTreeSet<IpAddr>,
    node_addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<(Protocol, u16)>,
}

impl Theirs {
    fn read_node_ports(&mut self, sets: &mut KernelSets, family: Family) -> Result<(), RemovalError> {
        for header in sets.headers(prefix(family))? {
            let name = &*header.name;
            let protocol = match name.trim_start_matches("KUBE-6-").trim_start_matches("KUBE-") {
                "NODE-PORT-TCP" | "NODE-PORT-LOCAL-TCP" => Protocol::Tcp,
                "NODE-PORT-UDP" | "NODE-PORT-LOCAL-UDP" => Protocol::Udp,
                "NODE-PORT-SCTP-HASH" | "NODE-PORT-LOCAL-SCTP-HASH" => Protocol::Sctp,
                _ => continue,
            };
            if is_of(name, family) {
                sets.members(name, &mut |member| {
                    if let Element::Port(port) | Element::IpPort(_, _, port) = member.element {
                        self.node_ports.insert((protocol, port));
                    }
                })?;
            }
        }
        Ok(())
    }

    fn has(&self, at: &VirtualServer) -> bool {
        match *at {
            VirtualServer::Address { address, protocol, port } => {
                let is_node_port = self.node_ports.contains(&(protocol, port));
                self.addresses.contains(&address) || is_node_port && self.node_addresses.contains(&address)
            }
            VirtualServer::Mark { .. } => false,
        }
    }
}

/// The frontends that the mode in use serves, if it is this one.
#[derive(Debug, Default)]
struct Ours(BTreeSet<Element>);

impl Ours {
    fn read(sets: &mut KernelSets, family: Family) -> Result<Self, RemovalError> {
        let mut ours = Ours::default();
        for set in [Set::VirtualIps, Set::Served, Set::Drop, Set::Reject] {
            sets.members(set.name(family), &mut |member| {
                ours.0.insert(member.element);
            })?;
        }
        Ok(ours)
    }

    fn has(&self, at: &VirtualServer) -> bool {
        match *at {
            VirtualServer::Address { address, protocol, port } => {
                self.0.contains(&Element::Ip(address))
                    || self.0.contains(&Element::IpPort(address, protocol, port))
            }
            VirtualServer::Mark { .. } => true,
        }
    }
}
