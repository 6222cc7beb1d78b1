//! Routes: `ip route add`, `ip route delete`.

use ipnet::IpNet;

use super::change::Change;
use super::{Hop, RoutingTable, family};
use crate::kernel::netlink::Request;
use crate::kernel::netlink::address::octets;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub hop: Hop,
    pub table: RoutingTable,
    /// Who made it, `RTPROT_*`.
    pub protocol: u8,
}

impl Route {
    /// In the main table, as if made by hand.
    pub fn new(destination: IpNet, hop: Hop) -> Self {
        Route { destination, hop, table: RoutingTable::Main, protocol: libc::RTPROT_STATIC }
    }
}

/// `ip route add DESTINATION [via GATEWAY] dev LINK table TABLE proto PROTOCOL`. One that is there is an error, through
/// whatever link it goes.
pub fn add(route: &Route) -> Change {
    let mut request = message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, route);
    if let Some(gateway) = route.hop.gateway {
        request.attribute(libc::RTA_GATEWAY, &octets(gateway));
    }
    Change::new(request, format!("add route to {} through {:?}", route.destination, route.hop))
}

fn message(kind: u16, flags: i32, route: &Route) -> Request {
    let Route { destination, hop, table, protocol } = route;
    let scope = if hop.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let mut fixed = [0; 12];
    fixed[..2].copy_from_slice(&[family(destination.addr()), destination.prefix_len()]);
    fixed[4..8].copy_from_slice(&[table.number(), *protocol, scope, libc::RTN_UNICAST]);
    let mut request = Request::new(kind, flags, &fixed);
    request
        .attribute(libc::RTA_DST, &octets(destination.addr()))
        .attribute(libc::RTA_OIF, &hop.link.0.to_ne_bytes());
    request
}
