//! What can be done to virtual addresses.

use std::fmt;
use std::net::IpAddr;

use super::{DEVICE, ROUTE_PROTOCOL};
use crate::model::Family;

/// A change of one virtual address. `Display` is the command that does it with a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChange {
    /// `source` is the address that the node uses when it talks to this one itself; `None` leaves it to the kernel, which
    /// takes the virtual address. Addresses of a device have none.
    Add {
        address: IpAddr,
        source: Option<IpAddr>,
    },
    Remove(IpAddr),
}

impl AddressChange {
    pub fn address(&self) -> IpAddr {
        match self {
            AddressChange::Add { address, .. } | AddressChange::Remove(address) => *address,
        }
    }

    /// As the command that does it with the device.
    pub fn on_device(&self) -> impl fmt::Display {
        let (verb, address) = match self {
            AddressChange::Add { address, .. } => ("add", address),
            AddressChange::Remove(address) => ("del", address),
        };
        let bits = Family::of(*address).bits();
        format!("ip address {verb} {address}/{bits} dev {DEVICE}")
    }
}

/// `ip route add local 10.96.0.10/32 dev lo table local proto 102 src 172.18.0.2`
impl fmt::Display for AddressChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self {
            AddressChange::Add { .. } => "add",
            AddressChange::Remove(_) => "del",
        };
        let address = self.address();
        let family = Family::of(address);
        let option = if family == Family::V6 { " -6" } else { "" };
        write!(f, "ip{option} route {verb} local {address}/{} dev lo", family.bits())?;
        write!(f, " table local proto {ROUTE_PROTOCOL}")?;
        match self {
            AddressChange::Add { source: Some(source), .. } => write!(f, " src {source}"),
            _ => Ok(()),
        }
    }
}
