//! The rtnetlink messages for routes of type `local`, and for addresses.

use std::net::IpAddr;

use super::{AddressChange, ROUTE_PROTOCOL};
use crate::kernel::netlink::address::{family_number, from_octets, octets};
use crate::kernel::netlink::{Attributes, Request};
use crate::model::Family;

/// `struct rtmsg`.
const ROUTE_MESSAGE: usize = 12;
/// `struct ifaddrmsg`.
const ADDRESS_MESSAGE: usize = 8;
/// The interface `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// What becomes of a route that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    /// The new one comes behind it. IPv4 only.
    Keep,
    /// IPv6 only: an IPv4 route of another protocol would be replaced as well.
    Replace,
}

impl Existing {
    fn flags(self) -> i32 {
        match self {
            Existing::Refuse => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            Existing::Keep => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
            Existing::Replace => libc::NLM_F_REPLACE,
        }
    }
}

/// `ip route show type local table local proto PROTOCOL`
pub fn list_routes(family: Family, protocol: u8) -> Request {
    let mut fixed = [0; ROUTE_MESSAGE];
    fixed[0] = family_number(family);
    fixed[4..8].copy_from_slice(&[libc::RT_TABLE_LOCAL, protocol, 0, libc::RTN_LOCAL]);
    Request::new(libc::RTM_GETROUTE, 0, &fixed)
}

/// `ip route add local ADDRESS dev lo table local proto 102 [src SOURCE]`
pub fn add_route(address: IpAddr, source: Option<IpAddr>, existing: Existing) -> Request {
    route(libc::RTM_NEWROUTE, existing.flags(), address, source)
}

/// `ip route del local ADDRESS dev lo table local proto 102 [src SOURCE]`: the first of them if no source is given.
pub fn delete_route(address: IpAddr, source: Option<IpAddr>) -> Request {
    route(libc::RTM_DELROUTE, 0, address, source)
}

fn route(kind: u16, flags: i32, address: IpAddr, source: Option<IpAddr>) -> Request {
    let family = Family::of(address);
    let mut fixed = [0; ROUTE_MESSAGE];
    fixed[..2].copy_from_slice(&[family_number(family), family.bits()]);
    fixed[4..8].copy_from_slice(&[
        libc::RT_TABLE_LOCAL,
        ROUTE_PROTOCOL,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ]);
    let mut request = Request::new(kind, flags, &fixed);
    request.attribute(libc::RTA_DST, &octets(address)).attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    if let Some(source) = source {
        request.attribute(libc::RTA_PREFSRC, &octets(source));
    }
    request
}

/// A route of type `local` to one address, in table `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    pub address: IpAddr,
    pub source: Option<IpAddr>,
    pub protocol: u8,
}

/// The route in the payload of a message; `None` if it is not of this kind.
pub fn parse_route(payload: &[u8]) -> Option<LocalRoute> {
    let &[_, prefix, _, _, table, protocol, _, kind, ..] = payload else { return None };
    if (table, kind) != (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL) {
        return None;
    }
    let attributes = Attributes::after(ROUTE_MESSAGE, payload);
    let address = attributes.value(libc::RTA_DST).and_then(from_octets)?;
    let source = attributes.value(libc::RTA_PREFSRC).and_then(from_octets);
    (prefix == Family::of(address).bits()).then_some(LocalRoute { address, source, protocol })
}

/// `ip address show [dev INTERFACE]`; interface 0 stands for all.
pub fn list_addresses(family: Family, interface: u32) -> Request {
    Request::new(libc::RTM_GETADDR, 0, &address_message(family_number(family), 0, 0, interface))
}

/// `ip address add|del ADDRESS dev INTERFACE nodad`
pub fn change_address(change: &AddressChange, interface: u32) -> Request {
    let (kind, flags) = match change {
        AddressChange::Add { .. } => (libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        AddressChange::Remove(_) => (libc::RTM_DELADDR, 0),
    };
    let family = Family::of(change.address());
    let fixed = address_message(family_number(family), family.bits(), libc::IFA_F_NODAD as u8, interface);
    let mut request = Request::new(kind, flags, &fixed);
    let octets = octets(change.address());
    request.attribute(libc::IFA_LOCAL, &octets).attribute(libc::IFA_ADDRESS, &octets);
    request
}

fn address_message(family: u8, prefix: u8, flags: u8, interface: u32) -> [u8; ADDRESS_MESSAGE] {
    let [i0, i1, i2, i3] = interface.to_ne_bytes();
    [family, prefix, flags, 0, i0, i1, i2, i3]
}
