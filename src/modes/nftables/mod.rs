//! The nftables mode: Services as elements of a few maps. `README.md` shows the packet's way.

mod affinity;
pub(super) mod base;
mod building;
mod classes;
pub(super) mod cleanup;
mod error;
mod held;
mod hooks;
pub(super) mod key;
mod member;
pub(super) mod names;
mod objects;
mod observe;
mod plan;
mod planner;
pub(super) mod pods;
mod render;
mod slots;
#[cfg(test)]
mod tests;
mod watch;

use std::time::{Duration, Instant};

use crate::kernel::nftables as door;
use crate::model::{Family, Scheduler, ServiceTable};
use crate::modes::iptables::InvalidPackets;
use crate::modes::{Drift, Leftovers, Mode, remove_all};

pub use cleanup::LeftTable;
pub use error::Error;
pub use plan::Plan;
pub use watch::{OpenError, Watch, open};

use base::Style;
use held::Held;
use planner::Scope;

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark by which packets are masqueraded.
    pub mark: u32,
    pub invalid: InvalidPackets,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { mark: 0x4000, invalid: InvalidPackets::Drop }
    }
}

/// The nftables mode for one address family.
#[derive(Debug)]
pub struct Nftables<D> {
    family: Family,
    door: D,
    watch: Box<dyn Watch>,
    settings: Settings,
    held: Held,
    scope: Scope,
    leftovers: Vec<Box<dyn Leftovers>>,
}

impl<D: door::Nftables> Nftables<D> {
    /// `watch` tells of what others do to the table.
    pub fn new(family: Family, door: D, watch: Box<dyn Watch>, settings: Settings) -> Self {
        let (held, scope, leftovers) = (Held::default(), Scope::Everything, Vec::new());
        Nftables { family, door, watch, settings, held, scope, leftovers }
    }

    /// With what goes once its own rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Nftables { leftovers, ..self }
    }
}

/// The whole of what a kernel without our table needs: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    planner::plan(settings, &Held::default(), Scope::Everything, table, Instant::now()).to_string()
}

impl<D: door::Nftables> Mode for Nftables<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] =
        &[Scheduler::Random, Scheduler::RoundRobin, Scheduler::SourceHash];

    /// The kernel tells of changes: a look is one system call.
    const DRIFT_POLL: Duration = Duration::from_millis(50);

    fn observe(&mut self) -> Result<(), Error> {
        // What others do while we read counts as drift.
        self.watch.disturbed()?;
        let style = Style::new(&self.settings, &ServiceTable::new(self.family));
        self.held = observe::observe(&mut self.door, self.family, &style)?;
        self.scope = Scope::Everything;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, now: Instant) -> Plan {
        planner::plan(&self.settings, &self.held, self.scope, want, now)
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        self.door
            .commit(&plan.transaction)
            .map_err(|source| Error::Apply { culprit: plan.culprit(&source).map(Box::new), source })?;
        affinity::purge(&mut self.door, self.family, &plan.purge).map_err(Error::Affinity)?;
        plan.outcome.learn(&mut self.held, plan.made);
        self.scope = Scope::Changes;
        Ok(())
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        Ok(if self.watch.disturbed()? { Drift::Suspected } else { Drift::None })
    }

    fn retire_predecessors(&mut self) -> Result<(), Error> {
        remove_all(&mut self.leftovers).map_err(Error::Leftovers)
    }

    fn wake(&self) -> Option<Instant> {
        self.held.objects.wake()
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        self.scope = Scope::Everything;
        cleanup::delete(&mut self.door, &names::table(self.family)).map_err(Error::Cleanup)
    }
}
