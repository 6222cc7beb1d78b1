//! Which routes there are: `ip route get fibmatch`, `ip route show`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Link, Network, NetworkError, family};
use crate::kernel::netlink::address::family_number;
use crate::kernel::netlink::address::{from_octets, octets};
use crate::kernel::netlink::{Attributes, Request};
use crate::model::Family;

/// `struct rtmsg`.
const FIXED: usize = 12;
/// `RTM_F_FIB_MATCH` of `linux/rtnetlink.h`, since Linux 4.13 and, for IPv6, 4.16: answer with the route and not with what
/// it makes of a packet.
const FIB_MATCH: u32 = 0x2000;

/// A route that is there, as far as it leads somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledRoute {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub link: Option<Link>,
    pub protocol: u8,
    pub table: u8,
}

impl Network {
    /// The route by which packets go there. `ip route get ADDRESS fibmatch`, `None` where there is none.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<InstalledRoute>, NetworkError> {
        let mut fixed = [0; FIXED];
        fixed[..2].copy_from_slice(&[family(address), Family::of(address).bits()]);
        fixed[8..].copy_from_slice(&FIB_MATCH.to_ne_bytes());
        let mut request = Request::new(libc::RTM_GETROUTE, 0, &fixed);
        request.attribute(libc::RTA_DST, &octets(address));
        let mut found = None;
        match self.connection.query(request, &mut |payload| found = parse(payload)) {
            Ok(()) => Ok(found),
            Err(error) if is_no_way(error.refusal()) => Ok(None),
            Err(source) => Err(NetworkError { attempted: format!("look up the route to {address}"), source }),
        }
    }

    /// `ip route show table main`, of one family.
    pub fn routes(&mut self, family: Family) -> Result<Vec<InstalledRoute>, NetworkError> {
        let mut fixed = [0; FIXED];
        fixed[0] = family_number(family);
        let mut found = Vec::new();
        let mut note = |payload: &[u8]| {
            found.extend(parse(payload).filter(|route| route.table == libc::RT_TABLE_MAIN));
        };
        self.connection
            .dump(Request::new(libc::RTM_GETROUTE, 0, &fixed), &mut note)
            .map_err(|source| NetworkError { attempted: format!("list {family} routes"), source })?;
        Ok(found)
    }
}

/// Also by a route of type `unreachable`, `blackhole` or `prohibit`.
fn is_no_way(errno: Option<i32>) -> bool {
    [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES].map(Some).contains(&errno)
}

fn parse(payload: &[u8]) -> Option<InstalledRoute> {
    let &[number, prefix, _, _, table, protocol, ..] = payload else { return None };
    let family = match i32::from(number) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let mut route = InstalledRoute {
        destination: IpNet::new(family.unspecified(), prefix).ok()?,
        gateway: None,
        link: None,
        protocol,
        table,
    };
    for (kind, value) in Attributes::after(FIXED, payload) {
        match kind {
            libc::RTA_DST => route.destination = IpNet::new(from_octets(value)?, prefix).ok()?,
            libc::RTA_GATEWAY => route.gateway = from_octets(value),
            libc::RTA_OIF => route.link = Some(Link(u32::from_ne_bytes(value.try_into().ok()?))),
            _ => {}
        }
    }
    Some(route)
}
