//! Statements: what rules are made of, in nft's words. `Display` is nft's syntax; [`expressions`](Statement::expressions)
//! in the sibling module says how the kernel executes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::expression::{CtDirection, Membership, NatFlags, SetChange};
use super::selector::{CT_STATES, CT_STATUSES, Concatenation, Selector, family_name};
use super::table::Name;
use super::value::Value;
use super::verdict::Verdict;
use crate::model::Family;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `ip daddr 10.96.0.10`, `meta l4proto tcp`
    Is(Selector, Value),
    IsNot(Selector, Value),
    /// `ip daddr 10.96.0.0/12`
    Within(Selector, IpNet),
    Outside(Selector, IpNet),
    /// Names of interfaces that begin so. `iifname "cni*"`
    BeginsWith(Selector, Box<str>),
    BeginsOtherThan(Selector, Box<str>),
    /// `meta mark & 0x4000 == 0x4000`
    Bits {
        selector: Selector,
        mask: u32,
        value: u32,
    },
    /// `meta mark & 0x4000 != 0x0`
    BitsOtherThan {
        selector: Selector,
        mask: u32,
        value: u32,
    },
    /// Any bit of a bit mask: `ct state established,related`, `ct status dnat`
    Any(Selector, u32),
    /// `ct direction reply`
    Direction(CtDirection),
    /// `meta nfproto ipv4`, in tables of the family `inet`
    Family(Family),
    /// `fib daddr type local`. The selector is an [`AddressType`](Selector::AddressType).
    IsLocal(Selector),
    IsNotLocal(Selector),
    /// The packet is for a transparent socket. `socket transparent 1`
    IsTransparent,
    /// `ip daddr . meta l4proto @services`
    Lookup {
        key: Vec<Selector>,
        membership: Membership,
        set: Name,
    },
    /// `ip daddr . meta l4proto . th dport vmap @services`
    VerdictMap {
        key: Vec<Selector>,
        map: Name,
    },
    /// `meta mark set meta mark | 0x4000`
    SetBits {
        of: Mark,
        bits: u32,
    },
    /// `meta mark set meta mark & 0xffffbfff`
    KeepBits {
        of: Mark,
        bits: u32,
    },
    /// `meta mark set meta mark ^ 0x4000`
    FlipBits {
        of: Mark,
        bits: u32,
    },
    /// `meta mark set 0x1`
    SetMark {
        of: Mark,
        to: u32,
    },
    /// `ct mark set meta mark`
    CopyMark {
        to: Mark,
    },
    /// `meta priority set ip daddr . meta l4proto . th dport map @services`: a place for a number between two lookups of a
    /// packet. Numbers in a map cost nothing when they change; a jump in a verdict map has the kernel walk all elements of
    /// all verdict maps that hooks lead to (`nft_table_validate`). Forwarding sets the priority anew, see `ip_forward`.
    MapPriority {
        key: Vec<Selector>,
        map: Name,
    },
    /// `meta priority set none`
    ClearPriority,
    Verdict(Verdict),
    /// `dnat to 10.244.1.5:8080`
    DestinationNat(NatTarget),
    /// `snat to 10.0.0.1 fully-random`
    SourceNat(NatTarget, NatFlags),
    /// `masquerade fully-random`
    Masquerade(NatFlags),
    /// `redirect to :8080`
    Redirect(u16),
    /// To who listens there. In a rule that matches one of TCP and UDP. `tproxy to 127.0.0.1:15001`
    TransparentProxy(SocketAddr),
    Reject(Reject),
    /// `counter`
    Counter,
    /// `counter name web`
    NamedCounter(Name),
    /// `counter name ip daddr map @counters`
    MappedCounter {
        key: Vec<Selector>,
        map: Name,
    },
    /// `update @affinity { ip saddr . ip daddr timeout 3h : 10.244.1.5 . 8080 }`
    ChangeSet {
        change: SetChange,
        set: Name,
        key: Vec<Selector>,
        timeout: Option<Duration>,
        data: Option<ElementData>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Of the packet.
    Packet,
    /// Of the connection.
    Connection,
}

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    TcpReset,
    /// As if nobody listened.
    PortUnreachable(Family),
    AdminProhibited(Family),
    /// Of the packet's family, in tables of the family `inet`.
    AnyAdminProhibited,
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatTarget {
    /// The kernel takes ports only of protocols that have them; nft wants to see such a match before.
    Address(IpAddr, Option<u16>),
    /// A map to addresses, or to addresses and ports. `dnat ip to ip daddr . th dport . numgen random mod 3 map @m`
    Map { family: Family, key: Vec<Selector>, map: Name, data: MappedNat },
}

/// What the data of a map for translations is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappedNat {
    Address,
    AddressAndPort,
}

