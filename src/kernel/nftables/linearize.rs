//! Statements as expressions, in the registers that nft itself takes, so that its listing shows the statements again.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{
    Comparison, CtDirection, CtKey, Expression, MetaKey, NatFlags, Register, Rejection, Translation,
};
use super::selector::{self, SLOTS, Selector, type_of};
use super::statement::{ElementData, MappedNat, Mark, NatTarget, Reject, Statement};
use super::table::TableFamily;
use super::value::Value;
use crate::model::Family;

/// `RTN_LOCAL`
const LOCAL: u32 = 2;

impl Statement {
    pub(super) fn linearize(&self, to: &mut Vec<Expression>) {
        use Comparison::{Equal, NotEqual};
        match self {
            Statement::Is(selector, value) => compare(to, selector, Equal, value.as_bytes()),
            Statement::IsNot(selector, value) => compare(to, selector, NotEqual, value.as_bytes()),
            Statement::Within(selector, network) => within(to, selector, Equal, network),
            Statement::Outside(selector, network) => within(to, selector, NotEqual, network),
            Statement::BeginsWith(selector, prefix) => compare(to, selector, Equal, prefix.as_bytes()),
            Statement::BeginsOtherThan(selector, prefix) => {
                compare(to, selector, NotEqual, prefix.as_bytes());
            }
            Statement::Bits { selector, mask, value } => bits(to, selector, *mask, Equal, *value),
            Statement::BitsOtherThan { selector, mask, value } => {
                bits(to, selector, *mask, NotEqual, *value);
            }
            Statement::Any(selector, mask) => bits(to, selector, *mask, NotEqual, 0),
            Statement::Direction(direction) => {
                compare(to, &Selector::CtDirection, Equal, &[u8::from(*direction == CtDirection::Reply)]);
            }
            Statement::Family(family) => {
                let number = TableFamily::from(*family).number();
                compare(to, &Selector::NetfilterProtocol, Equal, &[number]);
            }
            Statement::IsLocal(selector) => compare(to, selector, Equal, &LOCAL.to_ne_bytes()),
            Statement::IsNotLocal(selector) => compare(to, selector, NotEqual, &LOCAL.to_ne_bytes()),
            Statement::IsTransparent => {
                let (register, comparison) = (Register::slot(0), Equal);
                to.push(Expression::SocketTransparent { into: register });
                to.push(Expression::Compare { from: register, comparison, data: [1].into() });
            }
            Statement::SetBits { of, bits } => change_mark(to, *of, !bits, *bits),
            Statement::KeepBits { of, bits } => change_mark(to, *of, *bits, 0),
            Statement::FlipBits { of, bits } => change_mark(to, *of, u32::MAX, *bits),
            Statement::SetMark { of, to: mark } => {
                to.push(immediate(&mark.to_ne_bytes(), 0));
                to.push(set_mark(*of));
            }
            Statement::CopyMark { to: target } => copy_mark(to, *target),
            Statement::DestinationNat(target) => {
                translate(to, Translation::Destination, target, NatFlags::default());
            }
            Statement::SourceNat(target, flags) => translate(to, Translation::Source, target, *flags),
            other => linearize_reference(to, other),
        }
    }
}

/// What names other objects, and what needs no registers.
fn linearize_reference(to: &mut Vec<Expression>, statement: &Statement) {
    let from = Register::slot(0);
    let mut load = |key: &[Selector]| selector::load(key, 0, to);
    let last = match statement {
        Statement::Lookup { key, membership, set } => {
            load(key);
            Expression::Lookup { set: set.clone(), from, membership: *membership }
        }
        Statement::VerdictMap { key, map } => {
            load(key);
            Expression::Map { map: map.clone(), from, into: None }
        }
        Statement::MapPriority { key, map } => {
            load(key);
            to.push(Expression::Map { map: map.clone(), from, into: Some(from) });
            Expression::SetMeta { key: MetaKey::Priority, from }
        }
        Statement::ClearPriority => {
            to.push(immediate(&[0; 4], 0));
            Expression::SetMeta { key: MetaKey::Priority, from }
        }
        Statement::MappedCounter { key, map } => {
            load(key);
            Expression::MappedCounter { map: map.clone(), from }
        }
        Statement::ChangeSet { change, set, key, timeout, data } => {
            load(key);
            let data = data.as_ref().map(|data| load_data(to, key, data));
            Expression::ChangeSet { change: *change, set: set.clone(), key: from, data, timeout: *timeout }
        }
        Statement::Redirect(port) => {
            to.push(immediate(&port.to_be_bytes(), 0));
            Expression::Redirect { port: Some(from), flags: NatFlags::default() }
        }
        Statement::TransparentProxy(address) => {
            let (ip, port) = (Register::slot(0), Register::slot(4));
            to.push(immediate(&octets(address.ip()), 0));
            to.push(immediate(&address.port().to_be_bytes(), 4));
            let family = Family::of(address.ip());
            Expression::TransparentProxy { family, address: Some(ip), port: Some(port) }
        }
        Statement::Verdict(verdict) => Expression::Verdict(verdict.clone()),
        Statement::Masquerade(flags) => Expression::Masquerade(*flags),
        Statement::Reject(reject) => Expression::Reject(rejection(*reject)),
        Statement::NamedCounter(name) => Expression::NamedCounter(name.clone()),
        _ => Expression::Counter,
    };
    to.push(last);
}

