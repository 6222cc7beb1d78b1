//! Selectors: what of a packet, of its connection or by chance makes a value. Loaded into registers by expressions.

use std::fmt;

use super::datatype::{Datatype, Type};
use super::expression::{
    CtDirection, CtKey, Expression, FibLookup, FibScope, Header, MetaKey, Numbering, PacketEnd, Register,
};
use crate::model::Family;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `ip saddr`
    SourceAddress(Family),
    /// `ip daddr`
    DestinationAddress(Family),
    /// Where the first packet of the connection was sent. `ct original ip daddr`, since Linux 4.16.
    OriginalDestination(Family),
    /// `meta l4proto`
    Protocol,
    /// `th sport`
    SourcePort,
    /// `th dport`
    DestinationPort,
    /// `ct original proto-dst`
    OriginalDestinationPort,
    /// `meta mark`
    Mark,
    /// `meta priority`
    Priority,
    /// `ct mark`
    CtMark,
    /// Any of [`CT_STATES`]. `ct state`
    CtState,
    /// Any of [`CT_STATUSES`]. `ct status`
    CtStatus,
    /// `ct direction`
    CtDirection,
    /// `iifname`: by name, as the interface may not be there yet (kubernetes PR#134024).
    InputInterface,
    /// `oifname`
    OutputInterface,
    /// `meta nfproto`, in tables of the family `inet`.
    NetfilterProtocol,
    /// The kind of an address, as the routing table knows it. `fib daddr type`
    AddressType(FibLookup),
    /// `numgen random mod 3`
    Number(Generator),
    /// `jhash ip saddr mod 3`
    Hash(Hash),
}

/// A number from `offset` on, of `modulus` different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generator {
    pub numbering: Numbering,
    pub modulus: u32,
    pub offset: u32,
}

/// The same number for the same packet fields. Without a seed the kernel draws one for the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    pub of: Vec<Selector>,
    pub modulus: u32,
    pub seed: Option<u32>,
}

/// `NF_CT_STATE_*_BIT` as nft names them.
pub(super) const CT_STATES: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
/// `IPS_*`: of `nf_conntrack_common.h`.
pub(super) const CT_STATUSES: [(u32, &str); 5] =
    [(2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat")];

/// Registers of 4 bytes.
pub(super) const SLOTS: usize = 16;

impl Selector {
    pub fn datatype(&self) -> Datatype {
        match self {
            Selector::SourceAddress(family)
            | Selector::DestinationAddress(family)
            | Selector::OriginalDestination(family) => match family {
                Family::V4 => Datatype::Ipv4Address,
                Family::V6 => Datatype::Ipv6Address,
            },
            Selector::Protocol => Datatype::Protocol,
            Selector::SourcePort | Selector::DestinationPort | Selector::OriginalDestinationPort => {
                Datatype::Port
            }
            Selector::Mark | Selector::CtMark => Datatype::Mark,
            Selector::Priority => Datatype::Priority,
            Selector::InputInterface | Selector::OutputInterface => Datatype::InterfaceName,
            Selector::Number(_) | Selector::Hash(_) => Datatype::Integer,
            Selector::NetfilterProtocol => Datatype::Other(2),
            Selector::CtState => Datatype::Other(26),
            Selector::CtDirection => Datatype::Other(27),
            Selector::CtStatus => Datatype::Other(28),
            Selector::AddressType(_) => Datatype::Other(38),
        }
    }

    /// In bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Selector::NetfilterProtocol | Selector::CtDirection => 1,
            Selector::CtState | Selector::CtStatus | Selector::AddressType(_) => 4,
            selector => selector.datatype().length(),
        }
    }

    /// The registers of 4 bytes that it fills.
    fn slots(&self) -> usize {
        self.length().div_ceil(4)
    }

    /// Those that it needs beside them.
    fn scratch_slots(&self) -> usize {
        match self {
            Selector::Hash(hash) => hash.of.iter().map(Selector::slots).sum(),
            _ => 0,
        }
    }

    /// Puts the value into the slots from `slot` on. A hash needs others beside them, from `scratch` on.
    fn load(&self, slot: usize, scratch: usize, to: &mut Vec<Expression>) {
        let into = Register::slot(slot);
        let meta = |key| Expression::Meta { key, into };
        let ct = |key| Expression::Ct { key, direction: None, into };
        let original = |key| Expression::Ct { key, direction: Some(CtDirection::Original), into };
        let port = |offset| Expression::Payload { header: Header::Transport, offset, length: 2, into };
        let expression = match self {
            Selector::SourceAddress(family) => address(*family, PacketEnd::Source, into),
            Selector::DestinationAddress(family) => address(*family, PacketEnd::Destination, into),
            Selector::OriginalDestination(Family::V4) => original(CtKey::DestinationIpv4),
            Selector::OriginalDestination(Family::V6) => original(CtKey::DestinationIpv6),
            Selector::OriginalDestinationPort => original(CtKey::DestinationPort),
            Selector::Protocol => meta(MetaKey::Layer4Protocol),
            Selector::SourcePort => port(0),
            Selector::DestinationPort => port(2),
            Selector::Mark => meta(MetaKey::Mark),
            Selector::Priority => meta(MetaKey::Priority),
            Selector::InputInterface => meta(MetaKey::InputInterface),
            Selector::OutputInterface => meta(MetaKey::OutputInterface),
            Selector::NetfilterProtocol => meta(MetaKey::NetfilterProtocol),
            Selector::CtMark => ct(CtKey::Mark),
            Selector::CtState => ct(CtKey::State),
            Selector::CtStatus => ct(CtKey::Status),
            Selector::CtDirection => ct(CtKey::Direction),
            Selector::AddressType(lookup) => Expression::Fib { lookup: *lookup, into },
            Selector::Number(Generator { numbering, modulus, offset }) => {
                Expression::Number { numbering: *numbering, modulus: *modulus, offset: *offset, into }
            }
            Selector::Hash(hash) => {
                let length = load(&hash.of, scratch, to) as u32;
                let from = Register::slot(scratch);
                Expression::Hash { from, length, modulus: hash.modulus, seed: hash.seed, offset: 0, into }
            }
        };
        to.push(expression);
    }
}

