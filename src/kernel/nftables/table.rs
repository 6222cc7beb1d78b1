//! Tables: `nft add table`, `nft delete table`, `nft list tables`.

use std::fmt;
use std::sync::Arc;

use super::message::{self, Kind};
use super::userdata::{self, Comment};
use super::wire;
use crate::kernel::netlink::Request;
use crate::model::Family;

/// A name of a table, chain, set, map or counter: 255 bytes at most (`NFT_NAME_MAXLEN`).
pub type Name = Arc<str>;

const NAME: u16 = 1;
const FLAGS: u16 = 2;
const USERDATA: u16 = 6;
/// `NFT_TABLE_F_DORMANT`
const FLAG_DORMANT: u32 = 1;
/// `NFT_TABLE_F_OWNER`, since Linux 5.12.
const FLAG_OWNER: u32 = 2;

/// nft's address families, as far as Services need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    Ip,
    Ip6,
    /// Sees the packets of both.
    Inet,
}

impl TableFamily {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            TableFamily::Ip => 2,
            TableFamily::Ip6 => 10,
            TableFamily::Inet => 1,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [TableFamily::Ip, TableFamily::Ip6, TableFamily::Inet]
            .into_iter()
            .find(|family| family.number() == number)
    }
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => TableFamily::Ip,
            Family::V6 => TableFamily::Ip6,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Inet => "inet",
        })
    }
}

/// Which table. `ip ferrovia`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    pub family: TableFamily,
    pub name: Name,
}

impl Table {
    pub fn new(family: impl Into<TableFamily>, name: &str) -> Self {
        Table { family: family.into(), name: name.into() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Who may change a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    #[default]
    Everybody,
    /// The socket that makes the table, and with that socket the table goes.
    Socket,
}

/// Whether packets meet a table's chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Active,
    /// None of its base chains sees any. Adding the table again ends that.
    Dormant,
}

/// A table that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledTable {
    pub table: Table,
    pub ownership: Ownership,
    pub activity: Activity,
    pub comment: Option<Comment>,
}

/// `nft add table FAMILY NAME { comment "..." }`. Ends dormancy, where nft's command leaves it.
pub(super) fn add(table: &Table, ownership: Ownership, comment: Option<&Comment>) -> Request {
    let flags = match ownership {
        Ownership::Everybody => 0,
        Ownership::Socket => FLAG_OWNER,
    };
    let mut request = message::request(Kind::NewTable, table.family, 0);
    request.text(NAME, &table.name).attribute(FLAGS, &flags.to_be_bytes());
    if let Some(comment) = comment {
        request.attribute(USERDATA, &userdata::with_comment(comment));
    }
    request
}

/// `nft delete table FAMILY NAME`
pub(super) fn delete(table: &Table) -> Request {
    let mut request = message::request(Kind::DeleteTable, table.family, 0);
    request.text(NAME, &table.name);
    request
}

/// `nft list tables`
pub(super) fn list(family: TableFamily) -> Request {
    message::request(Kind::GetTable, family, 0)
}

pub(super) fn parse(payload: &[u8]) -> Option<InstalledTable> {
    let attributes = wire::Fields::after_header(payload);
    let flags = attributes.u32(FLAGS).unwrap_or_default();
    let ownership = if flags & FLAG_OWNER == 0 { Ownership::Everybody } else { Ownership::Socket };
    let activity = if flags & FLAG_DORMANT == 0 { Activity::Active } else { Activity::Dormant };
    Some(InstalledTable {
        table: Table { family: message::family(payload)?, name: attributes.text(NAME)?.into() },
        ownership,
        activity,
        comment: attributes.get(USERDATA).and_then(userdata::comment),
    })
}
