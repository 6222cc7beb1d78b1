//! The generation of a network namespace's ruleset: one more for each transaction, whoever made it. `NFT_MSG_GETGEN`

use std::fmt;

use super::message::{self, Kind};
use super::wire::Fields;
use crate::kernel::netlink::Request;

const ID: u16 = 1;
const PROCESS: u16 = 2;
const PROCESS_NAME: u16 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u32);

impl Generation {
    /// How many transactions lie between.
    pub fn since(self, earlier: Generation) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The kernel leaves out 0.
    pub(super) fn next(self) -> Self {
        Generation(self.0.wrapping_add(1).max(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who made a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub id: u32,
    pub name: Box<str>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.id)
    }
}

pub(super) fn get() -> Request {
    message::unspecified(Kind::GetGeneration)
}

pub(super) fn parse(payload: &[u8]) -> Option<Generation> {
    Fields::after_header(payload).u32(ID).map(Generation)
}

pub(super) fn parse_process(payload: &[u8]) -> Option<Process> {
    let fields = Fields::after_header(payload);
    Some(Process { id: fields.u32(PROCESS)?, name: fields.text(PROCESS_NAME)?.into() })
}
