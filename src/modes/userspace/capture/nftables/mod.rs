//! By nf_tables: a table with the name of the nftables mode's, so that whichever of the two modes writes it takes the
//! other's out in the same transaction.

mod base;
mod member;
mod names;
mod observe;
mod plan;

use std::io;

use super::Capture;
use crate::kernel::alarm::Ring;
use crate::kernel::nftables::{self as door, NftablesError, Table, Transaction};
use crate::model::{Family, ServiceTable};
use crate::modes::Drift;
use crate::modes::nftables::names::table as table_of;
use crate::modes::nftables::{Watch, cleanup};
use crate::modes::userspace::error::{self, Error};
use crate::modes::userspace::{Scope, Settings};

pub use plan::Plan;

use base::Style;
use observe::{Held, Presence};

#[derive(Debug)]
pub struct ByNftables<D> {
    family: Family,
    pub(in crate::modes::userspace) door: D,
    watch: Box<dyn Watch>,
    settings: Settings,
    pub(in crate::modes::userspace) held: Held,
    /// Of the last plan that was carried out.
    style: Option<Style>,
}

impl<D: door::Nftables> ByNftables<D> {
    /// `watch` tells of what others do to the table.
    pub fn new(family: Family, door: D, watch: Box<dyn Watch>, settings: Settings) -> Self {
        ByNftables { family, door, watch, settings, held: Held::default(), style: None }
    }
}

/// Tries whether the kernel takes all that is ever written, in a table that nobody sees.
pub fn probe(nftables: &mut dyn door::Nftables, family: Family) -> Result<(), NftablesError> {
    let table = ServiceTable::new(family);
    let mut transaction = Transaction::new(&Table::new(family, "ferrovia-probe"));
    let style = Style::new(&Settings::default(), &table);
    plan::write_skeleton(&mut transaction, Presence::Absent, &style, &table);
    transaction.delete_table();
    nftables.commit(&transaction).map(drop)
}

/// The whole of what a kernel without our table needs.
pub fn render(settings: &Settings, table: &ServiceTable) -> Plan {
    plan::plan(settings, &Held::default(), Scope::Everything, table)
}

impl<D: door::Nftables> Capture for ByNftables<D> {
    type Plan = Plan;

    fn observe(&mut self) -> Result<(), Error> {
        // What others do while we read counts as drift.
        self.watch.disturbed()?;
        // An earlier process listened elsewhere, so that its rules are never right.
        let nothing = Style::new(&self.settings, &ServiceTable::new(self.family));
        let style = self.style.as_ref().unwrap_or(&nothing);
        self.held = observe::observe(&mut self.door, self.family, style)?;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, scope: Scope) -> Plan {
        plan::plan(&self.settings, &self.held, scope, want)
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        self.door.commit(&plan.transaction).map_err(error::applying)?;
        self.style = Some(plan.style.clone());
        plan.learn(&mut self.held);
        Ok(())
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        Ok(if self.watch.disturbed()? { Drift::Suspected } else { Drift::None })
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.watch.alert(ring)
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.held = Held { table: Presence::Absent, ..Held::default() };
        cleanup::delete(&mut self.door, &table_of(self.family)).map_err(error::cleaning)
    }
}
