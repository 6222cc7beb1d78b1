//! What the kernel says of sets, in words.

use super::SetType;
use crate::kernel::netlink::NetlinkError;

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("cannot reach the kernel's sets")]
    Open(#[source] NetlinkError),
    #[error("cannot list sets")]
    Headers(#[source] NetlinkError),
    #[error("cannot list the members of set {set}")]
    Members { set: Box<str>, source: NetlinkError },
    /// One of the commands that `ipset` has.
    #[error("cannot {command}")]
    Command { command: Box<str>, source: Refusal },
    #[error("{} changes of sets were refused, the first: {}", .failures.len(), first(.failures))]
    Refused { failures: Vec<RefusedChange> },
}

fn first(failures: &[RefusedChange]) -> String {
    failures.first().map(|failure| format!("{failure}: {}", failure.reason)).unwrap_or_default()
}

/// A change that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{change}")]
pub struct RefusedChange {
    /// Among the changes of the call.
    pub index: usize,
    /// The change as text.
    pub change: String,
    #[source]
    pub reason: Refusal,
}

/// Why a set or an element is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the set is full")]
    Full,
    #[error("in use by a rule")]
    InUse,
    #[error("there is no such set")]
    NoSuchSet,
    #[error("there is a set of this name that was created in another way")]
    Different,
    #[error("sets of different types or families cannot be swapped")]
    Incompatible,
    #[error("the kernel has no sets of type {0}")]
    UnknownType(SetType),
    #[error("the kernel's sets of type {0} have no marks")]
    NoMarks(SetType),
    #[error("a set cannot hold a prefix length of 0, give both halves instead")]
    TooWide,
    #[error("the set has other elements: of another type, of the other address family, or without marks")]
    OtherElements,
    #[error("a name must have 1 to 31 bytes")]
    Name,
    #[error("the namespace has as many sets as the kernel allows")]
    TooManySets,
    #[error(transparent)]
    Netlink(NetlinkError),
}

/// `enum ipset_errno`, and `IPSET_ERR_HASH_FULL` of `ip_set_hash.h`.
const PROTOCOL: i32 = 4097;
const MAX_SETS: i32 = 4099;
const BUSY: i32 = 4100;
const EXIST_SETNAME2: i32 = 4101;
const TYPE_MISMATCH: i32 = 4102;
const FAMILY: i32 = 4106;
const REFERENCED: i32 = 4108;
const IPADDR_IPV4: i32 = 4109;
const IPADDR_IPV6: i32 = 4110;
const SKBINFO: i32 = 4114;
const HASH_FULL: i32 = 4352;
/// `IPSET_ERR_FIND_TYPE`
pub(super) const FIND_TYPE: i32 = 4098;

impl From<NetlinkError> for Refusal {
    fn from(error: NetlinkError) -> Self {
        match error.refusal() {
            Some(HASH_FULL) => Refusal::Full,
            Some(BUSY | REFERENCED | libc::EBUSY) => Refusal::InUse,
            Some(EXIST_SETNAME2 | libc::ENOENT) => Refusal::NoSuchSet,
            Some(libc::EEXIST) => Refusal::Different,
            Some(TYPE_MISMATCH) => Refusal::Incompatible,
            Some(PROTOCOL | FAMILY | IPADDR_IPV4 | IPADDR_IPV6 | SKBINFO) => Refusal::OtherElements,
            Some(MAX_SETS) => Refusal::TooManySets,
            _ => Refusal::Netlink(error),
        }
    }
}
