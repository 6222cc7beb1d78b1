//! What is in a set.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Family, Protocol};

/// An element, one variant for each type of set. Networks mean the same whatever their host bits, but only those without
/// any are equal to what the kernel lists. `Display` is what `ipset add` takes and `ipset save` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    Ip(IpAddr),
    IpPort(IpAddr, Protocol, u16),
    IpPortNet(IpAddr, Protocol, u16, IpNet),
    NetNet(IpNet, IpNet),
    Port(u16),
}

impl Element {
    /// Sets have no room for the prefix length 0: a whole address space has to be given as two halves.
    pub(super) fn is_too_wide(&self) -> bool {
        match self {
            Element::IpPortNet(.., network) => network.prefix_len() == 0,
            Element::NetNet(one, other) => one.prefix_len() == 0 || other.prefix_len() == 0,
            Element::Ip(_) | Element::IpPort(..) | Element::Port(_) => false,
        }
    }
}

/// `10.96.0.10,tcp:80,10.0.0.0/8`; a network of one host as its address: `10.244.1.5,10.244.1.5`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Ip(address) => write!(f, "{address}"),
            Element::IpPort(address, protocol, port) => {
                write!(f, "{address},{}:{port}", protocol.lowercase())
            }
            Element::IpPortNet(address, protocol, port, network) => {
                write!(f, "{address},{}:{port},{}", protocol.lowercase(), Network(network))
            }
            Element::NetNet(one, other) => write!(f, "{},{}", Network(one), Network(other)),
            Element::Port(port) => write!(f, "{port}"),
        }
    }
}

struct Network<'a>(&'a IpNet);

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.network();
        if self.0.prefix_len() == Family::of(address).bits() {
            write!(f, "{address}")
        } else {
            write!(f, "{address}/{}", self.0.prefix_len())
        }
    }
}

/// An element and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub element: Element,
    /// `skbmark MARK`, of a set with [`Marks`](super::Marks). The whole mark of the packet is replaced. In such a set, 0
    /// and no mark are the same, and listed as none.
    pub mark: Option<u32>,
}

impl From<Element> for Member {
    fn from(element: Element) -> Self {
        Member { element, mark: None }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.element)?;
        match self.mark {
            Some(mark) => write!(f, " skbmark {mark:#x}"),
            None => Ok(()),
        }
    }
}
