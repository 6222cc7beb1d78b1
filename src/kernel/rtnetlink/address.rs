//! Addresses of interfaces: `ip address add`, `ip address show`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::change::Change;
use super::{Link, Network, NetworkError, family};
use crate::kernel::netlink::address::{from_octets, octets};
use crate::kernel::netlink::{Attributes, Request};
use crate::model::Family;

/// `struct ifaddrmsg`.
const FIXED: usize = 8;

/// Where an address means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Global,
    /// The kernel takes no such address as the source of packets that leave the machine (`inet_select_addr`).
    Host,
}

/// `ip address add ADDRESS dev LINK scope SCOPE nodad`: an IPv6 address is usable at once.
pub fn add(link: Link, address: IpNet, scope: Scope) -> Change {
    let [i0, i1, i2, i3] = link.0.to_ne_bytes();
    let scope = match scope {
        Scope::Global => libc::RT_SCOPE_UNIVERSE,
        Scope::Host => libc::RT_SCOPE_HOST,
    };
    let fixed =
        [family(address.addr()), address.prefix_len(), libc::IFA_F_NODAD as u8, scope, i0, i1, i2, i3];
    let mut request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed);
    let octets = octets(address.addr());
    request.attribute(libc::IFA_LOCAL, &octets).attribute(libc::IFA_ADDRESS, &octets);
    Change::new(request, format!("add address {address} to link {}", link.0))
}

impl Network {
    /// `ip address show dev LINK`, both families.
    pub fn addresses(&mut self, link: Link) -> Result<Vec<IpNet>, NetworkError> {
        let mut found = Vec::new();
        let mut note = |payload: &[u8]| {
            let ours = InterfaceAddress::parse(payload).filter(|found| found.interface == link.0);
            found.extend(ours.and_then(|found| IpNet::new(found.address, found.prefix).ok()));
        };
        self.connection
            .dump(InterfaceAddress::list(), &mut note)
            .map_err(|source| NetworkError { attempted: "list addresses".into(), source })?;
        Ok(found)
    }
}

/// An address of an interface, as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub address: IpAddr,
    /// Its number.
    pub interface: u32,
    pub prefix: u8,
    pub scope: u8,
}

impl InterfaceAddress {
    /// `ip address show`, both families. Answered with payloads for [`InterfaceAddress::parse`].
    pub fn list() -> Request {
        Request::new(libc::RTM_GETADDR, 0, &[0; FIXED])
    }

    /// The payload of `RTM_NEWADDR` and `RTM_DELADDR`. The address is the interface's own: with a peer, `IFA_ADDRESS` is
    /// the peer's.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let &[_, prefix, _, scope, i0, i1, i2, i3, ..] = payload else { return None };
        let attributes = Attributes::after(FIXED, payload);
        let value = attributes.value(libc::IFA_LOCAL).or_else(|| attributes.value(libc::IFA_ADDRESS))?;
        let interface = u32::from_ne_bytes([i0, i1, i2, i3]);
        Some(InterfaceAddress { address: from_octets(value)?, interface, prefix, scope })
    }

    /// Whether it is alone in its network, as a virtual address is.
    pub fn is_host(&self) -> bool {
        self.prefix == Family::of(self.address).bits()
    }
}
