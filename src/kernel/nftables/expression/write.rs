//! Expressions as attributes: `NFTA_EXPR_NAME`, and `NFTA_EXPR_DATA` with what the expression of that name wants.

use super::super::message::NESTED;
use super::{
    Comparison, CtDirection, CtKey, Expression, FibLookup, FibScope, Header, Membership, MetaKey, NatFlags,
    Numbering, PacketEnd, Register, Rejection, SetChange, Translation,
};
use crate::kernel::netlink::Request;
use crate::model::Family;

pub(super) const NAME: u16 = 1;
pub(super) const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`
pub(super) const VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`
pub(super) const VERDICT: u16 = 2;
/// `NFT_REG_VERDICT`
pub(super) const VERDICT_REGISTER: Register = Register(0);
const ELEMENT: u16 = 1;
/// `NFT_OBJECT_COUNTER`
pub(super) const COUNTER: u32 = 1;
/// `NFT_LOOKUP_F_INV`
const INVERTED: u32 = 1;

/// Numbers of the kernel, beside what they stand for here.
pub(super) const META_KEYS: [(MetaKey, u32); 7] = [
    (MetaKey::Protocol, 1),
    (MetaKey::Priority, 2),
    (MetaKey::Mark, 3),
    (MetaKey::InputInterface, 6),
    (MetaKey::OutputInterface, 7),
    (MetaKey::NetfilterProtocol, 15),
    (MetaKey::Layer4Protocol, 16),
];
pub(super) const CT_KEYS: [(CtKey, u32); 7] = [
    (CtKey::State, 0),
    (CtKey::Direction, 1),
    (CtKey::Status, 2),
    (CtKey::Mark, 3),
    (CtKey::DestinationPort, 12),
    (CtKey::DestinationIpv4, 20),
    (CtKey::DestinationIpv6, 22),
];
pub(super) const HEADERS: [(Header, u32); 2] = [(Header::Network, 1), (Header::Transport, 2)];
pub(super) const COMPARISONS: [(Comparison, u32); 2] = [(Comparison::Equal, 0), (Comparison::NotEqual, 1)];
pub(super) const NUMBERINGS: [(Numbering, u32); 2] = [(Numbering::Incremental, 0), (Numbering::Random, 1)];
pub(super) const TRANSLATIONS: [(Translation, u32); 2] =
    [(Translation::Source, 0), (Translation::Destination, 1)];
pub(super) const SET_CHANGES: [(SetChange, u32); 3] =
    [(SetChange::Add, 0), (SetChange::Update, 1), (SetChange::Delete, 2)];
pub(super) const FAMILIES: [(Family, u32); 2] = [(Family::V4, 2), (Family::V6, 10)];
/// `NFT_FIB_RESULT_ADDRTYPE`
pub(super) const ADDRESS_TYPE: u32 = 3;
/// `NFT_SOCKET_TRANSPARENT`
pub(super) const TRANSPARENT: u32 = 0;
pub(super) const FIB_LOOKUPS: [(FibLookup, u32); 4] = [
    (FibLookup { end: PacketEnd::Source, scope: FibScope::Anywhere }, 1),
    (FibLookup { end: PacketEnd::Destination, scope: FibScope::Anywhere }, 2),
    (FibLookup { end: PacketEnd::Source, scope: FibScope::InputInterface }, 1 | 8),
    (FibLookup { end: PacketEnd::Destination, scope: FibScope::InputInterface }, 2 | 8),
];

/// The kernel's number of a value. Every value is in its table.
fn number_of<T: PartialEq>(table: &[(T, u32)], value: &T) -> u32 {
    table.iter().find(|(known, _)| known == value).map(|(_, number)| *number).unwrap_or_default()
}

impl NatFlags {
    const SPECIFIED: u32 = 1 << 1;
    const RANDOM: u32 = 1 << 2;
    const PERSISTENT: u32 = 1 << 3;
    const FULLY_RANDOM: u32 = 1 << 4;

    pub(super) fn bits(self) -> u32 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(self.random, Self::RANDOM)
            | bit(self.persistent, Self::PERSISTENT)
            | bit(self.fully_random, Self::FULLY_RANDOM)
    }

    /// `None` if there are bits of another meaning. The kernel adds those of what is in registers.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        const MAPPED: u32 = 1;
        let flags = NatFlags {
            random: bits & Self::RANDOM != 0,
            persistent: bits & Self::PERSISTENT != 0,
            fully_random: bits & Self::FULLY_RANDOM != 0,
        };
        (flags.bits() == bits & !(Self::SPECIFIED | MAPPED)).then_some(flags)
    }
}

