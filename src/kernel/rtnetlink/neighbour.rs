//! Neighbours, the entries of ARP and neighbour discovery: `ip neighbour replace`.

use std::net::IpAddr;

use super::change::Change;
use super::{HardwareAddress, Link, family};
use crate::kernel::netlink::Request;
use crate::kernel::netlink::address::octets;

/// `NDA_DST` and `NDA_LLADDR` of `linux/neighbour.h`.
const DESTINATION: u16 = 1;
const HARDWARE_ADDRESS: u16 = 2;
const STATE_STALE: u16 = 0x04;
const STATE_PERMANENT: u16 = 0x80;
/// `NTF_EXT_LEARNED`: not counted against `gc_thresh3` and never collected, since Linux 5.0.
const FLAG_LEARNED_ELSEWHERE: u8 = 0x10;

/// How long the entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// For good.
    Permanent,
    /// Used at once, asked about when it is in use, and corrected by what the neighbour says itself.
    Initial,
}

/// `ip neighbour replace ADDRESS lladdr MAC dev LINK nud permanent`, or `nud stale extern_learn`
pub fn replace(link: Link, address: IpAddr, hardware_address: HardwareAddress, trust: Trust) -> Change {
    let [i0, i1, i2, i3] = link.0.to_ne_bytes();
    let (state, flags) = match trust {
        Trust::Permanent => (STATE_PERMANENT, 0),
        Trust::Initial => (STATE_STALE, FLAG_LEARNED_ELSEWHERE),
    };
    let [s0, s1] = state.to_ne_bytes();
    let fixed = [family(address), 0, 0, 0, i0, i1, i2, i3, s0, s1, flags, 0];
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut request = Request::new(libc::RTM_NEWNEIGH, flags, &fixed);
    request.attribute(DESTINATION, &octets(address)).attribute(HARDWARE_ADDRESS, &hardware_address.0);
    Change::new(request, format!("set neighbour {address} of link {} to {hardware_address}", link.0))
}
