//! Addresses of interfaces: `ip address add`, `ip address show`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::change::Change;
use super::{Link, Network, NetworkError, family, from_octets, octets};
use crate::kernel::netlink::{Attributes, Request};

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
            if payload.get(4..FIXED) == Some(&link.0.to_ne_bytes()) {
                found.extend(parse(payload));
            }
        };
        self.connection
            .dump(Request::new(libc::RTM_GETADDR, 0, &[0; FIXED]), &mut note)
            .map_err(|source| NetworkError { attempted: "list addresses".into(), source })?;
        Ok(found)
    }
}

/// The interface's own address. With a peer, `IFA_ADDRESS` is the peer's.
fn parse(payload: &[u8]) -> Option<IpNet> {
    let of_kind = |wanted| Attributes::after(FIXED, payload).find(|(kind, _)| *kind == wanted);
    let (_, value) = of_kind(libc::IFA_LOCAL).or_else(|| of_kind(libc::IFA_ADDRESS))?;
    let address: IpAddr = from_octets(value)?;
    IpNet::new(address, *payload.get(1)?).ok()
}
