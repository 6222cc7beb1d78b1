//! Counters with names: `nft add counter`, `nft delete counter`, `nft list counters`.

use super::element::Count;
use super::message::{self, Kind, NESTED, NEW};
use super::table::{Name, Table};
use super::userdata::{self, Comment};
use super::wire::Fields;
use crate::kernel::netlink::Request;

const TABLE: u16 = 1;
pub(super) const NAME: u16 = 2;
const TYPE: u16 = 3;
const DATA: u16 = 4;
const USERDATA: u16 = 8;
/// `NFT_OBJECT_COUNTER`
const COUNTER: u32 = 1;
/// `NFTA_COUNTER_BYTES`, `NFTA_COUNTER_PACKETS`
const COUNTS: [u16; 2] = [1, 2];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub name: Name,
    pub comment: Option<Comment>,
    /// Read only: a new one begins with nothing.
    pub count: Count,
}

impl Counter {
    pub fn new(name: &str) -> Self {
        Counter { name: name.into(), comment: None, count: Count::default() }
    }

    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Counter { comment: Some(Comment::new(comment)), ..self }
    }
}

fn of_counter(kind: Kind, table: &Table, name: &str, flags: i32) -> Request {
    let mut request = message::request(kind, table.family, flags);
    request.text(TABLE, &table.name).text(NAME, name).attribute(TYPE, &COUNTER.to_be_bytes());
    request
}

/// `nft add counter FAMILY TABLE NAME`
pub(super) fn add(table: &Table, counter: &Counter) -> Request {
    let mut request = of_counter(Kind::NewObject, table, &counter.name, NEW);
    if let Some(comment) = &counter.comment {
        request.attribute(USERDATA, &userdata::with_comment(comment));
    }
    request.nested(DATA | NESTED, |counts| {
        for kind in COUNTS {
            counts.attribute(kind, &0u64.to_be_bytes());
        }
    });
    request
}

/// `nft delete counter FAMILY TABLE NAME`
pub(super) fn delete(table: &Table, name: &str) -> Request {
    of_counter(Kind::DeleteObject, table, name, 0)
}

/// `nft list counters table FAMILY TABLE`
pub(super) fn list(table: &Table) -> Request {
    let mut request = message::request(Kind::GetObject, table.family, 0);
    request.text(TABLE, &table.name).attribute(TYPE, &COUNTER.to_be_bytes());
    request
}

/// `None` for other objects.
pub(super) fn parse(payload: &[u8]) -> Option<(&str, Counter)> {
    let fields = Fields::after_header(payload);
    let counter = Counter {
        name: fields.text(NAME)?.into(),
        comment: fields.get(USERDATA).and_then(userdata::comment),
        count: Count::parse(&fields.nested(DATA)?)?,
    };
    (fields.u32(TYPE)? == COUNTER).then_some((fields.text(TABLE)?, counter))
}