/// A list of expressions as nested attribute `kind`.
pub fn put_list(request: &mut Request, kind: u16, expressions: &[Expression]) {
    request.nested(kind | NESTED, |list| {
        expressions.iter().for_each(|expression| put(list, ELEMENT, expression));
    });
}

/// An expression as nested attribute `kind`.
pub fn put(request: &mut Request, kind: u16, expression: &Expression) {
    request.nested(kind | NESTED, |outer| {
        outer.text(NAME, name(expression));
        match expression {
            Expression::Unknown { bytes, .. } => {
                outer.attribute(DATA | NESTED, bytes);
            }
            known => {
                outer.nested(DATA | NESTED, |inner| content(inner, known));
            }
        }
    });
}

pub(super) fn name(expression: &Expression) -> &str {
    match expression {
        Expression::Payload { .. } => "payload",
        Expression::Meta { .. } | Expression::SetMeta { .. } => "meta",
        Expression::Ct { .. } | Expression::SetCt { .. } => "ct",
        Expression::Fib { .. } => "fib",
        Expression::SocketTransparent { .. } => "socket",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
        Expression::Lookup { .. } | Expression::Map { .. } => "lookup",
        Expression::Number { .. } => "numgen",
        Expression::Hash { .. } => "hash",
        Expression::Nat { .. } => "nat",
        Expression::Masquerade(_) => "masq",
        Expression::Redirect { .. } => "redir",
        Expression::TransparentProxy { .. } => "tproxy",
        Expression::Reject(_) => "reject",
        Expression::Counter => "counter",
        Expression::NamedCounter(_) | Expression::MappedCounter { .. } => "objref",
        Expression::ChangeSet { .. } => "dynset",
        Expression::Unknown { name, .. } => name,
    }
}

fn number(request: &mut Request, kind: u16, number: u32) {
    request.attribute(kind, &number.to_be_bytes());
}

fn register(request: &mut Request, kind: u16, register: Register) {
    number(request, kind, register.0);
}

fn data(request: &mut Request, kind: u16, bytes: &[u8]) {
    request.nested(kind | NESTED, |data| {
        data.attribute(VALUE, bytes);
    });
}

fn content(to: &mut Request, expression: &Expression) {
    match expression {
        Expression::Payload { header, offset, length, into } => {
            register(to, 1, *into);
            number(to, 2, number_of(&HEADERS, header));
            number(to, 3, *offset);
            number(to, 4, *length);
        }
        Expression::Meta { .. }
        | Expression::SetMeta { .. }
        | Expression::Ct { .. }
        | Expression::SetCt { .. }
        | Expression::Fib { .. }
        | Expression::SocketTransparent { .. } => load(to, expression),
        Expression::Compare { from, comparison, data: bytes } => {
            register(to, 1, *from);
            number(to, 2, number_of(&COMPARISONS, comparison));
            data(to, 3, bytes);
        }
        Expression::Bitwise { .. } | Expression::Immediate { .. } | Expression::Hash { .. } => {
            compute(to, expression);
        }
        Expression::Verdict(verdict) => {
            register(to, 1, VERDICT_REGISTER);
            to.nested(2 | NESTED, |data| verdict.put(data, VERDICT));
        }
        Expression::Number { numbering, modulus, offset, into } => {
            register(to, 1, *into);
            number(to, 2, *modulus);
            number(to, 3, number_of(&NUMBERINGS, numbering));
            number(to, 4, *offset);
        }
        Expression::Nat { .. }
        | Expression::Masquerade(_)
        | Expression::Redirect { .. }
        | Expression::TransparentProxy { .. } => translate(to, expression),
        Expression::Reject(rejection) => reject(to, *rejection),
        _ => refer(to, expression),
    }
}

/// `NFTA_META_*`, `NFTA_CT_*`, `NFTA_FIB_*`, `NFTA_SOCKET_*`
fn load(to: &mut Request, expression: &Expression) {
    match expression {
        Expression::Meta { key, into } => {
            number(to, 2, number_of(&META_KEYS, key));
            register(to, 1, *into);
        }
        Expression::SetMeta { key, from } => {
            number(to, 2, number_of(&META_KEYS, key));
            register(to, 3, *from);
        }
        Expression::Ct { key, direction, into } => {
            number(to, 2, number_of(&CT_KEYS, key));
            register(to, 1, *into);
            if let Some(direction) = direction {
                to.attribute(3, &[u8::from(*direction == CtDirection::Reply)]);
            }
        }
        Expression::SetCt { key, from } => {
            number(to, 2, number_of(&CT_KEYS, key));
            register(to, 4, *from);
        }
        Expression::Fib { lookup, into } => {
            number(to, 3, number_of(&FIB_LOOKUPS, lookup));
            number(to, 2, ADDRESS_TYPE);
            register(to, 1, *into);
        }
        Expression::SocketTransparent { into } => {
            number(to, 1, TRANSPARENT);
            register(to, 2, *into);
        }
        _ => {}
    }
}

