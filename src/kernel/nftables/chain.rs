//! Chains: `nft add chain`, `nft delete chain`, `nft list chains`.

use std::fmt;

use super::message::{self, Kind, NESTED, NEW};
use super::table::{Name, Table};
use super::userdata::{self, Comment};
use super::wire::Fields;
use crate::kernel::netlink::Request;

const TABLE: u16 = 1;
pub(super) const NAME: u16 = 3;
const HOOK: u16 = 4;
const POLICY: u16 = 5;
const TYPE: u16 = 7;
const USERDATA: u16 = 12;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: Name,
    /// Where packets enter by themselves. Others are entered by jumps.
    pub base: Option<BaseChain>,
    pub comment: Option<Comment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub kind: ChainKind,
    pub hook: Hook,
    /// Chains at the same hook run from low to high.
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    /// Sees the first packet of a connection only.
    Nat,
    /// Routes packets again that it changes. At the output hook only.
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

const KINDS: [(ChainKind, &str); 3] =
    [(ChainKind::Filter, "filter"), (ChainKind::Nat, "nat"), (ChainKind::Route, "route")];
/// In the order of `NF_INET_*`.
const HOOKS: [(Hook, &str); 5] = [
    (Hook::Prerouting, "prerouting"),
    (Hook::Input, "input"),
    (Hook::Forward, "forward"),
    (Hook::Output, "output"),
    (Hook::Postrouting, "postrouting"),
];

impl ChainKind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map(|(_, name)| *name).unwrap_or_default()
    }
}

impl Hook {
    fn name(self) -> &'static str {
        HOOKS[self as usize].1
    }
}

impl Chain {
    pub fn regular(name: &str) -> Self {
        Chain { name: name.into(), base: None, comment: None }
    }

    /// With the policy `accept`.
    pub fn base(name: &str, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        let base = BaseChain { kind, hook, priority, policy: Policy::Accept };
        Chain { base: Some(base), ..Chain::regular(name) }
    }

    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Chain { comment: Some(Comment::new(comment)), ..self }
    }
}

/// What follows `add chain ip ferrovia`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.base.is_none() && self.comment.is_none() {
            return Ok(());
        }
        f.write_str(" {")?;
        if let Some(BaseChain { kind, hook, priority, policy }) = self.base {
            let policy = if policy == Policy::Accept { "accept" } else { "drop" };
            let (kind, hook) = (kind.name(), hook.name());
            write!(f, " type {kind} hook {hook} priority {priority} ; policy {policy} ;")?;
        }
        self.comment.as_ref().map_or(Ok(()), |comment| write!(f, " {comment} ;"))?;
        f.write_str(" }")
    }
}

/// `nft add chain FAMILY TABLE CHAIN { ... }`
pub(super) fn add(table: &Table, chain: &Chain) -> Request {
    let mut request = message::request(Kind::NewChain, table.family, NEW);
    request.text(TABLE, &table.name).text(NAME, &chain.name);
    if let Some(comment) = &chain.comment {
        request.attribute(USERDATA, &userdata::with_comment(comment));
    }
    if let Some(BaseChain { kind, hook, priority, policy }) = chain.base {
        let policy = u32::from(policy == Policy::Accept);
        request.text(TYPE, kind.name()).attribute(POLICY, &policy.to_be_bytes());
        request.nested(HOOK | NESTED, |request| {
            request
                .attribute(HOOK_NUMBER, &(hook as u32).to_be_bytes())
                .attribute(HOOK_PRIORITY, &priority.to_be_bytes());
        });
    }
    request
}

/// `nft delete chain FAMILY TABLE CHAIN`
pub(super) fn delete(table: &Table, name: &str) -> Request {
    let mut request = message::request(Kind::DeleteChain, table.family, 0);
    request.text(TABLE, &table.name).text(NAME, name);
    request
}

/// `nft list chains FAMILY`
pub(super) fn list(table: &Table) -> Request {
    message::request(Kind::GetChain, table.family, 0)
}

/// With the name of the table: the kernel gives out the chains of all.
pub(super) fn parse(payload: &[u8]) -> Option<(&str, Chain)> {
    let fields = Fields::after_header(payload);
    let chain = Chain {
        name: fields.text(NAME)?.into(),
        base: fields.nested(HOOK).and_then(|hook| parse_base(&fields, &hook)),
        comment: fields.get(USERDATA).and_then(userdata::comment),
    };
    Some((fields.text(TABLE)?, chain))
}

fn parse_base(fields: &Fields<'_>, hook: &Fields<'_>) -> Option<BaseChain> {
    let kind = fields.text(TYPE)?;
    Some(BaseChain {
        kind: KINDS.iter().find(|(_, name)| *name == kind)?.0,
        hook: HOOKS.get(hook.u32(HOOK_NUMBER)? as usize)?.0,
        priority: hook.u32(HOOK_PRIORITY)? as i32,
        policy: if fields.u32(POLICY)? == 0 { Policy::Drop } else { Policy::Accept },
    })
}