/// RFC 792, RFC 1812 and RFC 4443; `NFT_REJECT_ICMPX_*`.
fn rejection(reject: Reject) -> Rejection {
    match reject {
        Reject::TcpReset => Rejection::TcpReset,
        Reject::PortUnreachable(Family::V4) => Rejection::Icmp(3),
        Reject::PortUnreachable(Family::V6) => Rejection::Icmp(4),
        Reject::AdminProhibited(Family::V4) => Rejection::Icmp(13),
        Reject::AdminProhibited(Family::V6) => Rejection::Icmp(1),
        Reject::AnyAdminProhibited => Rejection::Icmpx(3),
    }
}

fn immediate(bytes: &[u8], slot: usize) -> Expression {
    Expression::Immediate { data: bytes.into(), into: Register::slot(slot) }
}

fn compare(to: &mut Vec<Expression>, selector: &Selector, comparison: Comparison, bytes: &[u8]) {
    selector::load(std::slice::from_ref(selector), 0, to);
    to.push(Expression::Compare { from: Register::slot(0), comparison, data: bytes.into() });
}

fn bitwise(to: &mut Vec<Expression>, mask: &[u8], xor: &[u8]) {
    let register = Register::slot(0);
    to.push(Expression::Bitwise { from: register, into: register, mask: mask.into(), xor: xor.into() });
}

fn bits(to: &mut Vec<Expression>, selector: &Selector, mask: u32, comparison: Comparison, value: u32) {
    selector::load(std::slice::from_ref(selector), 0, to);
    bitwise(to, &mask.to_ne_bytes(), &[0; 4]);
    let data = value.to_ne_bytes().into();
    to.push(Expression::Compare { from: Register::slot(0), comparison, data });
}

/// Prefixes of whole bytes are compared without a mask: fewer bytes of the packet are loaded.
fn within(to: &mut Vec<Expression>, selector: &Selector, comparison: Comparison, network: &IpNet) {
    let (address, mask) = (octets(network.network()), octets(network.netmask()));
    let prefix = usize::from(network.prefix_len());
    selector::load(std::slice::from_ref(selector), 0, to);
    if let Some(Expression::Payload { length, .. }) = to.last_mut()
        && prefix != 0
        && prefix.is_multiple_of(8)
    {
        *length = prefix as u32 / 8;
        let data = address[..prefix / 8].into();
        to.push(Expression::Compare { from: Register::slot(0), comparison, data });
        return;
    }
    bitwise(to, &mask, &vec![0; mask.len()]);
    to.push(Expression::Compare { from: Register::slot(0), comparison, data: address.into() });
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn load_mark(of: Mark) -> Expression {
    let into = Register::slot(0);
    match of {
        Mark::Packet => Expression::Meta { key: MetaKey::Mark, into },
        Mark::Connection => Expression::Ct { key: CtKey::Mark, direction: None, into },
    }
}

fn set_mark(of: Mark) -> Expression {
    let from = Register::slot(0);
    match of {
        Mark::Packet => Expression::SetMeta { key: MetaKey::Mark, from },
        Mark::Connection => Expression::SetCt { key: CtKey::Mark, from },
    }
}

fn change_mark(to: &mut Vec<Expression>, of: Mark, keep: u32, flip: u32) {
    to.push(load_mark(of));
    bitwise(to, &keep.to_ne_bytes(), &flip.to_ne_bytes());
    to.push(set_mark(of));
}

fn copy_mark(to: &mut Vec<Expression>, target: Mark) {
    to.push(load_mark(match target {
        Mark::Packet => Mark::Connection,
        Mark::Connection => Mark::Packet,
    }));
    to.push(set_mark(target));
}

fn translate(to: &mut Vec<Expression>, translation: Translation, target: &NatTarget, flags: NatFlags) {
    let address = Register::slot(0);
    let (family, port) = match target {
        NatTarget::Address(ip, port) => {
            to.push(immediate(&octets(*ip), 0));
            // nft takes the next register of 16 bytes.
            to.extend(port.map(|port| immediate(&port.to_be_bytes(), 4)));
            (Family::of(*ip), port.map(|_| Register::slot(4)))
        }
        NatTarget::Map { family, key, map, data } => {
            selector::load(key, 0, to);
            to.push(Expression::Map { map: map.clone(), from: address, into: Some(address) });
            let after_address = usize::from(family.bits()) / 32;
            let has_port = *data == MappedNat::AddressAndPort;
            (*family, has_port.then(|| Register::slot(after_address)))
        }
    };
    to.push(Expression::Nat { translation, family, address, port, flags });
}

/// Data after the key: in the next register of 16 bytes as nft does, right behind the key where that is too far.
fn load_data(to: &mut Vec<Expression>, key: &[Selector], data: &ElementData) -> Register {
    let key_slots = type_of(key).length().div_ceil(4);
    let data_slots = match data {
        ElementData::Value(value) => value.as_bytes().len().div_ceil(4),
        ElementData::Selectors(selectors) => type_of(selectors).length().div_ceil(4),
    };
    let aligned = key_slots.next_multiple_of(4);
    let first = if aligned + data_slots <= SLOTS { aligned } else { key_slots };
    match data {
        ElementData::Value(value) => load_value(to, value, first),
        ElementData::Selectors(selectors) => {
            selector::load(selectors, first, to);
        }
    }
    Register::slot(first)
}

/// A concatenation is put together field by field.
fn load_value(to: &mut Vec<Expression>, value: &Value, first: usize) {
    let mut rest = value.as_bytes();
    let mut slot = first;
    for field in value.kind().fields() {
        let length = field.length();
        let (bytes, _) = rest.split_at(length.min(rest.len()));
        to.push(immediate(bytes, slot));
        let padded = length.next_multiple_of(4);
        rest = rest.get(padded..).unwrap_or_default();
        slot += padded / 4;
    }
}
