//! The rtnetlink messages for routes by way of a gateway.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Chosen, METRIC, ROUTE_PROTOCOL, Route, RouteChange, Way};
use crate::kernel::netlink::address::{family_number, from_octets, octets};
use crate::kernel::netlink::{Attributes, Request};
use crate::model::Family;

/// `struct rtmsg`.
const ROUTE_MESSAGE: usize = 12;
/// `RTM_F_FIB_MATCH` of `linux/rtnetlink.h`: the route itself and not what it makes of one packet (Linux 4.13).
const FIB_MATCH: u32 = 0x2000;

/// `ip route show table main proto 104`
pub fn list(family: Family) -> Request {
    let mut fixed = message(family, 0);
    fixed[4..6].copy_from_slice(&[libc::RT_TABLE_MAIN, ROUTE_PROTOCOL]);
    fixed[7] = libc::RTN_UNICAST;
    Request::new(libc::RTM_GETROUTE, 0, &fixed)
}

/// `ip route add|replace|del DESTINATION via GATEWAY dev LINK proto 104 metric 1104`
pub fn change(change: &RouteChange) -> Request {
    let (kind, flags) = match change {
        RouteChange::Add(_) => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        // Without NLM_F_CREATE: what was to be replaced must be there.
        RouteChange::Replace(_) => (libc::RTM_NEWROUTE, libc::NLM_F_REPLACE),
        RouteChange::Remove(_) => (libc::RTM_DELROUTE, 0),
    };
    let Route { destination, gateway, link } = change.route();
    let mut fixed = message(Family::of(destination.addr()), destination.prefix_len());
    fixed[4..8].copy_from_slice(&[
        libc::RT_TABLE_MAIN,
        ROUTE_PROTOCOL,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ]);
    let mut request = Request::new(kind, flags, &fixed);
    request
        .attribute(libc::RTA_DST, &octets(destination.network()))
        .attribute(libc::RTA_GATEWAY, &octets(gateway))
        .attribute(libc::RTA_OIF, &link.to_ne_bytes())
        .attribute(libc::RTA_PRIORITY, &METRIC.to_ne_bytes());
    request
}

/// `ip route get ADDRESS`
pub fn way_to(address: IpAddr) -> Request {
    get(address, 0)
}

/// `ip route get fibmatch ADDRESS`
pub fn route_of(address: IpAddr) -> Request {
    get(address, FIB_MATCH)
}

fn get(address: IpAddr, flags: u32) -> Request {
    let family = Family::of(address);
    let mut fixed = message(family, family.bits());
    fixed[8..].copy_from_slice(&flags.to_ne_bytes());
    let mut request = Request::new(libc::RTM_GETROUTE, 0, &fixed);
    request.attribute(libc::RTA_DST, &octets(address));
    request
}

fn message(family: Family, prefix: u8) -> [u8; ROUTE_MESSAGE] {
    let mut fixed = [0; ROUTE_MESSAGE];
    fixed[..2].copy_from_slice(&[family_number(family), prefix]);
    fixed
}

/// A route as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub destination: IpNet,
    /// The only one; `None` also where there are several ways.
    pub gateway: Option<IpAddr>,
    pub link: Option<u32>,
    pub metric: u32,
    pub protocol: u8,
    pub table: u8,
    kind: u8,
    has_gateway: bool,
}

/// The route in the payload of a message.
pub fn parse(payload: &[u8]) -> Option<Told> {
    let &[family, prefix, _, _, table, protocol, _, kind, ..] = payload else { return None };
    let family = Family::ALL.into_iter().find(|known| family_number(*known) == family)?;
    let of_kind = |wanted| attribute(payload, wanted);
    let number = |kind| of_kind(kind).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
    let address = of_kind(libc::RTA_DST).map_or(Some(family.unspecified()), from_octets)?;
    let other_ways = [libc::RTA_VIA, libc::RTA_MULTIPATH];
    Some(Told {
        destination: IpNet::new(address, prefix).ok()?,
        gateway: of_kind(libc::RTA_GATEWAY).and_then(from_octets),
        link: number(libc::RTA_OIF),
        metric: number(libc::RTA_PRIORITY).unwrap_or_default(),
        protocol,
        table,
        kind,
        has_gateway: of_kind(libc::RTA_GATEWAY).is_some()
            || other_ways.into_iter().any(|way| of_kind(way).is_some()),
    })
}

impl Told {
    /// As one of ours, which it must be.
    pub fn ours(&self) -> Option<Route> {
        let is_ours = (self.table, self.protocol, self.kind, self.metric)
            == (libc::RT_TABLE_MAIN, ROUTE_PROTOCOL, libc::RTN_UNICAST, METRIC);
        let (gateway, link) = (self.gateway?, self.link?);
        is_ours.then_some(Route { destination: self.destination, gateway, link })
    }

    pub fn chosen(&self) -> Chosen {
        Chosen { destination: self.destination, gateway: self.gateway, protocol: self.protocol }
    }

    pub fn way(&self) -> Way {
        match (self.kind, self.gateway, self.link) {
            (libc::RTN_LOCAL, ..) => Way::Local,
            (libc::RTN_UNICAST, Some(gateway), _) => Way::Gateway(gateway),
            // By way of a router of the other family (RFC 5549).
            (libc::RTN_UNICAST, None, _) if self.has_gateway => Way::Unreachable,
            (libc::RTN_UNICAST, None, Some(link)) => Way::OnLink(link),
            _ => Way::Unreachable,
        }
    }
}

pub fn attribute(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::after(ROUTE_MESSAGE, payload).value(wanted)
}
