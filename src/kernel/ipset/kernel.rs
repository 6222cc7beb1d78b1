//! The kernel's own sets.

use std::mem::discriminant;

use netlink_sys::constants::NETLINK_NETFILTER;

use super::error::FIND_TYPE;
use super::{
    Change, Definition, Header, Marks, Member, Refusal, RefusedChange, SetError, SetType, Sets, codec, parse,
};
use crate::kernel::netlink::{Connection, Request};

/// Of one message, whose length is 16 bits wide. An element takes up to 100 bytes, so that it stays below 32 KiB.
const MOST_ELEMENTS: usize = 320;
/// `IPSET_MAXNAMELEN`, without the closing zero.
const LONGEST_NAME: usize = 31;

pub struct KernelSets {
    connection: Connection,
}

impl KernelSets {
    /// The sets of the network namespace of the calling thread.
    pub fn open() -> Result<Self, SetError> {
        let connection = Connection::open(NETLINK_NETFILTER).map_err(SetError::Open)?;
        Ok(KernelSets { connection })
    }

    /// The kernel would take a command without a name for one that means all sets.
    fn command(&mut self, command: String, names: &[&str], request: Request) -> Result<(), SetError> {
        let valid = names.iter().all(|name| (1..=LONGEST_NAME).contains(&name.len()));
        let result =
            if valid { self.connection.execute(request).map_err(Refusal::from) } else { Err(Refusal::Name) };
        result.map_err(|source| SetError::Command { command: command.into(), source })
    }

    fn revision(&mut self, definition: &Definition) -> Result<u8, Refusal> {
        let kind = definition.kind;
        let mut known = None;
        self.connection
            .query(codec::revisions(kind, definition.family), &mut |payload| {
                known = parse::revisions(payload)
            })
            .map_err(|error| match error.refusal() {
                Some(FIND_TYPE) => Refusal::UnknownType(kind),
                _ => Refusal::Netlink(error),
            })?;
        let known = known.ok_or(Refusal::UnknownType(kind))?;
        if definition.marks == Marks::With && *known.end() < kind.revision() {
            return Err(Refusal::NoMarks(kind));
        }
        Ok(kind.revision().min(*known.end()).max(*known.start()))
    }

    /// Makes changes with the same verb to the same set, the first of which is number `start`.
    ///
    /// One that is refused ends the message that it is in. The changes of that message are then made one by one: those
    /// before it bear being made twice.
    fn change_alike(
        &mut self,
        start: usize,
        changes: &[Change],
        failures: &mut Vec<RefusedChange>,
    ) -> Result<(), SetError> {
        let refusal = match self.send(changes) {
            Ok(()) => return Ok(()),
            Err(Refusal::Netlink(error)) if error.refusal().is_none() => {
                let command = "change the members of sets".into();
                return Err(SetError::Command { command, source: Refusal::Netlink(error) });
            }
            Err(refusal) => refusal,
        };
        if let [change] = changes {
            failures.push(RefusedChange { index: start, change: change.to_string(), reason: refusal });
            return Ok(());
        }
        changes
            .chunks(1)
            .enumerate()
            .try_for_each(|(offset, change)| self.change_alike(start + offset, change, failures))
    }

    fn send(&mut self, changes: &[Change]) -> Result<(), Refusal> {
        if changes.iter().any(|change| change.element().is_too_wide()) {
            return Err(Refusal::TooWide);
        }
        let Some(request) = codec::change(changes) else { return Ok(()) };
        self.connection.execute(request).map_err(Refusal::from)
    }
}

impl Sets for KernelSets {
    fn headers(&mut self, prefix: &str) -> Result<Vec<Header>, SetError> {
        let mut headers = Vec::new();
        self.connection
            .dump(codec::list_headers(), &mut |payload| headers.extend(parse::header(payload)))
            .map_err(SetError::Headers)?;
        headers.retain(|header: &Header| header.name.starts_with(prefix));
        Ok(headers)
    }

    fn members(&mut self, name: &str, each: &mut dyn FnMut(Member)) -> Result<(), SetError> {
        let mut kind: Option<SetType> = None;
        let listed = self.connection.dump(codec::list(name), &mut |payload| {
            kind = parse::kind(payload).or(kind);
            if let Some(kind) = kind {
                parse::members(kind, payload).for_each(&mut *each);
            }
        });
        match listed {
            Err(error) if error.is_not_found() => Ok(()),
            listed => listed.map_err(|source| SetError::Members { set: name.into(), source }),
        }
    }

    fn create(&mut self, definition: &Definition) -> Result<(), SetError> {
        let revision = self
            .revision(definition)
            .map_err(|source| SetError::Command { command: definition.to_string().into(), source })?;
        self.command(definition.to_string(), &[&definition.name], codec::create(definition, revision))
    }

    fn destroy(&mut self, name: &str) -> Result<(), SetError> {
        match self.command(format!("destroy {name}"), &[name], codec::destroy(name)) {
            Err(SetError::Command { source: Refusal::NoSuchSet, .. }) => Ok(()),
            result => result,
        }
    }

    fn swap(&mut self, one: &str, other: &str) -> Result<(), SetError> {
        self.command(format!("swap {one} {other}"), &[one, other], codec::swap(one, other))
    }

    fn flush(&mut self, name: &str) -> Result<(), SetError> {
        self.command(format!("flush {name}"), &[name], codec::flush(name))
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), SetError> {
        let (mut failures, mut start) = (Vec::new(), 0);
        for alike in messages(changes) {
            self.change_alike(start, alike, &mut failures)?;
            start += alike.len();
        }
        if failures.is_empty() { Ok(()) } else { Err(SetError::Refused { failures }) }
    }
}

/// Cuts changes, in their order, into those that fit into one message each.
pub(super) fn messages(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    changes.chunk_by(are_alike).flat_map(|alike| alike.chunks(MOST_ELEMENTS))
}

fn are_alike(one: &Change, other: &Change) -> bool {
    discriminant(one) == discriminant(other) && one.set() == other.set()
}
