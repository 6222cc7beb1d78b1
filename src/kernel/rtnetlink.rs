//! The door to interfaces, addresses, routes, rules, neighbours and queueing disciplines (rtnetlink): what setting up a
//! network needs of it.
//!
//! Each function acts in the network namespace of the thread that opened the [`Network`].

pub mod address;
mod change;
mod hardware;
pub mod link;
pub mod neighbour;
mod query;
pub mod queue;
mod removal;
pub mod route;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use libc::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::constants::NETLINK_ROUTE;

use super::netlink::address::family_number;
use super::netlink::{Connection, NetlinkError, Request};
use crate::model::Family;

pub use change::Change;
pub use hardware::{HardwareAddress, ParseHardwareAddressError};
pub use link::{InstalledLink, VethEnd};
pub use query::InstalledRoute;
pub use route::Route;

/// `VETH_INFO_PEER` of `linux/veth.h`: an `ifinfomsg` and its attributes.
const VETH_INFO_PEER: u16 = 1;
/// `FR_ACT_TO_TBL` and `FRA_IIFNAME` of `linux/fib_rules.h`.
const RULE_TO_TABLE: u8 = 1;
const RULE_INPUT_INTERFACE: u16 = 3;
const INTERFACE_MESSAGE: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted}")]
pub struct NetworkError {
    attempted: String,
    source: NetlinkError,
}

impl NetworkError {
    /// The errno with which the kernel refused.
    pub fn refusal(&self) -> Option<i32> {
        self.source.refusal()
    }
}

/// An interface, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

impl Link {
    /// `lo`, in every network namespace.
    pub const LOOPBACK: Link = Link(1);

    pub fn number(self) -> u32 {
        self.0
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub gateway: Option<IpAddr>,
    pub link: Link,
}

/// The routing tables that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingTable {
    Main,
    Numbered(u8),
}

impl RoutingTable {
    fn number(self) -> u8 {
        match self {
            RoutingTable::Main => libc::RT_TABLE_MAIN,
            RoutingTable::Numbered(number) => number,
        }
    }
}

pub struct Network {
    connection: Connection,
}

impl Network {
    pub fn open() -> Result<Self, NetworkError> {
        let connection = Connection::open(NETLINK_ROUTE)
            .map_err(|source| NetworkError { attempted: "set up interfaces".into(), source })?;
        Ok(Network { connection })
    }

    /// `ip link add NAME type bridge`
    pub fn add_bridge(&mut self, name: &str) -> Result<Link, NetworkError> {
        let mut request = Request::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &[0; INTERFACE_MESSAGE]);
        request.text(libc::IFLA_IFNAME, name).nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "bridge");
        });
        self.execute(request, || format!("add bridge {name}"))?;
        self.link(name)
    }

    /// `ip link add NAME type veth peer name PEER netns NAMESPACE`
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<Link, NetworkError> {
        self.apply([link::add_veth(&VethEnd::named(name), &VethEnd::named(peer), namespace)])?;
        self.link(name)
    }

    /// `ip link set LINK master BRIDGE`
    pub fn attach(&mut self, link: Link, bridge: Link) -> Result<(), NetworkError> {
        let mut request = Request::new(libc::RTM_SETLINK, 0, &interface_message(link, 0));
        request.attribute(libc::IFLA_MASTER, &bridge.0.to_ne_bytes());
        self.execute(request, || format!("attach link {} to bridge {}", link.0, bridge.0))
    }

    /// `ip link set LINK up`
    pub fn up(&mut self, link: Link) -> Result<(), NetworkError> {
        self.apply([link::up(link)])
    }

    /// `ip address add ADDRESS dev LINK nodad`: an IPv6 address is usable at once.
    pub fn add_address(&mut self, link: Link, address: IpNet) -> Result<(), NetworkError> {
        self.apply([address::add(link, address, address::Scope::Global)])
    }

    /// `ip route add DESTINATION [via GATEWAY] dev LINK table TABLE`
    pub fn add_route(
        &mut self,
        destination: IpNet,
        hop: Hop,
        table: RoutingTable,
    ) -> Result<(), NetworkError> {
        self.apply([route::add(&Route { table, ..Route::new(destination, hop) })])
    }

    /// `ip [-6] rule add iif INTERFACE lookup TABLE`
    pub fn add_rule(
        &mut self,
        family: Family,
        interface: &str,
        table: RoutingTable,
    ) -> Result<(), NetworkError> {
        let fixed = [family_number(family), 0, 0, 0, table.number(), 0, 0, RULE_TO_TABLE, 0, 0, 0, 0];
        let mut request = Request::new(libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &fixed);
        request.text(RULE_INPUT_INTERFACE, interface);
        self.execute(request, || format!("add a rule for packets from {interface}"))
    }

    /// By its name, in the network namespace of the calling thread.
    pub fn link(&self, name: &str) -> Result<Link, NetworkError> {
        index_of(name).map(Link).map_err(|error| NetworkError {
            attempted: format!("find interface {name}"),
            source: NetlinkError::Refused { errno: error, explanation: None },
        })
    }

    fn execute(&mut self, request: Request, attempted: impl FnOnce() -> String) -> Result<(), NetworkError> {
        self.connection.execute(request).map_err(|source| NetworkError { attempted: attempted(), source })
    }
}

/// In the network namespace of the calling thread.
fn index_of(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: `name` ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// `struct ifinfomsg`, with the flags to be set.
fn interface_message(link: Link, flags: u32) -> [u8; INTERFACE_MESSAGE] {
    let mut message = [0; INTERFACE_MESSAGE];
    message[4..8].copy_from_slice(&link.0.to_ne_bytes());
    message[8..12].copy_from_slice(&flags.to_ne_bytes());
    message[12..16].copy_from_slice(&flags.to_ne_bytes());
    message
}

fn family(address: IpAddr) -> u8 {
    family_number(Family::of(address))
}
