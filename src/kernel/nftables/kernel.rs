//! The kernel's nf_tables.

use std::io;
use std::ops::Range;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::batch::Batch;
use super::chain::{self, Chain};
use super::counter::{self, Counter};
use super::element::{self, Element, Elements};
use super::generation::{self, Generation};
use super::rule::{self, InstalledRule};
use super::set::{self, Set};
use super::socket::{BatchSocket, Complaint, Outcome, PortId};
use super::table::{self, InstalledTable, Table, TableFamily};
use super::transaction::{Operation, Transaction};
use super::value::Value;
use super::{Nftables, NftablesError, Refusal, Refusals};
use crate::kernel::netlink::{Connection, NetlinkError, Request};

/// Each is lost only if somebody else commits in the microseconds between.
const ATTEMPTS: usize = 100;

/// nf_tables of one network namespace.
pub struct KernelNftables {
    /// For questions.
    connection: Connection,
    /// For transactions.
    socket: BatchSocket,
    /// As last heard of.
    generation: Option<Generation>,
}

impl KernelNftables {
    /// Of the network namespace of the calling thread.
    pub fn open() -> Result<Self, NftablesError> {
        let connection = Connection::open(NETLINK_NETFILTER).map_err(NftablesError::Open)?;
        let socket = BatchSocket::open().map_err(|error| NftablesError::Open(NetlinkError::Open(error)))?;
        Ok(KernelNftables { connection, socket, generation: None })
    }

    /// Under which the transactions of this door are announced.
    pub fn port(&self) -> PortId {
        self.socket.port()
    }

    fn commit_batch(
        &mut self,
        batch: &Batch,
        transaction: &Transaction,
    ) -> Result<Generation, NftablesError> {
        let all = 0..batch.messages();
        let failed = |source| NftablesError::Send { table: transaction.table.clone(), source };
        let room = self.socket.make_room(batch.bytes(&all).len() + 64).map_err(failed)?;
        let mut after = match transaction.after {
            Some(generation) => generation,
            None => self.last_generation()?,
        };
        for part in batch.parts(room) {
            after = self.commit_part(batch, &part, transaction, after)?;
        }
        Ok(after)
    }

    fn last_generation(&mut self) -> Result<Generation, NftablesError> {
        self.generation.map_or_else(|| self.generation(), Ok)
    }

    fn commit_part(
        &mut self,
        batch: &Batch,
        part: &Range<usize>,
        transaction: &Transaction,
        mut after: Generation,
    ) -> Result<Generation, NftablesError> {
        for _ in 0..ATTEMPTS {
            let outcome = self
                .socket
                .send(batch, part, after)
                .map_err(|source| NftablesError::Send { table: transaction.table.clone(), source })?;
            match outcome {
                Outcome::Committed => {
                    self.generation = Some(after.next());
                    return Ok(after.next());
                }
                Outcome::Stale if transaction.after.is_some() => return Err(NftablesError::Stale(after)),
                Outcome::Stale => after = self.generation()?,
                Outcome::Lost => {
                    self.generation = None;
                    return Err(NftablesError::Lost);
                }
                Outcome::Refused(complaints) => {
                    return Err(refused(batch, part, transaction, complaints));
                }
            }
        }
        Err(NftablesError::Stale(after))
    }

    /// Objects of a table; none if it is not there.
    fn list(
        &mut self,
        what: &'static str,
        table: &Table,
        request: Request,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), NftablesError> {
        match self.connection.dump(request, each) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map_err(|source| NftablesError::List { what, table: table.clone(), source }),
        }
    }

    /// A dump that has to be repeated gives some objects twice, the last ones are whole.
    fn collect<T>(
        &mut self,
        what: &'static str,
        table: &Table,
        request: &Request,
        parse: &dyn Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NftablesError> {
        // Without a change in between the answer is whole and without doubles.
        for _ in 0..ATTEMPTS {
            let mut objects = Vec::new();
            let before = self.generation()?;
            self.list(what, table, request.clone(), &mut |payload| objects.extend(parse(payload)))?;
            if self.generation()? == before {
                return Ok(objects);
            }
        }
        let source = NetlinkError::NeverConsistent;
        Err(NftablesError::List { what, table: table.clone(), source })
    }
}

impl Nftables for KernelNftables {
    fn commit(&mut self, transaction: &Transaction) -> Result<Generation, NftablesError> {
        let batch = Batch::new(transaction, self.socket.first_sequence());
        if batch.messages() == 0 {
            return self.last_generation();
        }
        self.socket.advance(batch.messages());
        self.commit_batch(&batch, transaction)
    }

