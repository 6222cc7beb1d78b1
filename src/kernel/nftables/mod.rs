//! The door to nf_tables, over netlink: transactions, what is there, and who changes it.
//!
//! [`Transaction`] is what is meant, in nft's words; below it `linearize` says it in the kernel's words and `batch` in bytes.
//! One file for each kind of object, with the messages about it.

mod batch;
pub mod chain;
pub mod counter;
pub mod datatype;
pub mod element;
pub mod events;
pub mod expression;
#[cfg(test)]
pub mod fake;
pub mod generation;
mod kernel;
mod linearize;
mod message;
pub mod probe;
pub mod rule;
pub mod selector;
pub mod set;
mod socket;
pub mod statement;
pub mod table;
#[cfg(test)]
mod tests;
pub mod transaction;
mod type_of;
pub mod userdata;
pub mod value;
pub mod verdict;
mod wire;

use std::fmt;
use std::io;

pub use chain::Chain;
pub use counter::Counter;
pub use element::Element;
pub use generation::Generation;
pub use kernel::KernelNftables;
pub use rule::{InstalledRule, Rule};
pub use set::Set;
pub use socket::PortId;
pub use statement::Statement;
pub use table::{InstalledTable, Name, Table, TableFamily};
pub use transaction::{Operation, Transaction};
pub use value::Value;
pub use verdict::Verdict;

use super::netlink::NetlinkError;

#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    #[error("cannot reach nf_tables")]
    Open(#[source] NetlinkError),
    #[error("cannot read the generation of nf_tables")]
    Generation(#[source] NetlinkError),
    #[error("cannot list the {what} of table {table}")]
    List { what: &'static str, table: Table, source: NetlinkError },
    #[error("cannot send a transaction for table {table}")]
    Send { table: Table, source: io::Error },
    /// As a whole: without CAP_NET_ADMIN, or out of memory.
    #[error("the kernel takes no transaction for table {table}")]
    NotTaken { table: Table, source: io::Error },
    /// Nothing of the transaction was carried out.
    #[error("{0}")]
    Refused(Refusals),
    /// Nothing of the transaction was carried out.
    #[error("somebody else changed nf_tables since generation {0}")]
    Stale(Generation),
    /// Read back what is there.
    #[error("the kernel's answer to a transaction was lost")]
    Lost,
}

impl NftablesError {
    /// That this kernel does not have what was asked for, such as tables of a family (`EOPNOTSUPP`).
    pub fn is_unsupported(&self) -> bool {
        self.refusals().iter().any(|refusal| refusal.errno.raw_os_error() == Some(libc::EOPNOTSUPP))
    }

    /// The operations to blame, if it was operations.
    pub fn refusals(&self) -> &[Refusal] {
        match self {
            NftablesError::Refused(Refusals(refusals)) => refusals,
            _ => &[],
        }
    }
}

/// All operations of a transaction that the kernel refused, in order. There is at least one.
#[derive(Debug)]
pub struct Refusals(pub Vec<Refusal>);

#[derive(Debug)]
pub struct Refusal {
    /// Its index in the transaction.
    pub operation: usize,
    /// The element to blame, where the kernel says which one.
    pub element: Option<Element>,
    /// The line of the transaction.
    pub text: Box<str>,
    pub errno: io::Error,
    /// The kernel's own words, which are rare.
    pub explanation: Option<Box<str>>,
}

/// `the kernel refused "delete set ip ferrovia services" and 2 others: Device or resource busy (os error 16)`
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, others @ ..] = &self.0[..] else { return f.write_str("the kernel refused something") };
        write!(f, "the kernel refused \"{}\"", first.text)?;
        if !others.is_empty() {
            write!(f, " and {} more", others.len())?;
        }
        write!(f, ": {}", first.errno)?;
        first.explanation.as_ref().map_or(Ok(()), |explanation| write!(f, " ({explanation})"))
    }
}

/// nf_tables of one network namespace.
pub trait Nftables {
    /// Carries out all of a transaction or nothing, and tells the generation that it made. An empty one is no transaction.
    ///
    /// Only a process that may not enlarge its send buffer has a transaction of more than 400 KiB carried out in parts.
    fn commit(&mut self, transaction: &Transaction) -> Result<Generation, NftablesError>;

    fn generation(&mut self) -> Result<Generation, NftablesError>;

    fn tables(&mut self, family: TableFamily) -> Result<Vec<InstalledTable>, NftablesError>;

    /// Empty if the table is not there, like all that follow.
    fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, NftablesError>;

    /// In their order within each chain.
    fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<InstalledRule>, NftablesError>;

    /// Sets and maps.
    fn sets(&mut self, table: &Table) -> Result<Vec<Set>, NftablesError>;

    /// Hands every element of a set to `each`, one after the other: there may be millions. `each` may see one twice if
    /// somebody changes the set meanwhile.
    fn elements(
        &mut self,
        table: &Table,
        set: &Set,
        each: &mut dyn FnMut(&Element),
    ) -> Result<(), NftablesError>;

    fn element(&mut self, table: &Table, set: &Set, key: &Value) -> Result<Option<Element>, NftablesError>;

    fn counters(&mut self, table: &Table, each: &mut dyn FnMut(&Counter)) -> Result<(), NftablesError>;
}
