//! What messages of nf_tables have in common: `struct nlmsghdr`, `struct nfgenmsg`, then attributes.

use super::table::TableFamily;
use crate::kernel::netlink::Request;

/// `struct nfgenmsg`: family, version, resource.
pub(super) const FIXED: usize = 4;
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
pub(super) const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// Creating without `NLM_F_EXCL` is no error where there is one already.
pub(super) const NEW: i32 = libc::NLM_F_CREATE;

/// `enum nf_tables_msg_types`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    DeleteChain = 5,
    NewRule = 6,
    GetRule = 7,
    DeleteRule = 8,
    NewSet = 9,
    GetSet = 10,
    DeleteSet = 11,
    NewElements = 12,
    GetElements = 13,
    DeleteElements = 14,
    NewGeneration = 15,
    GetGeneration = 16,
    NewObject = 18,
    GetObject = 19,
    DeleteObject = 20,
}

impl Kind {
    const ALL: [Kind; 20] = [
        Kind::NewTable,
        Kind::GetTable,
        Kind::DeleteTable,
        Kind::NewChain,
        Kind::GetChain,
        Kind::DeleteChain,
        Kind::NewRule,
        Kind::GetRule,
        Kind::DeleteRule,
        Kind::NewSet,
        Kind::GetSet,
        Kind::DeleteSet,
        Kind::NewElements,
        Kind::GetElements,
        Kind::DeleteElements,
        Kind::NewGeneration,
        Kind::GetGeneration,
        Kind::NewObject,
        Kind::GetObject,
        Kind::DeleteObject,
    ];

    /// As in the header of a message. `None` for other subsystems and what is newer than this.
    pub(super) fn from_header(kind: u16) -> Option<Self> {
        Kind::ALL.into_iter().find(|known| SUBSYSTEM | *known as u16 == kind)
    }
}

pub(super) fn request(kind: Kind, family: TableFamily, flags: i32) -> Request {
    Request::new(SUBSYSTEM | kind as u16, flags, &[family.number(), 0, 0, 0])
}

/// Of any family.
pub(super) fn unspecified(kind: Kind) -> Request {
    Request::new(SUBSYSTEM | kind as u16, 0, &[libc::AF_UNSPEC as u8, 0, 0, 0])
}

/// The family in a payload.
pub(super) fn family(payload: &[u8]) -> Option<TableFamily> {
    TableFamily::from_number(*payload.first()?)
}