    fn generation(&mut self) -> Result<Generation, NftablesError> {
        let mut found = None;
        self.connection
            .query(generation::get(), &mut |payload| found = generation::parse(payload))
            .map_err(NftablesError::Generation)?;
        self.generation = found;
        found.ok_or(NftablesError::Lost)
    }

    fn tables(&mut self, family: TableFamily) -> Result<Vec<InstalledTable>, NftablesError> {
        let every = Table::new(family, "*");
        self.collect("tables", &every, &table::list(family), &table::parse)
    }

    fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, NftablesError> {
        let parse = |payload: &[u8]| of_table(table, chain::parse(payload));
        self.collect("chains", table, &chain::list(table), &parse)
    }

    fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<InstalledRule>, NftablesError> {
        let parse = |payload: &[u8]| of_table(table, rule::parse(payload));
        self.collect("rules", table, &rule::list(table, chain), &parse)
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<Set>, NftablesError> {
        let parse = |payload: &[u8]| of_table(table, set::parse(payload));
        self.collect("sets", table, &set::list(table), &parse)
    }

    fn elements(
        &mut self,
        table: &Table,
        set: &Set,
        each: &mut dyn FnMut(&Element),
    ) -> Result<(), NftablesError> {
        let request = element::list(table, &set.name);
        if !set.has_end_elements() {
            let mut stream =
                |payload: &[u8]| element::parse(payload, set).for_each(|entry| each(&entry.element));
            return self.list("elements", table, request, &mut stream);
        }
        let mut ends = Vec::new();
        self.list("elements", table, request, &mut |payload| ends.extend(element::parse(payload, set)))?;
        element::join(ends).iter().for_each(each);
        Ok(())
    }

    fn element(&mut self, table: &Table, set: &Set, key: &Value) -> Result<Option<Element>, NftablesError> {
        let mut found = None;
        let mut first =
            |payload: &[u8]| found = element::parse(payload, set).map(|entry| entry.element).next();
        match self.connection.query(element::get(table, &set.name, key), &mut first) {
            Ok(()) => Ok(found),
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(NftablesError::List { what: "an element", table: table.clone(), source }),
        }
    }

    fn counters(&mut self, table: &Table, each: &mut dyn FnMut(&Counter)) -> Result<(), NftablesError> {
        let mut stream =
            |payload: &[u8]| of_table(table, counter::parse(payload)).iter().for_each(&mut *each);
        self.list("counters", table, counter::list(table), &mut stream)
    }
}

/// Some kernels give out the objects of all tables.
fn of_table<T>(table: &Table, named: Option<(&str, T)>) -> Option<T> {
    named.filter(|(name, _)| **name == *table.name).map(|(_, object)| object)
}

fn refused(
    batch: &Batch,
    part: &Range<usize>,
    transaction: &Transaction,
    complaints: Vec<Complaint>,
) -> NftablesError {
    let table = &transaction.table;
    let mut refusals = Vec::new();
    for complaint in complaints {
        let errno = io::Error::from_raw_os_error(complaint.errno);
        let message = batch.message_with(complaint.sequence).filter(|message| part.contains(message));
        let Some(message) = message else {
            return NftablesError::NotTaken { table: table.clone(), source: errno };
        };
        let index = batch.operation_of(message);
        let operation = &transaction.operations[index];
        let element = blamed(batch, message, complaint.offset, operation);
        let text = text(table, operation, element.as_ref());
        refusals.push(Refusal { operation: index, element, text, errno, explanation: complaint.explanation });
    }
    NftablesError::Refused(Refusals(refusals))
}

/// The element that an offset points to.
fn blamed(batch: &Batch, message: usize, offset: Option<usize>, operation: &Operation) -> Option<Element> {
    let (Operation::AddElements { elements, .. } | Operation::DeleteElements { elements, .. }) = operation
    else {
        return None;
    };
    let only = || elements.iter().next().filter(|_| elements.len() == 1);
    let entry = offset.and_then(|offset| batch.entry_at(message, offset));
    entry.and_then(|entry| Elements::parse(elements, entry)).map(|entry| entry.element).or_else(only)
}

/// The line of the plan that was refused.
fn text(table: &Table, operation: &Operation, element: Option<&Element>) -> Box<str> {
    match (operation, element) {
        (Operation::AddElements { set, .. }, Some(element)) => {
            format!("add element {table} {set} {{ {element} }}").into()
        }
        (Operation::DeleteElements { set, .. }, Some(element)) => {
            format!("delete element {table} {set} {{ {element} }}").into()
        }
        _ => operation.of(table).to_string().into(),
    }
}
