//! What our sets of the kernel (ipset) are called, and what is in them.
//!
//! A set of addresses cannot hold "whatever address of the node", so that NodePorts have sets of ports, one for each
//! protocol. `ipset list FERRO-U4-CAPTURED` reads well on its own.

use std::net::IpAddr;
use std::sync::Arc;

use crate::kernel::ipset::{Definition, Element, Marks, SetType};
use crate::model::{Destination, Family, FrontendKey, Protocol};
use crate::modes::userspace::capture::{Member, Set};

/// What the names of the sets of one address family begin with. None of the IPVS mode's do.
pub fn of_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "FERRO-U4-",
        Family::V6 => "FERRO-U6-",
    }
}

/// The kernel takes memory for elements that there are, so that this is only a bound on faults.
const MAX_ELEMENTS: u32 = 1 << 22;

/// Whose places a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Address,
    /// Ports of the node.
    Node(Protocol),
}

/// One of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetId(pub Set, pub At);

/// In the order in which they are filled: what keeps clients out comes before what lets them in, and last what refuses
/// everything else.
pub const SETS: [SetId; 15] = [
    SetId(Set::SourceRanges, At::Address),
    SetId(Set::Guarded, At::Address),
    SetId(Set::Drop, At::Address),
    SetId(Set::Drop, At::Node(Protocol::Tcp)),
    SetId(Set::Drop, At::Node(Protocol::Udp)),
    SetId(Set::DropOutside, At::Address),
    SetId(Set::DropOutside, At::Node(Protocol::Tcp)),
    SetId(Set::DropOutside, At::Node(Protocol::Udp)),
    SetId(Set::Captured, At::Address),
    SetId(Set::Captured, At::Node(Protocol::Tcp)),
    SetId(Set::Captured, At::Node(Protocol::Udp)),
    SetId(Set::Reject, At::Address),
    SetId(Set::Reject, At::Node(Protocol::Tcp)),
    SetId(Set::Reject, At::Node(Protocol::Udp)),
    SetId(Set::VirtualIps, At::Address),
];

impl SetId {
    pub fn of(member: &Member) -> Self {
        match member {
            Member::Place(set, place) => SetId(*set, At::of(place)),
            Member::Range(..) => SetId(Set::SourceRanges, At::Address),
            Member::VirtualIp(_) => SetId(Set::VirtualIps, At::Address),
        }
    }

    pub fn of_name(name: &str, family: Family) -> Option<Self> {
        SETS.into_iter().find(|id| *id.name(family) == *name)
    }

    /// Its place among all.
    pub fn number(self) -> usize {
        SETS.iter().position(|id| *id == self).unwrap_or_default()
    }

    /// At most 31 bytes, as the kernel demands.
    pub fn name(self, family: Family) -> Arc<str> {
        let SetId(set, at) = self;
        let place = match at {
            At::Address => "",
            At::Node(Protocol::Udp) => "UDP-",
            At::Node(_) => "TCP-",
        };
        let what = match set {
            Set::Captured => "CAPTURED",
            Set::Guarded => "GUARDED",
            Set::SourceRanges => "SOURCE-RANGES",
            Set::Drop => "DROP",
            Set::DropOutside => "DROP-OUTSIDE",
            Set::Reject => "REJECT",
            Set::VirtualIps => "VIRTUAL-IPS",
        };
        format!("{}{place}{what}", of_family(family)).into()
    }

    /// A set must never get another type under the same name: the kernel does not swap such sets.
    pub fn definition(self, family: Family) -> Definition {
        let kind = match self {
            SetId(_, At::Node(_)) => SetType::BitmapPort,
            SetId(Set::VirtualIps, _) => SetType::HashIp,
            SetId(Set::SourceRanges, _) => SetType::HashIpPortNet,
            SetId(..) => SetType::HashIpPort,
        };
        let name = self.name(family).as_ref().into();
        Definition { name, kind, family, max_elements: MAX_ELEMENTS, marks: Marks::Without }
    }

    /// `None` for what is never written here.
    pub fn parse(self, element: &Element) -> Option<Member> {
        let SetId(set, at) = self;
        match (*element, at) {
            (Element::Ip(address), _) => Some(Member::VirtualIp(address)),
            (Element::IpPort(address, protocol, port), At::Address) => {
                Some(Member::Place(set, key(address, protocol, port)))
            }
            (Element::IpPortNet(address, protocol, port, network), _) => {
                Some(Member::Range(key(address, protocol, port), network))
            }
            (Element::Port(port), At::Node(protocol)) => {
                Some(Member::Place(set, FrontendKey { destination: Destination::Node, protocol, port }))
            }
            _ => None,
        }
    }
}

impl At {
    fn of(place: &FrontendKey) -> Self {
        match place.destination {
            Destination::Address(_) => At::Address,
            Destination::Node => At::Node(place.protocol),
        }
    }
}

fn key(address: IpAddr, protocol: Protocol, port: u16) -> FrontendKey {
    FrontendKey { destination: Destination::Address(address), protocol, port }
}

pub fn element(member: &Member) -> Element {
    let of_place = |place: &FrontendKey| match place.destination {
        Destination::Address(address) => Element::IpPort(address, place.protocol, place.port),
        Destination::Node => Element::Port(place.port),
    };
    match member {
        Member::Place(_, place) => of_place(place),
        Member::Range(place, network) => match of_place(place) {
            Element::IpPort(address, protocol, port) => Element::IpPortNet(address, protocol, port, *network),
            other => other,
        },
        Member::VirtualIp(address) => Element::Ip(*address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_tell_which_set_it_is() {
        for (id, family) in SETS.into_iter().flat_map(|id| Family::ALL.map(|family| (id, family))) {
            let name = id.name(family);
            assert!(name.len() <= 31, "{name}");
            assert_eq!(SetId::of_name(&name, family), Some(id));
        }
    }
}
