//! What the sets of our table are called, and what is in them.
//!
//! The table has the name of the nftables mode's. Whichever of the two modes writes it takes the other's out in the same
//! transaction, so that there is no moment with both or with none.

use std::fmt;

use crate::kernel::nftables as door;
use crate::kernel::nftables::datatype::Datatype;
use crate::kernel::nftables::set::Shape;
use crate::model::Family;
use crate::modes::nftables::names::Keying;
use crate::modes::userspace::capture::Set;

/// One of the sets. The name of `Captured` is none of the nftables mode's, where such a set is a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetId(pub Set, pub Keying);

pub const NAMES: [(SetId, &str); 11] = [
    (SetId(Set::Captured, Keying::Address), "captured"),
    (SetId(Set::Captured, Keying::Node), "captured-node-ports"),
    (SetId(Set::Guarded, Keying::Address), "guarded"),
    (SetId(Set::SourceRanges, Keying::Address), "source-ranges"),
    (SetId(Set::Drop, Keying::Address), "drop-always"),
    (SetId(Set::Drop, Keying::Node), "node-drop-always"),
    (SetId(Set::DropOutside, Keying::Address), "drop-outside"),
    (SetId(Set::DropOutside, Keying::Node), "node-drop-outside"),
    (SetId(Set::Reject, Keying::Address), "rejected"),
    (SetId(Set::Reject, Keying::Node), "node-rejected"),
    (SetId(Set::VirtualIps, Keying::Address), "virtual-ips"),
];

impl SetId {
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, of)| *of == name).map(|(id, _)| *id)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(id, _)| *id == self).map(|(_, name)| *name).unwrap_or_default()
    }

    pub fn declaration(self, family: Family) -> door::Set {
        let SetId(set, keying) = self;
        let address = match family {
            Family::V4 => Datatype::Ipv4Address,
            Family::V6 => Datatype::Ipv6Address,
        };
        let mut key = match (set, keying) {
            (Set::VirtualIps, _) => vec![address],
            (_, Keying::Address) => vec![address, Datatype::Protocol, Datatype::Port],
            (_, Keying::Node) => vec![Datatype::Protocol, Datatype::Port],
        };
        if set == Set::SourceRanges {
            key.push(address);
            return door::Set::new(self.name(), Shape::types(&key)).intervals();
        }
        door::Set::new(self.name(), Shape::types(&key))
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
