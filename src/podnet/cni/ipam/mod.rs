//! Which attachment holds which addresses. `README.md` of podnet describes the file.
//!
//! Everything is decided from one journal, which one process at a time has open. A record is on disk before an address is
//! given out. Nothing is held across a boot: no pod survives one.

mod journal;
mod pool;
mod storage;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

pub use pool::Pool;
pub use storage::{FileStorage, Storage};

use super::attachment::AttachmentKey;
use crate::model::Family;
use journal::{Entry, Hold, Journal, Released};

/// So many seconds a record without an interface is believed to be that of an ADD under way.
const UNDER_WAY: u64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("somebody else has had the journal of addresses locked for long")]
    Locked,
    #[error("cannot read the journal of addresses")]
    Read(#[source] io::Error),
    #[error("cannot write the journal of addresses")]
    Write(#[source] io::Error),
    #[error("the journal of addresses is of another version: {0:?}")]
    OtherVersion(String),
    #[error("no {0} address is free")]
    Exhausted(Family),
}

impl IpamError {
    /// Of the specification, or above 100.
    pub fn code(&self) -> u32 {
        match self {
            IpamError::Open { .. } | IpamError::Read(_) | IpamError::Write(_) => 5,
            IpamError::Locked | IpamError::Exhausted(_) => 11,
            IpamError::OtherVersion(_) => 101,
        }
    }
}

/// What the kernel says, for the case that the journal is wrong.
pub trait Evidence {
    /// Whether packets to just this address go somewhere.
    fn is_routed(&mut self, address: IpAddr) -> bool;

    /// Whether the attachment has an interface.
    fn is_attached(&mut self, key: &AttachmentKey) -> bool;
}

/// Addresses for an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// One of each family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    New,
    /// An earlier ADD of the same attachment, which did not end, has taken them.
    Earlier,
}

/// The addresses of one network, as of one moment.
pub struct Ipam<S> {
    storage: S,
    boot: String,
    /// Seconds since the boot.
    now: u64,
    journal: Journal,
}

impl<S: Storage> Ipam<S> {
    /// Reads the journal and changes nothing.
    pub fn open(mut storage: S, boot: &str, now: u64) -> Result<Self, IpamError> {
        let content = storage.read().map_err(IpamError::Read)?.unwrap_or_default();
        let journal = Journal::parse(&content).map_err(IpamError::OtherVersion)?;
        Ok(Ipam { storage, boot: boot.to_owned(), now, journal })
    }

    /// Records that cannot be read, as a torn write or a bad disk leaves them. Their addresses are free if the kernel has no
    /// route to them.
    pub fn damaged(&self) -> usize {
        self.journal.damaged
    }

    /// What an attachment holds.
    pub fn held_by(&self, key: &AttachmentKey) -> Option<&[IpAddr]> {
        self.holds().find(|hold| hold.key == *key).map(|hold| &hold.addresses[..])
    }

    /// Every attachment that holds addresses.
    pub fn holders(&self) -> Vec<AttachmentKey> {
        self.holds().map(|hold| hold.key.clone()).collect()
    }

    /// One address of each family of the pool.
    pub fn lease(
        &mut self,
        key: &AttachmentKey,
        pool: &Pool,
        evidence: &mut dyn Evidence,
    ) -> Result<Lease, IpamError> {
        self.prepare()?;
        if let Some(addresses) = self.held_by(key) {
            if pool.suits(addresses) {
                return Ok(Lease { addresses: addresses.to_vec(), origin: Origin::Earlier });
            }
            self.release(key)?;
        }
        let addresses = match self.choose(pool, evidence) {
            Err(IpamError::Exhausted(_)) if self.reclaim(evidence)? > 0 => self.choose(pool, evidence)?,
            chosen => chosen?,
        };
        let hold = Hold { key: key.clone(), since: self.now, addresses: addresses.clone() };
        self.append(hold)?;
        Ok(Lease { addresses, origin: Origin::New })
    }

    /// Whoever holds nothing releases nothing.
    pub fn release(&mut self, key: &AttachmentKey) -> Result<(), IpamError> {
        if !self.is_of_this_boot() {
            return Ok(());
        }
        let of_key = |entry: &Entry| entry.released.is_none() && entry.hold.key == *key;
        let now = Released::at(self.now);
        for index in 0..self.journal.entries.len() {
            let entry = &mut self.journal.entries[index];
            if of_key(entry) {
                self.storage.overwrite(entry.at, now.field().as_bytes()).map_err(IpamError::Write)?;
                entry.released = Some(now);
            }
        }
        Ok(())
    }

    /// The first family that has no address left for another attachment.
    pub fn exhausted(&self, pool: &Pool, evidence: &mut dyn Evidence) -> Option<Family> {
        let held: Vec<IpAddr> = self
            .holds()
            .filter(|hold| !self.is_abandoned(hold, evidence))
            .flat_map(|hold| hold.addresses.clone())
            .collect();
        pool.families().find(|family| pool.addresses(*family).all(|address| held.contains(&address)))
    }

    fn is_of_this_boot(&self) -> bool {
        self.journal.boot == self.boot
    }

    /// Those of another boot hold nothing.
    fn holds(&self) -> impl Iterator<Item = &Hold> {
        let is_current = self.is_of_this_boot();
        let live = self.journal.entries.iter().filter(move |entry| is_current && entry.released.is_none());
        live.map(|entry| &entry.hold)
    }

    /// Makes the journal one that can be appended to.
    fn prepare(&mut self) -> Result<(), IpamError> {
        if !self.is_of_this_boot() {
            let content = self.journal.after_boot(&self.boot);
            self.rewrite(content)?;
        } else if self.journal.is_wasteful() {
            // A disk that is full may still have room for one record.
            let _ = self.rewrite(self.journal.compacted());
        }
        Ok(())
    }

    fn rewrite(&mut self, content: String) -> Result<(), IpamError> {
        self.storage.replace(content.as_bytes()).map_err(IpamError::Write)?;
        self.journal = Journal::parse(content.as_bytes()).map_err(IpamError::OtherVersion)?;
        Ok(())
    }

    fn append(&mut self, hold: Hold) -> Result<(), IpamError> {
        let line = journal::line(None, &hold);
        self.storage.append(self.journal.end, line.as_bytes()).map_err(IpamError::Write)?;
        self.journal.push(hold, line.len());
        Ok(())
    }

    fn choose(&self, pool: &Pool, evidence: &mut dyn Evidence) -> Result<Vec<IpAddr>, IpamError> {
        let choose = |family| {
            let mut candidates = pool.candidates(family, &self.journal, self.now);
            let free = candidates.find(|address| !evidence.is_routed(*address));
            free.ok_or(IpamError::Exhausted(family))
        };
        pool.families().map(choose).collect()
    }

    /// Takes back what attachments without an interface hold, and says how many did.
    fn reclaim(&mut self, evidence: &mut dyn Evidence) -> Result<usize, IpamError> {
        let abandoned: Vec<AttachmentKey> = self
            .holds()
            .filter(|hold| self.is_abandoned(hold, evidence))
            .map(|hold| hold.key.clone())
            .collect();
        abandoned.iter().try_for_each(|key| self.release(key))?;
        Ok(abandoned.len())
    }

    fn is_abandoned(&self, hold: &Hold, evidence: &mut dyn Evidence) -> bool {
        self.now.saturating_sub(hold.since) >= UNDER_WAY && !evidence.is_attached(&hold.key)
    }
}

/// Whether an address is from one of the networks.
fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}