/// `ip saddr`, `ip6 daddr`: RFC 791, RFC 8200.
fn address(family: Family, end: PacketEnd, into: Register) -> Expression {
    let (offset, length) = match (family, end) {
        (Family::V4, PacketEnd::Source) => (12, 4),
        (Family::V4, PacketEnd::Destination) => (16, 4),
        (Family::V6, PacketEnd::Source) => (8, 16),
        (Family::V6, PacketEnd::Destination) => (24, 16),
    };
    Expression::Payload { header: Header::Network, offset, length, into }
}

/// Puts selectors beside each other into the slots from `first` on, each from a new slot on. Tells how many bytes they are.
pub(super) fn load(selectors: &[Selector], first: usize, to: &mut Vec<Expression>) -> usize {
    let end = first + selectors.iter().map(Selector::slots).sum::<usize>();
    let hashed = selectors.iter().map(Selector::scratch_slots).max().unwrap_or_default();
    // nft leaves a register of 16 bytes free in between, which long keys do not allow.
    let scratch = (end.next_multiple_of(4) + 4).min(SLOTS - hashed).max(end);
    let mut slot = first;
    for selector in selectors {
        selector.load(slot, scratch, to);
        slot += selector.slots();
    }
    match selectors {
        [only] => only.length(),
        _ => (end - first) * 4,
    }
}

/// The type of a concatenation of these.
pub fn type_of(selectors: &[Selector]) -> Type {
    let fields: Vec<Datatype> = selectors.iter().map(Selector::datatype).collect();
    Type::of(&fields)
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Selector::SourceAddress(family) => return write!(f, "{} saddr", family_name(*family)),
            Selector::DestinationAddress(family) => return write!(f, "{} daddr", family_name(*family)),
            Selector::OriginalDestination(family) => {
                return write!(f, "ct original {} daddr", family_name(*family));
            }
            Selector::OriginalDestinationPort => "ct original proto-dst",
            Selector::Protocol => "meta l4proto",
            Selector::SourcePort => "th sport",
            Selector::DestinationPort => "th dport",
            Selector::Mark => "meta mark",
            Selector::Priority => "meta priority",
            Selector::CtMark => "ct mark",
            Selector::CtState => "ct state",
            Selector::CtStatus => "ct status",
            Selector::CtDirection => "ct direction",
            Selector::InputInterface => "iifname",
            Selector::OutputInterface => "oifname",
            Selector::NetfilterProtocol => "meta nfproto",
            Selector::AddressType(lookup) => return write!(f, "{lookup}"),
            Selector::Number(generator) => return write!(f, "{generator}"),
            Selector::Hash(hash) => return write!(f, "{hash}"),
        })
    }
}

impl fmt::Display for FibLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.end, self.scope) {
            (PacketEnd::Source, FibScope::Anywhere) => "fib saddr type",
            (PacketEnd::Destination, FibScope::Anywhere) => "fib daddr type",
            (PacketEnd::Source, FibScope::InputInterface) => "fib saddr . iif type",
            (PacketEnd::Destination, FibScope::InputInterface) => "fib daddr . iif type",
        })
    }
}

impl fmt::Display for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbering = match self.numbering {
            Numbering::Incremental => "inc",
            Numbering::Random => "random",
        };
        write!(f, "numgen {numbering} mod {}", self.modulus)?;
        if self.offset != 0 { write!(f, " offset {}", self.offset) } else { Ok(()) }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jhash {} mod {}", Concatenation(&self.of), self.modulus)?;
        self.seed.map_or(Ok(()), |seed| write!(f, " seed {seed:#x}"))
    }
}

/// `ip daddr . meta l4proto . th dport`
pub(super) struct Concatenation<'a>(pub &'a [Selector]);

impl fmt::Display for Concatenation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, selector) in self.0.iter().enumerate() {
            write!(f, "{}{selector}", if at == 0 { "" } else { " . " })?;
        }
        Ok(())
    }
}