/// Data of an element that a packet adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementData {
    Value(Value),
    Selectors(Vec<Selector>),
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Is(selector, value) => write!(f, "{selector} {value}"),
            Statement::IsNot(selector, value) => write!(f, "{selector} != {value}"),
            Statement::Within(selector, network) => write!(f, "{selector} {}", network.trunc()),
            Statement::Outside(selector, network) => write!(f, "{selector} != {}", network.trunc()),
            Statement::BeginsWith(selector, prefix) => write!(f, "{selector} \"{prefix}*\""),
            Statement::BeginsOtherThan(selector, prefix) => write!(f, "{selector} != \"{prefix}*\""),
            Statement::Bits { selector, mask, value } => {
                write!(f, "{selector} & {mask:#010x} == {value:#010x}")
            }
            Statement::BitsOtherThan { selector, mask, value } => {
                write!(f, "{selector} & {mask:#010x} != {value:#010x}")
            }
            Statement::Any(selector, bits) => {
                write!(f, "{selector} ")?;
                write_names(f, *bits, if *selector == Selector::CtState { &CT_STATES } else { &CT_STATUSES })
            }
            Statement::Direction(CtDirection::Original) => f.write_str("ct direction original"),
            Statement::Direction(CtDirection::Reply) => f.write_str("ct direction reply"),
            Statement::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Statement::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Statement::IsLocal(selector) => write!(f, "{selector} local"),
            Statement::IsTransparent => f.write_str("socket transparent 1"),
            Statement::IsNotLocal(selector) => write!(f, "{selector} != local"),
            Statement::Lookup { key, membership: Membership::In, set } => {
                write!(f, "{} @{set}", Concatenation(key))
            }
            Statement::Lookup { key, membership: Membership::NotIn, set } => {
                write!(f, "{} != @{set}", Concatenation(key))
            }
            Statement::VerdictMap { key, map } => write!(f, "{} vmap @{map}", Concatenation(key)),
            effect => write_effect(f, effect),
        }
    }
}

/// Statements that do something.
fn write_effect(f: &mut fmt::Formatter<'_>, statement: &Statement) -> fmt::Result {
    match statement {
        Statement::SetBits { of, bits } => write!(f, "{of} set {of} | {bits:#010x}"),
        Statement::KeepBits { of, bits } => write!(f, "{of} set {of} & {bits:#010x}"),
        Statement::FlipBits { of, bits } => write!(f, "{of} set {of} ^ {bits:#010x}"),
        Statement::SetMark { of, to } => write!(f, "{of} set {to:#010x}"),
        Statement::CopyMark { to: Mark::Connection } => f.write_str("ct mark set meta mark"),
        Statement::CopyMark { to: Mark::Packet } => f.write_str("meta mark set ct mark"),
        Statement::MapPriority { key, map } => {
            write!(f, "meta priority set {} map @{map}", Concatenation(key))
        }
        Statement::ClearPriority => f.write_str("meta priority set none"),
        Statement::Verdict(verdict) => write!(f, "{verdict}"),
        Statement::DestinationNat(target) => write!(f, "dnat {target}"),
        Statement::SourceNat(target, flags) => write!(f, "snat {target}{flags}"),
        Statement::Masquerade(flags) => write!(f, "masquerade{flags}"),
        Statement::TransparentProxy(to) => write!(f, "tproxy to {to}"),
        Statement::Redirect(port) => write!(f, "redirect to :{port}"),
        Statement::Reject(rejection) => write!(f, "{rejection}"),
        Statement::Counter => f.write_str("counter"),
        Statement::NamedCounter(name) => write!(f, "counter name {name}"),
        Statement::MappedCounter { key, map } => write!(f, "counter name {} map @{map}", Concatenation(key)),
        Statement::ChangeSet { change, set, key, timeout, data } => {
            write!(f, "{change} @{set} {{ {}", Concatenation(key))?;
            timeout.map_or(Ok(()), |timeout| write!(f, " timeout {}", Seconds(timeout)))?;
            data.as_ref().map_or(Ok(()), |data| write!(f, " : {data}"))?;
            f.write_str(" }")
        }
        _ => Ok(()),
    }
}

/// `established,related`
fn write_names(f: &mut fmt::Formatter<'_>, bits: u32, names: &[(u32, &str)]) -> fmt::Result {
    let mut separator = "";
    for (_, name) in names.iter().filter(|(bit, _)| bits & bit != 0) {
        write!(f, "{separator}{name}")?;
        separator = ",";
    }
    Ok(())
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::Packet => "meta mark",
            Mark::Connection => "ct mark",
        })
    }
}

impl fmt::Display for NatTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NatTarget::Address(address, None) => write!(f, "to {address}"),
            NatTarget::Address(IpAddr::V4(address), Some(port)) => write!(f, "to {address}:{port}"),
            NatTarget::Address(IpAddr::V6(address), Some(port)) => write!(f, "to [{address}]:{port}"),
            NatTarget::Map { family, key, map, .. } => {
                write!(f, "{} to {} map @{map}", family_name(*family), Concatenation(key))
            }
        }
    }
}

/// With a space before it, where there is any.
impl fmt::Display for NatFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " ";
        for (set, name) in
            [(self.random, "random"), (self.fully_random, "fully-random"), (self.persistent, "persistent")]
        {
            if set {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reject::TcpReset => "reject with tcp reset",
            // What nft takes where nothing is said.
            Reject::PortUnreachable(_) => "reject",
            Reject::AdminProhibited(Family::V4) => "reject with icmp type admin-prohibited",
            Reject::AdminProhibited(Family::V6) => "reject with icmpv6 type admin-prohibited",
            Reject::AnyAdminProhibited => "reject with icmpx type admin-prohibited",
        })
    }
}

impl fmt::Display for SetChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetChange::Add => "add",
            SetChange::Update => "update",
            SetChange::Delete => "delete",
        })
    }
}

impl fmt::Display for ElementData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElementData::Value(value) => write!(f, "{value}"),
            ElementData::Selectors(selectors) => write!(f, "{}", Concatenation(selectors)),
        }
    }
}

/// As nft writes durations: `3h`, `1m30s`, `500ms`.
pub(super) struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, milliseconds) = (self.0.as_secs(), self.0.subsec_millis());
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(milliseconds), "ms"),
        ];
        parts.iter().filter(|(count, _)| *count != 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}
