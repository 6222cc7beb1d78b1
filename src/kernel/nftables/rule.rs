//! Rules: `nft add rule`, `nft delete rule`, `nft list chain`.

use std::fmt;

use super::expression::{self, Expression};
use super::message::{self, Kind, NEW};
use super::statement::Statement;
use super::table::{Name, Table};
use super::userdata::{self, Comment};
use super::wire;
use crate::kernel::netlink::Request;

const TABLE: u16 = 1;
pub(super) const CHAIN: u16 = 2;
const HANDLE: u16 = 3;
const EXPRESSIONS: u16 = 4;
const POSITION: u16 = 6;
const USERDATA: u16 = 7;

/// A rule as it is meant to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub statements: Vec<Statement>,
    pub comment: Option<Comment>,
}

impl Rule {
    pub fn new(statements: impl Into<Vec<Statement>>) -> Self {
        Rule { statements: statements.into(), comment: None }
    }

    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Rule { comment: Some(Comment::new(comment)), ..self }
    }

    /// What the kernel executes.
    pub fn expressions(&self) -> Vec<Expression> {
        let mut expressions = Vec::new();
        self.statements.iter().for_each(|statement| statement.linearize(&mut expressions));
        expressions
    }

    /// Whether the kernel has this rule.
    pub fn is(&self, installed: &InstalledRule) -> bool {
        self.comment == installed.comment && self.expressions() == installed.expressions
    }
}

/// In nft's syntax.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, statement) in self.statements.iter().enumerate() {
            write!(f, "{}{statement}", if at == 0 { "" } else { " " })?;
        }
        self.comment.as_ref().map_or(Ok(()), |comment| write!(f, " {comment}"))
    }
}

/// A rule's number, unique in its table and never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// A rule that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledRule {
    pub chain: Name,
    pub handle: Handle,
    pub expressions: Vec<Expression>,
    pub comment: Option<Comment>,
}

/// Where in its chain a rule is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `nft add rule`
    End,
    /// `nft insert rule`
    Start,
    /// `nft insert rule ... position HANDLE`
    Before(Handle),
    /// `nft add rule ... position HANDLE`
    After(Handle),
    /// `nft replace rule ... handle HANDLE`
    InsteadOf(Handle),
}

/// `nft add rule FAMILY TABLE CHAIN ...`
pub(super) fn add(table: &Table, chain: &str, rule: &Rule, place: Place) -> Request {
    let flags = match place {
        Place::End | Place::After(_) => NEW | libc::NLM_F_APPEND,
        Place::Start | Place::Before(_) => NEW,
        Place::InsteadOf(_) => libc::NLM_F_REPLACE,
    };
    let mut request = message::request(Kind::NewRule, table.family, flags);
    request.text(TABLE, &table.name).text(CHAIN, chain);
    match place {
        Place::End | Place::Start => {}
        Place::Before(Handle(handle)) | Place::After(Handle(handle)) => {
            request.attribute(POSITION, &handle.to_be_bytes());
        }
        Place::InsteadOf(Handle(handle)) => {
            request.attribute(HANDLE, &handle.to_be_bytes());
        }
    }
    expression::put_list(&mut request, EXPRESSIONS, &rule.expressions());
    if let Some(comment) = &rule.comment {
        request.attribute(USERDATA, &userdata::with_comment(comment));
    }
    request
}

/// `nft delete rule FAMILY TABLE CHAIN handle HANDLE`
pub(super) fn delete(table: &Table, chain: &str, Handle(handle): Handle) -> Request {
    let mut request = message::request(Kind::DeleteRule, table.family, 0);
    request.text(TABLE, &table.name).text(CHAIN, chain).attribute(HANDLE, &handle.to_be_bytes());
    request
}

/// `nft flush chain FAMILY TABLE CHAIN`
pub(super) fn flush(table: &Table, chain: &str) -> Request {
    let mut request = message::request(Kind::DeleteRule, table.family, 0);
    request.text(TABLE, &table.name).text(CHAIN, chain);
    request
}

/// `nft list table FAMILY TABLE`, or of one chain
pub(super) fn list(table: &Table, chain: Option<&str>) -> Request {
    let mut request = message::request(Kind::GetRule, table.family, 0);
    request.text(TABLE, &table.name);
    if let Some(chain) = chain {
        request.text(CHAIN, chain);
    }
    request
}

/// With the name of the table: kernels before 5.0 give out all.
pub(super) fn parse(payload: &[u8]) -> Option<(&str, InstalledRule)> {
    let fields = wire::Fields::after_header(payload);
    let rule = InstalledRule {
        chain: fields.text(CHAIN)?.into(),
        handle: Handle(fields.u64(HANDLE)?),
        expressions: expression::parse_list(fields.get(EXPRESSIONS).unwrap_or_default()),
        comment: fields.get(USERDATA).and_then(userdata::comment),
    };
    Some((fields.text(TABLE)?, rule))
}
