//! Taking tables out again: our own, and kube-proxy's.

use std::time::Instant;

use super::names;
use crate::kernel::nftables::{KernelNftables, Nftables, NftablesError, Table, Transaction};
use crate::model::Family;
use crate::modes::{Leftovers, RemovalError};

/// A table with everything in it. Done if there is none.
pub fn delete(nftables: &mut dyn Nftables, table: &Table) -> Result<(), NftablesError> {
    let is_there = nftables.tables(table.family)?.into_iter().any(|found| found.table == *table);
    if is_there {
        let mut transaction = Transaction::new(table);
        transaction.delete_table();
        nftables.commit(&transaction)?;
    }
    Ok(())
}

/// A table that some proxy left in a kernel where another mode works now.
#[derive(Debug)]
pub struct LeftTable(Table);

impl LeftTable {
    /// This mode's own.
    pub fn ours(family: Family) -> Self {
        LeftTable(names::table(family))
    }

    /// That of kube-proxy's nftables mode.
    pub fn kube_proxys(family: Family) -> Self {
        LeftTable(Table::new(family, "kube-proxy"))
    }
}

impl Leftovers for LeftTable {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        // A kernel that has no nf_tables has no table of anybody.
        let Ok(mut nftables) = KernelNftables::open() else { return Ok(()) };
        match nftables.generation() {
            Ok(_) => Ok(delete(&mut nftables, &self.0)?),
            Err(_) => Ok(()),
        }
    }
}