/// `NFTA_BITWISE_*`, `NFTA_IMMEDIATE_*`, `NFTA_HASH_*`
fn compute(to: &mut Request, expression: &Expression) {
    match expression {
        Expression::Bitwise { from, into, mask, xor } => {
            register(to, 1, *from);
            register(to, 2, *into);
            number(to, 3, mask.len() as u32);
            data(to, 4, mask);
            data(to, 5, xor);
        }
        Expression::Immediate { data: bytes, into } => {
            register(to, 1, *into);
            data(to, 2, bytes);
        }
        Expression::Hash { from, length, modulus, seed, offset, into } => {
            register(to, 1, *from);
            register(to, 2, *into);
            number(to, 3, *length);
            number(to, 4, *modulus);
            if let Some(seed) = seed {
                number(to, 5, *seed);
            }
            number(to, 6, *offset);
            number(to, 7, 0);
        }
        _ => {}
    }
}

/// `NFTA_NAT_*`, `NFTA_MASQ_*`, `NFTA_REDIR_*`, `NFTA_TPROXY_*`
fn translate(to: &mut Request, expression: &Expression) {
    let flags = |to: &mut Request, kind, bits| {
        if bits != 0 {
            number(to, kind, bits);
        }
    };
    match expression {
        Expression::Nat { translation, family, address, port, flags: nat_flags } => {
            number(to, 1, number_of(&TRANSLATIONS, translation));
            number(to, 2, number_of(&FAMILIES, family));
            register(to, 3, *address);
            if let Some(port) = port {
                register(to, 5, *port);
            }
            flags(to, 7, nat_flags.bits());
        }
        Expression::Masquerade(nat_flags) => flags(to, 1, nat_flags.bits()),
        Expression::Redirect { port, flags: nat_flags } => {
            if let Some(port) = port {
                register(to, 1, *port);
            }
            let specified = port.map_or(0, |_| NatFlags::SPECIFIED);
            flags(to, 3, nat_flags.bits() | specified);
        }
        Expression::TransparentProxy { family, address, port } => {
            number(to, 1, number_of(&FAMILIES, family));
            for (kind, from) in [(2, address), (3, port)] {
                from.iter().for_each(|from| register(to, kind, *from));
            }
        }
        _ => {}
    }
}

/// `NFTA_REJECT_*`
fn reject(to: &mut Request, rejection: Rejection) {
    let (kind, code) = match rejection {
        Rejection::Icmp(code) => (0, code),
        Rejection::TcpReset => (1, 0),
        Rejection::Icmpx(code) => (2, code),
    };
    number(to, 1, kind);
    to.attribute(2, &[code]);
}

/// What names sets and objects: `NFTA_LOOKUP_*`, `NFTA_OBJREF_*`, `NFTA_DYNSET_*`
fn refer(to: &mut Request, expression: &Expression) {
    match expression {
        Expression::Lookup { set, from, membership } => {
            to.text(1, set);
            register(to, 2, *from);
            if *membership == Membership::NotIn {
                number(to, 5, INVERTED);
            }
        }
        Expression::Map { map, from, into } => {
            to.text(1, map);
            register(to, 2, *from);
            register(to, 3, into.unwrap_or(VERDICT_REGISTER));
        }
        Expression::NamedCounter(name) => {
            number(to, 1, COUNTER);
            to.attribute(2, name.as_bytes());
        }
        Expression::MappedCounter { map, from } => {
            register(to, 3, *from);
            to.attribute(4, map.as_bytes());
        }
        Expression::ChangeSet { change, set, key, data, timeout } => {
            to.text(1, set);
            number(to, 3, number_of(&SET_CHANGES, change));
            register(to, 4, *key);
            if let Some(data) = data {
                register(to, 5, *data);
            }
            if let Some(timeout) = timeout {
                to.attribute(6, &(timeout.as_millis() as u64).to_be_bytes());
            }
        }
        _ => {}
    }
}
