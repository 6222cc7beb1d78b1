//! Ports in nf_tables.

use super::mapping::Mapped;
use super::table::Table;
use super::{HostPortError, Ports};
use crate::kernel::nftables::{KernelNftables, Nftables, NftablesError};
use crate::model::Family;

/// Each is lost only to another ADD or DEL at the same moment.
const ATTEMPTS: usize = 10;

pub struct NftablesPorts(KernelNftables);

impl NftablesPorts {
    /// `None` where the kernel has no nf_tables.
    pub fn find() -> Option<Self> {
        let mut nftables = KernelNftables::open().ok()?;
        nftables.generation().is_ok().then_some(NftablesPorts(nftables))
    }

    /// Whether there is a table for ports.
    pub fn is_in_use(&mut self) -> bool {
        let exists = |family| Table::new(family).exists(&mut self.0).unwrap_or_default();
        Family::ALL.into_iter().any(exists)
    }
}

impl Ports for NftablesPorts {
    fn open(&mut self, family: Family, owner: &str, wanted: &[Mapped]) -> Result<(), HostPortError> {
        let table = Table::new(family);
        let mut attempt = 1;
        loop {
            let dead = table.contested(&mut self.0, owner, wanted)?;
            match self.0.commit(&table.add(owner, wanted, &dead)) {
                Err(error @ NftablesError::Refused(_)) if attempt < ATTEMPTS && !error.is_unsupported() => {
                    attempt += 1;
                }
                committed => return Ok(committed.map(drop)?),
            }
        }
    }

    fn list(
        &mut self,
        family: Family,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Mapped>, HostPortError> {
        Ok(Table::new(family).find(&mut self.0, is_meant)?.mapped())
    }

    fn remove(
        &mut self,
        family: Family,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Mapped>, HostPortError> {
        let table = Table::new(family);
        let mut attempt = 1;
        loop {
            let found = table.find(&mut self.0, is_meant)?;
            if found.is_empty() {
                return Ok(Vec::new());
            }
            match self.0.commit(&table.remove(&found)) {
                Err(NftablesError::Refused(_)) if attempt < ATTEMPTS => attempt += 1,
                committed => return Ok(committed.map(|_| found.mapped())?),
            }
        }
    }

    fn retire(&mut self, family: Family) -> Result<(), HostPortError> {
        let table = Table::new(family);
        if table.exists(&mut self.0)? && table.find(&mut self.0, &|_| true)?.is_empty() {
            self.0.commit(&table.delete())?;
        }
        Ok(())
    }
}
