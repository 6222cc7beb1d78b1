//! The nftables mode: Services as elements of a few maps. `README.md` shows the packet's way.

mod affinity;
pub(super) mod base;
mod building;
mod classes;
pub(super) mod cleanup;
mod edits;
mod error;
mod held;
mod hooks;
pub(super) mod key;
mod ledger;
mod member;
mod members;
pub(super) mod names;
mod numbers;
mod objects;
mod observe;
mod plan;
mod planner;
pub(super) mod pods;
mod render;
pub(super) mod rules;
mod slots;
#[cfg(test)]
mod tests;
mod traffic;
mod volumes;
mod watch;
mod work;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::kernel::alarm::Ring;
use crate::kernel::nftables as door;
use crate::model::{Family, Scheduler, ServicePortName, ServiceTable};
use crate::modes::iptables::InvalidPackets;
use crate::modes::{Drift, Leftovers, Mode, Predecessors, Traffic};

pub use cleanup::LeftTable;
pub use error::Error;
pub use plan::Plan;
pub use traffic::Counting;
pub use watch::{OpenError, Watch, open};

use base::Style;
use held::Held;
use ledger::Ledger;
use work::Scope;
use writing::Writing;

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark by which packets are masqueraded.
    pub mark: u32,
    pub invalid: InvalidPackets,
    pub counting: Counting,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { mark: 0x4000, invalid: InvalidPackets::Drop, counting: Counting::Off }
    }
}

/// Whether this process is told what others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    All,
    /// While a large load is written.
    Nothing,
    /// Somebody did something meanwhile, whatever table it was.
    MissedSomething,
}

/// The nftables mode for one address family.
#[derive(Debug)]
pub struct Nftables<D> {
    family: Family,
    writing: Writing<D>,
    watch: Box<dyn Watch>,
    hearing: Hearing,
    settings: Settings,
    held: Held,
    scope: Scope,
    ledger: Ledger,
    predecessors: Predecessors,
}

impl<D: door::Nftables> Nftables<D> {
    /// `watch` tells of what others do to the table.
    pub fn new(family: Family, door: D, watch: Box<dyn Watch>, settings: Settings) -> Self {
        let (held, scope) = (Held::default(), Scope::Everything);
        let (writing, ledger, predecessors) =
            (Writing::new(door), Ledger::default(), Predecessors::default());
        let hearing = Hearing::All;
        Nftables { family, writing, watch, hearing, settings, held, scope, ledger, predecessors }
    }

    /// For loads that begin with reading everything: should somebody have done something meanwhile, it is read once more.
    fn stop_listening(&mut self) -> Result<(), Error> {
        if self.hearing == Hearing::All {
            self.watch.pause()?;
            self.hearing = Hearing::Nothing;
        }
        Ok(())
    }

    /// Before everything is read, so that nothing need have been heard.
    fn listen(&mut self) -> Result<(), Error> {
        if self.hearing == Hearing::Nothing {
            self.watch.resume()?;
        }
        self.hearing = Hearing::All;
        Ok(())
    }

    /// After a load, during which others may have done something unheard.
    fn listen_again(&mut self) -> Result<(), Error> {
        if self.hearing == Hearing::Nothing {
            self.watch.resume()?;
            let now = self.writing.door()?.generation().map_err(error::observing)?;
            let is_known = self.ledger.accounts_for(now, self.watch.told());
            self.hearing = if is_known { Hearing::All } else { Hearing::MissedSomething };
        }
        Ok(())
    }

    /// With what goes once its own rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Nftables { predecessors: Predecessors::new(leftovers), ..self }
    }
}

/// The whole of what a kernel without our table needs: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    let (mut held, mut scope, mut text) = (Held::default(), Scope::Everything, String::new());
    let now = Instant::now();
    loop {
        let plan = planner::plan(settings, &held, &scope, table, now);
        text += &plan.to_string();
        plan.outcome.learn(&mut held, now);
        match plan.rest {
            Some(rest) => scope = Scope::Rest(rest),
            None => return text,
        }
    }
}

impl<D: door::Nftables + Send + 'static> Mode for Nftables<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] =
        &[Scheduler::Random, Scheduler::RoundRobin, Scheduler::SourceHash];

    /// The kernel tells of changes: this is for what it could not tell.
    const DRIFT_POLL: Duration = Duration::from_secs(1);

    fn observe(&mut self) -> Result<(), Error> {
        // What others do while we read counts as drift.
        self.listen()?;
        let mut door = self.writing.door_anyway();
        let now = door.generation().map_err(error::observing)?;
        self.watch.disturbed()?;
        self.ledger = Ledger::open(now, self.watch.told());
        // Not beside what is read: that may be half a million slots.
        self.held = Held::default();
        let style = Style::new(&self.settings, &ServiceTable::new(self.family));
        self.held = observe::observe(&mut *door, self.family, &style)?;
        self.scope = Scope::Everything;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, now: Instant) -> Plan {
        planner::plan(&self.settings, &self.held, &self.scope, want, now)
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        let Plan { written, outcome, purge, rest, made } = plan;
        self.ledger.note_own(u32::from(!written.transaction.is_empty()));
        if rest.is_some() {
            if matches!(self.scope, Scope::Everything) {
                self.stop_listening()?;
            }
            self.writing.write_meanwhile(written)?;
        } else {
            self.writing.write(&written)?;
            let purged = affinity::purge(&mut *self.writing.door()?, self.family, &purge);
            self.ledger.note_own(purged.map_err(Error::Affinity)?);
        }
        outcome.learn(&mut self.held, made);
        self.scope = rest.map_or(Scope::Changes, Scope::Rest);
        if !self.is_halfway() {
            self.listen_again()?;
        }
        Ok(())
    }

    fn is_halfway(&self) -> bool {
        matches!(self.scope, Scope::Rest(_))
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        let is_disturbed = self.watch.disturbed()? || self.hearing == Hearing::MissedSomething;
        Ok(if is_disturbed { Drift::Suspected } else { Drift::None })
    }

    fn make_way(&mut self, now: Instant) {
        self.predecessors.make_way(now);
    }

    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Error> {
        self.predecessors.retire(now).map_err(Error::Leftovers)
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.predecessors.wake()
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.watch.alert(ring)
    }

    /// A look at the generation. A transaction that is just being told of is one the second time.
    fn audit(&mut self) -> Result<Drift, Error> {
        for _ in 0..2 {
            let now = self.writing.door()?.generation().map_err(error::observing)?;
            if self.watch.disturbed()? {
                return Ok(Drift::Suspected);
            }
            if self.ledger.accounts_for(now, self.watch.told()) {
                return Ok(Drift::None);
            }
        }
        Ok(Drift::Suspected)
    }

    fn wake(&self) -> Option<Instant> {
        self.held.objects.wake()
    }

    fn counts_traffic(&self) -> bool {
        self.settings.counting == Counting::On
    }

    fn traffic(&mut self, want: &ServiceTable) -> Result<BTreeMap<ServicePortName, Traffic>, Error> {
        traffic::read(&mut *self.writing.door()?, want).map_err(Error::Traffic)
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        self.scope = Scope::Everything;
        cleanup::delete(&mut *self.writing.door_anyway(), &names::table(self.family)).map_err(Error::Cleanup)
    }
}
