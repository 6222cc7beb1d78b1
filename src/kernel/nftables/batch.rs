//! Batches: the messages of a transaction between `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`, which the kernel carries
//! out together or not at all.

use std::ops::Range;

use super::generation::Generation;
use super::table::Table;
use super::transaction::{Operation, Transaction};
use super::{chain, counter, element, rule, set, table};
use crate::kernel::netlink::Request;

const BEGIN: u16 = libc::NLMSG_MIN_TYPE as u16;
const END: u16 = BEGIN + 1;
/// `NFNL_BATCH_GENID`
const GENERATION: u16 = 1;
/// What begins and ends a batch, in bytes.
const FRAME: usize = 64;

/// The messages of a transaction. Sequence numbers count them, from the first one's on.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    messages: Vec<Message>,
    first_sequence: u32,
    sets: u32,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    start: usize,
    /// Index in the transaction.
    operation: usize,
}

impl Batch {
    pub(super) fn new(transaction: &Transaction, first_sequence: u32) -> Self {
        let mut batch = Batch { bytes: Vec::new(), messages: Vec::new(), first_sequence, sets: 0 };
        for (index, operation) in transaction.operations.iter().enumerate() {
            batch.operation(&transaction.table, operation, index);
        }
        batch
    }

    fn operation(&mut self, table: &Table, operation: &Operation, index: usize) {
        let request = match operation {
            Operation::AddElements { set, elements } => {
                return elements.pieces().for_each(|piece| self.push(element::add(table, set, piece), index));
            }
            Operation::DeleteElements { set, elements } => {
                return elements
                    .pieces()
                    .for_each(|piece| self.push(element::delete(table, set, piece), index));
            }
            Operation::AddSet(declared) => {
                self.sets += 1;
                set::add(table, declared, self.sets)
            }
            single => encode(table, single),
        };
        self.push(request, index);
    }

    fn push(&mut self, request: Request, operation: usize) {
        let sequence = self.first_sequence.wrapping_add(self.messages.len() as u32);
        self.messages.push(Message { start: self.bytes.len(), operation });
        self.bytes.extend(request.into_bytes(sequence));
    }

    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// The messages in parts of at most `limit` bytes, all in one if they fit. A part has one message at least.
    pub(super) fn parts(&self, limit: usize) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut first = 0;
        for at in 1..self.messages.len() {
            if self.start(at + 1) - self.start(first) > limit.saturating_sub(FRAME) {
                parts.push(first..at);
                first = at;
            }
        }
        parts.push(first..self.messages.len());
        parts
    }

    pub(super) fn bytes(&self, part: &Range<usize>) -> &[u8] {
        &self.bytes[self.start(part.start)..self.start(part.end)]
    }

    fn start(&self, message: usize) -> usize {
        self.messages.get(message).map_or(self.bytes.len(), |message| message.start)
    }

    /// `None` for what is said about the whole batch.
    pub(super) fn message_with(&self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.first_sequence) as usize;
        (index < self.messages.len()).then_some(index)
    }

    pub(super) fn sequence_of(&self, message: usize) -> u32 {
        self.first_sequence.wrapping_add(message as u32)
    }

    pub(super) fn operation_of(&self, message: usize) -> usize {
        self.messages[message].operation
    }

    /// The entry of the list of elements in a message which an offset of an error points to.
    pub(super) fn entry_at(&self, message: usize, offset: usize) -> Option<&[u8]> {
        let bytes = self.bytes(&(message..message + 1));
        let list = find(bytes, HEADERS..bytes.len(), offset, Some(element::ELEMENTS))?;
        find(bytes, list, offset, None).map(|entry| &bytes[entry])
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;

/// The content of the attribute, of that kind if one is given, in which an offset lies.
fn find(bytes: &[u8], within: Range<usize>, offset: usize, kind: Option<u16>) -> Option<Range<usize>> {
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let mut at = within.start;
    while at + 4 <= within.end {
        let length = usize::from(half(at)?);
        let end = at + length;
        let is_kind =
            kind.is_none_or(|kind| half(at + 2).map(|k| k & libc::NLA_TYPE_MASK as u16) == Some(kind));
        if is_kind && (at..end).contains(&offset) {
            return (end <= within.end).then_some(at + 4..end);
        }
        at += length.max(4).next_multiple_of(4);
    }
    None
}

fn encode(table: &Table, operation: &Operation) -> Request {
    match operation {
        Operation::AddTable(ownership, comment) => table::add(table, *ownership, comment.as_ref()),
        Operation::DeleteTable => table::delete(table),
        Operation::AddChain(added) => chain::add(table, added),
        Operation::DeleteChain(name) => chain::delete(table, name),
        Operation::FlushChain(name) => rule::flush(table, name),
        Operation::AddRule { chain, rule, place } => rule::add(table, chain, rule, *place),
        Operation::DeleteRule { chain, handle } => rule::delete(table, chain, *handle),
        Operation::AddSet(declared) => set::add(table, declared, 1),
        Operation::DeleteSet(name) => set::delete(table, name),
        Operation::FlushSet(name) => element::flush(table, name),
        Operation::AddElements { set, .. } => element::add(table, set, &[]),
        Operation::DeleteElements { set, .. } => element::delete(table, set, &[]),
        Operation::AddCounter(added) => counter::add(table, added),
        Operation::DeleteCounter(name) => counter::delete(table, name),
    }
}

/// Asks the kernel to carry out what follows only if the generation is still this one, since Linux 4.15.
pub(super) fn begin(generation: Generation, sequence: u32) -> Vec<u8> {
    let mut request = frame(BEGIN);
    request.attribute(GENERATION, &generation.0.to_be_bytes());
    request.into_bytes(sequence)
}

pub(super) fn end(sequence: u32) -> Vec<u8> {
    frame(END).into_bytes(sequence)
}

/// `struct nfgenmsg`: the subsystem is the resource here.
fn frame(kind: u16) -> Request {
    Request::new(kind, 0, &[libc::AF_UNSPEC as u8, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8])
}
