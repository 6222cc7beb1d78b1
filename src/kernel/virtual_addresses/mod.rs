//! The door to virtual addresses: addresses that the node takes packets for, as a Service's is, without being the
//! addresses of any network that it is in.
//!
//! There are two ways: routes of type `local`, and kube-proxy's, the addresses of a device that nothing is behind.

mod change;
mod codec;
mod dummy;
#[cfg(test)]
pub mod fake;
mod routes;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use change::AddressChange;
pub use dummy::{DEVICE, DummyDevice, remove_device};
pub use routes::{LocalRoutes, ROUTE_PROTOCOL};

use super::netlink::NetlinkError;
use crate::model::Family;

#[derive(Debug, thiserror::Error)]
pub enum VirtualAddressError {
    #[error("cannot reach the kernel's routes and addresses")]
    Open(#[source] NetlinkError),
    #[error("cannot watch the kernel's routes and addresses")]
    Watch(#[source] std::io::Error),
    #[error("cannot add the device {DEVICE}, as the kernel has no devices of type dummy")]
    NoDummyDevice(#[source] NetlinkError),
    #[error("cannot {command}")]
    Device { command: Box<str>, source: NetlinkError },
    #[error("cannot list the virtual {family} addresses")]
    List { family: Family, source: NetlinkError },
    #[error("cannot change the virtual {family} addresses")]
    Change { family: Family, source: NetlinkError },
    #[error("{} changes of virtual addresses were refused, the first: {}", .failures.len(), first(.failures))]
    Refused { failures: Vec<RefusedAddress> },
}

fn first(failures: &[RefusedAddress]) -> String {
    failures.first().map(|failure| format!("{failure}: {}", failure.reason)).unwrap_or_default()
}

/// A change that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{command}")]
pub struct RefusedAddress {
    /// Among the changes of the call.
    pub index: usize,
    pub address: IpAddr,
    pub command: String,
    #[source]
    pub reason: AddressRefusal,
}

#[derive(Default)]
struct Failures(Vec<RefusedAddress>);

impl Failures {
    fn add(&mut self, index: usize, address: IpAddr, command: impl ToString, reason: AddressRefusal) {
        self.0.push(RefusedAddress { index, address, command: command.to_string(), reason });
    }

    fn into_result(mut self) -> Result<(), VirtualAddressError> {
        self.0.sort_by_key(|failure| failure.index);
        if self.0.is_empty() { Ok(()) } else { Err(VirtualAddressError::Refused { failures: self.0 }) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AddressRefusal {
    #[error("the node has this address already, it is not ours to change")]
    Occupied,
    #[error("not an {0} address")]
    OtherFamily(Family),
    #[error(transparent)]
    Netlink(NetlinkError),
}

/// The virtual addresses of one network namespace.
pub trait VirtualAddresses {
    /// The virtual addresses of one family that are there, with the source addresses that the node uses when it talks to
    /// them itself.
    fn list(&mut self, family: Family) -> Result<BTreeMap<IpAddr, Option<IpAddr>>, VirtualAddressError>;

    /// Carries changes out in order. Adding what is there gives it another source, removing what is not there is done.
    /// Those that are refused are told in [`VirtualAddressError::Refused`], the others are carried out. An address that
    /// the node has for another reason is [`AddressRefusal::Occupied`] and left alone.
    fn change(&mut self, family: Family, changes: &[AddressChange]) -> Result<(), VirtualAddressError>;

    /// Whether somebody else may have added or removed a virtual address since the last call. Cheap, however many there are.
    fn disturbed(&mut self) -> Result<bool, VirtualAddressError>;
}
