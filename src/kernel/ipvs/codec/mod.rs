//! The messages of the kernel's generic netlink family `IPVS` (`linux/ip_vs.h`).
//!
//! Numbers are of the machine's byte order, except for ports, IPv4 addresses and IPv4 netmasks. An address always has room
//! for 16 bytes.

mod constants;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use constants::{FAMILY, VERSION};
pub use read::{parse_destination, parse_service, parse_timeouts, parse_version};
pub use write::{command, list_destinations, list_services, set_timeouts, timeouts, version};

use super::ForwardingMethod;
use crate::model::Family;

/// `union nf_inet_addr`
const ADDRESS: usize = 16;

/// `IP_VS_CONN_F_FWD_MASK`
const METHOD_MASK: u32 = 7;
const METHODS: [ForwardingMethod; 5] = [
    ForwardingMethod::Masquerade,
    ForwardingMethod::Local,
    ForwardingMethod::Tunnel,
    ForwardingMethod::DirectRoute,
    ForwardingMethod::Bypass,
];

fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => libc::AF_INET as u16,
        Family::V6 => libc::AF_INET6 as u16,
    }
}
