//! The chains of the skeleton, and where packets enter them.

use crate::kernel::nftables::Chain;
use crate::kernel::nftables::chain::{ChainKind, Hook};

/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`, `NF_IP_PRI_FILTER`.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const FILTER: i32 = 0;
/// Last of all: what others drop is not counted.
const COUNTED: i32 = SRCNAT + 1;
/// Before anything is translated, when frontends still are what they were sent to.
const ADMISSION: i32 = DSTNAT - 10;

pub const NODE_PORTS: &str = "to-node-ports";
pub const OWN_NODE_PORTS: &str = "own-to-node-ports";
pub const NODE_ADMISSION: &str = "node-admission";
pub const OWN_NODE_ADMISSION: &str = "own-node-admission";
pub const REFUSE: &str = "refuse";
pub const NODE_REFUSE: &str = "node-refuse";
pub const REJECTION: &str = "rejection";
pub const REMEMBER: &str = "remember";
pub const COUNT: &str = "count-packets";
pub const COUNT_REQUESTS: &str = "count-requests";
pub const COUNT_REPLIES: &str = "count-replies";

/// All of them, those that others lead to first.
pub const CHAINS: [&str; 16] = [
    REMEMBER,
    REJECTION,
    NODE_REFUSE,
    REFUSE,
    NODE_ADMISSION,
    OWN_NODE_ADMISSION,
    NODE_PORTS,
    OWN_NODE_PORTS,
    "admission-prerouting",
    "admission-output",
    "prerouting",
    "output",
    "postrouting",
    "filter-input",
    "filter-forward",
    "filter-output",
];

/// Those that are there only for `--service-counters`, in the same order.
pub const COUNTING_CHAINS: [&str; 5] =
    [COUNT_REQUESTS, COUNT_REPLIES, COUNT, "count-input", "count-postrouting"];

pub fn chain(name: &str) -> Chain {
    let (kind, hook, priority) = match name {
        "admission-prerouting" => (ChainKind::Filter, Hook::Prerouting, ADMISSION),
        "admission-output" => (ChainKind::Filter, Hook::Output, ADMISSION),
        "prerouting" => (ChainKind::Nat, Hook::Prerouting, DSTNAT),
        "output" => (ChainKind::Nat, Hook::Output, DSTNAT),
        "postrouting" => (ChainKind::Nat, Hook::Postrouting, SRCNAT),
        "filter-input" => (ChainKind::Filter, Hook::Input, FILTER),
        "filter-forward" => (ChainKind::Filter, Hook::Forward, FILTER),
        "filter-output" => (ChainKind::Filter, Hook::Output, FILTER),
        "count-input" => (ChainKind::Filter, Hook::Input, COUNTED),
        "count-postrouting" => (ChainKind::Filter, Hook::Postrouting, COUNTED),
        regular => return Chain::regular(regular),
    };
    Chain::base(name, kind, hook, priority)
}
