//! The door to iptables: iptables-save and iptables-restore, legacy and nft.

mod command;
#[cfg(test)]
pub mod fake;
mod flavour;
mod nft;
mod stamp;

use std::fmt;
use std::io;
use std::process::ExitStatus;

use crate::model::Family;

pub use command::Programs;
pub use flavour::Flavour;
pub use stamp::Stamp;

/// The tables that a Service proxy writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Mangle,
    Filter,
    Nat,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Mangle => "mangle",
            Table::Filter => "filter",
            Table::Nat => "nat",
        })
    }
}

/// iptables of one address family in the network namespace of the calling thread.
pub trait Door {
    fn family(&self) -> Family;

    /// Hands out the lines that `iptables-save -t TABLE` prints. A table that does not exist has no lines, and is not
    /// created by being looked at.
    fn save(&mut self, table: Table, line: &mut dyn FnMut(&str)) -> Result<(), Error>;

    /// `iptables-restore --noflush`. The input is formatted straight into the program's standard input.
    fn restore(&mut self, input: &dyn Input) -> Result<(), Error>;

    /// Something that differs after somebody else's change, read without reading rules.
    fn stamp(&mut self) -> Result<Stamp, Error>;

    /// What of some chains is known without reading rules, where that costs more than a stamp and tells more: others'
    /// changes elsewhere do not change it. `None` where there is no such thing.
    fn fingerprint(&mut self, chains: &dyn Fn(&str) -> bool) -> Result<Option<u64>, Error>;
}

/// Text for iptables-restore.
pub trait Input: fmt::Display {
    /// How many tables it commits.
    fn commits(&self) -> u32;
}

/// Why iptables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot find {0} on the PATH: install the iptables package")]
    Missing(&'static str),
    #[error("cannot run {program}: {source}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} ended with {status}: {message}")]
    Failed {
        program: &'static str,
        status: ExitStatus,
        /// The first line of its input that it did not accept, from 1.
        line: Option<usize>,
        message: String,
    },
    #[error("cannot read the kernel's change stamp ({what}): {source}")]
    Stamp { what: &'static str, source: io::Error },
    #[error("refused: line {line}: {message}")]
    #[cfg(test)]
    Fake { line: usize, message: String },
}

impl Error {
    /// The line of the input to restore that was not accepted, from 1.
    pub fn line(&self) -> Option<usize> {
        match self {
            Error::Failed { line, .. } => *line,
            #[cfg(test)]
            Error::Fake { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// Whether the input is not to blame: no other input would have fared better.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Missing(_) | Error::Run { .. } | Error::Stamp { .. } => true,
            // Of the legacy programs, once their `-w` is over (k8s#7370), or where the lock's file cannot be opened.
            // They have no exit status of its own for it.
            Error::Failed { message, .. } => {
                let words = ["Can't lock ", "the xtables lock", "can't open lock file"];
                words.iter().any(|words| message.contains(words))
            }
            #[cfg(test)]
            Error::Fake { .. } => false,
        }
    }
}
