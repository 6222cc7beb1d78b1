//! The door to interfaces, addresses, routes and rules (rtnetlink): what setting up a network needs of it.
//!
//! Each function acts in the network namespace of the thread that opened the [`Network`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use libc::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::constants::NETLINK_ROUTE;

use super::netlink::{Connection, NetlinkError, Request};
use crate::model::Family;

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

/// An interface, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

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
        let mut request = Request::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &[0; INTERFACE_MESSAGE]);
        request.text(libc::IFLA_IFNAME, name).nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |attributes| {
                    attributes.fixed(&[0; INTERFACE_MESSAGE]);
                    attributes
                        .text(libc::IFLA_IFNAME, peer)
                        .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.execute(request, || format!("add veth {name} with peer {peer}"))?;
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
        let request = Request::new(libc::RTM_SETLINK, 0, &interface_message(link, libc::IFF_UP as u32));
        self.execute(request, || format!("set link {} up", link.0))
    }

    /// `ip address add ADDRESS dev LINK nodad`: an IPv6 address is usable at once.
    pub fn add_address(&mut self, link: Link, address: IpNet) -> Result<(), NetworkError> {
        let [i0, i1, i2, i3] = link.0.to_ne_bytes();
        let fixed =
            [family(address.addr()), address.prefix_len(), libc::IFA_F_NODAD as u8, 0, i0, i1, i2, i3];
        let mut request = Request::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed);
        let octets = octets(address.addr());
        request.attribute(libc::IFA_LOCAL, &octets).attribute(libc::IFA_ADDRESS, &octets);
        self.execute(request, || format!("add address {address} to link {}", link.0))
    }

    /// `ip route add DESTINATION [via GATEWAY] dev LINK table TABLE`
    pub fn add_route(
        &mut self,
        destination: IpNet,
        hop: Hop,
        table: RoutingTable,
    ) -> Result<(), NetworkError> {
        let scope = if hop.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let family = family(destination.addr());
        let mut fixed = [0; 12];
        fixed[..2].copy_from_slice(&[family, destination.prefix_len()]);
        fixed[4..8].copy_from_slice(&[table.number(), libc::RTPROT_STATIC, scope, libc::RTN_UNICAST]);
        let mut request = Request::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &fixed);
        request
            .attribute(libc::RTA_DST, &octets(destination.addr()))
            .attribute(libc::RTA_OIF, &hop.link.0.to_ne_bytes());
        if let Some(gateway) = hop.gateway {
            request.attribute(libc::RTA_GATEWAY, &octets(gateway));
        }
        self.execute(request, || format!("add route to {destination} through {hop:?}"))
    }

    /// `ip [-6] rule add iif INTERFACE lookup TABLE`
    pub fn add_rule(
        &mut self,
        family: Family,
        interface: &str,
        table: RoutingTable,
    ) -> Result<(), NetworkError> {
        let family = self::family(family.unspecified());
        let fixed = [family, 0, 0, 0, table.number(), 0, 0, RULE_TO_TABLE, 0, 0, 0, 0];
        let mut request = Request::new(libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &fixed);
        request.text(RULE_INPUT_INTERFACE, interface);
        self.execute(request, || format!("add a rule for packets from {interface}"))
    }

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
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
