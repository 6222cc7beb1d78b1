//! Expressions: the instructions of the kernel's virtual machine, of which rules consist.
//!
//! `nft --debug=netlink list ruleset` prints them, and so does `Display` here. People write and read statements instead.

mod read;
mod write;

pub(super) use read::parse_list;
pub(super) use write::{put, put_list};

use std::fmt;
use std::time::Duration;

use super::table::Name;
use super::value::write_hexadecimal;
use super::verdict::Verdict;
use crate::model::Family;

/// Where a value is between expressions, as a number of nf_tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub(super) u32);

impl Register {
    /// Sixteen of 4 bytes each. Every fourth has the name of the 16 byte register that begins there, as nft and the kernel
    /// write it: `NFT_REG_1` and so on, else `NFT_REG32_00` and so on.
    pub(super) fn slot(slot: usize) -> Self {
        let slot = slot as u32;
        Register(if slot.is_multiple_of(4) { 1 + slot / 4 } else { 8 + slot })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Network,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    Protocol,
    Priority,
    Mark,
    InputInterface,
    OutputInterface,
    NetfilterProtocol,
    Layer4Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    State,
    Direction,
    Status,
    Mark,
    DestinationPort,
    DestinationIpv4,
    DestinationIpv6,
}

/// Which tuple of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtDirection {
    Original,
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// One after the other.
    Incremental,
    Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    Source,
    Destination,
}

/// Which of several possible ports and addresses a translation takes (`NF_NAT_RANGE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatFlags {
    pub random: bool,
    /// A random port for each connection, without looking for a free one in order. Since Linux 3.13.
    pub fully_random: bool,
    /// The same address for a client each time.
    pub persistent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    TcpReset,
    /// An ICMP unreachable message of the table's family, with this code.
    Icmp(u8),
    /// `NFT_REJECT_ICMPX_*`, of the packet's family.
    Icmpx(u8),
}

/// What is looked up in the routing table, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibLookup {
    pub end: PacketEnd,
    pub scope: FibScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketEnd {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibScope {
    Anywhere,
    /// Addresses of the interface through which the packet came. Not in the output hook.
    InputInterface,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetChange {
    Add,
    /// Adds, or starts the timeout again.
    Update,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Payload {
        header: Header,
        offset: u32,
        length: u32,
        into: Register,
    },
    Meta {
        key: MetaKey,
        into: Register,
    },
    SetMeta {
        key: MetaKey,
        from: Register,
    },
    Ct {
        key: CtKey,
        direction: Option<CtDirection>,
        into: Register,
    },
    SetCt {
        key: CtKey,
        from: Register,
    },
    Fib {
        lookup: FibLookup,
        into: Register,
    },
    /// Whether the packet is for a transparent socket of this node, as 1 byte. Since Linux 4.18.
    SocketTransparent {
        into: Register,
    },
    Compare {
        from: Register,
        comparison: Comparison,
        data: Box<[u8]>,
    },
    /// `into = (from & mask) ^ xor`
    Bitwise {
        from: Register,
        into: Register,
        mask: Box<[u8]>,
        xor: Box<[u8]>,
    },
    Immediate {
        data: Box<[u8]>,
        into: Register,
    },
    Verdict(Verdict),
    Lookup {
        set: Name,
        from: Register,
        membership: Membership,
    },
    /// Data of a map into a register, or the verdict of a verdict map.
    Map {
        map: Name,
        from: Register,
        into: Option<Register>,
    },
    Number {
        numbering: Numbering,
        modulus: u32,
        offset: u32,
        into: Register,
    },
    Hash {
        from: Register,
        length: u32,
        modulus: u32,
        seed: Option<u32>,
        offset: u32,
        into: Register,
    },
    Nat {
        translation: Translation,
        family: Family,
        address: Register,
        port: Option<Register>,
        flags: NatFlags,
    },
    Masquerade(NatFlags),
    Redirect {
        port: Option<Register>,
        flags: NatFlags,
    },
    /// Gives the packet to a transparent socket of this node that listens there. Since Linux 4.19.
    TransparentProxy {
        family: Family,
        address: Option<Register>,
        port: Option<Register>,
    },
    Reject(Rejection),
    /// Counts packets and bytes. What it has counted is not read.
    Counter,
    /// A counter with a name.
    NamedCounter(Name),
    /// The counter to which a map leads.
    MappedCounter {
        map: Name,
        from: Register,
    },
    ChangeSet {
        change: SetChange,
        set: Name,
        key: Register,
        data: Option<Register>,
        timeout: Option<Duration>,
    },
    /// What this version does not know, as the kernel gave it.
    Unknown {
        name: Name,
        bytes: Box<[u8]>,
    },
}

/// Like `nft --debug=netlink`, for rules that nobody here wrote.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Unknown { name, bytes } => {
                write!(f, "[ {name} ")?;
                write_hexadecimal(f, bytes)?;
                f.write_str(" ]")
            }
            Expression::Verdict(verdict) => write!(f, "[ {verdict} ]"),
            known => write!(f, "[ {known:?} ]"),
        }
    }
}
