//! The iptables mode: Services as a tree of iptables chains, legacy or nft. `README.md` shows the packet's way.

mod base;
mod chance;
mod choose;
mod cleanup;
mod dispatch;
mod isolate;
mod names;
mod observe;
mod path;
mod plan;
mod planner;
mod render;
#[cfg(test)]
mod tests;

use std::time::Instant;

use crate::kernel::iptables::{self as door, Door};
use crate::model::{Scheduler, ServicePortName, ServiceTable};
use crate::modes::watched::Watched;
use crate::modes::{Drift, Leftovers, Mode, ModeError, Predecessors, RemovalError};

pub use cleanup::remove_kube_proxy;
pub use plan::{Plan, Refused};
pub use render::{InvalidPackets, MasqueradePorts, Settings};

pub(super) use base::{CANARY, JUMPS, Jump, LAYOUT, MARK_MASQUERADE};
pub(super) use cleanup::{remove_chain, remove_ours};
pub(super) use observe::{Layout, Observed, observe};
pub(super) use render::{ContentHash, Style, network};

use plan::Known;

/// The iptables mode for one address family.
#[derive(Debug)]
pub struct Iptables<D> {
    rules: Watched<D>,
    settings: Settings,
    known: Known,
    /// Whether kube-proxy's chains were there when the rules were last read.
    kube_proxy: bool,
    predecessors: Predecessors,
}

impl<D: Door> Iptables<D> {
    pub fn new(door: D, settings: Settings) -> Self {
        Iptables {
            rules: Watched::new(door, is_ours),
            settings,
            known: Known::default(),
            kube_proxy: false,
            predecessors: Predecessors::default(),
        }
    }

    /// With what goes once its own rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Iptables { predecessors: Predecessors::new(leftovers), ..self }
    }

    /// The door to the same rules, for what is not this mode's own.
    pub fn door(&mut self) -> &mut D {
        self.rules.door()
    }

    fn restore(&mut self, plan: &Plan) -> Result<(), Error> {
        self.rules.restore(plan).map_err(|source| match source {
            door::Error::Stamp { .. } => Error::Observe(source),
            source => Error::Restore { refused: self.refused(plan, &source).map(Box::new), source },
        })
    }

    fn refused(&mut self, plan: &Plan, error: &door::Error) -> Option<Refused> {
        let mut refused = plan.refused(error.line()?)?;
        if refused.line == "COMMIT" {
            refused.culprit = isolate::culprit(self.rules.door(), plan).cloned();
        }
        Some(refused)
    }
}

fn is_ours(chain: &str) -> bool {
    chain.starts_with(names::OURS) || matches!(chain, base::CANARY | base::MARK_MASQUERADE)
}

/// The whole of what a kernel without rules needs for a table: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    planner::plan(settings, &Known::default(), table).to_string()
}

/// Why the iptables mode could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading iptables rules: {0}")]
    Observe(#[source] door::Error),
    #[error("writing iptables rules: {source}{}", refused.as_deref().map(Refused::to_string).unwrap_or_default())]
    Restore { refused: Option<Box<Refused>>, source: door::Error },
    #[error("removing iptables rules: {0}")]
    Cleanup(#[source] door::Error),
    #[error("removing what an earlier proxy left: {0}")]
    Leftovers(#[source] RemovalError),
}

impl ModeError for Error {
    fn culprit(&self) -> Option<&ServicePortName> {
        match self {
            Error::Restore { refused: Some(refused), .. } => refused.culprit.as_ref(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            // Nothing of a plan is in it.
            Error::Observe(_) => true,
            Error::Restore { source, .. } | Error::Cleanup(source) => source.is_transient(),
            Error::Leftovers(_) => false,
        }
    }
}

impl<D: Door> Mode for Iptables<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] =
        &[Scheduler::Random, Scheduler::RoundRobin, Scheduler::SourceHash];

    fn observe(&mut self) -> Result<(), Error> {
        let observed =
            self.rules.read(|door| observe::observe(door, &base::LAYOUT)).map_err(Error::Observe)?;
        self.kube_proxy = observed.kube_proxy;
        self.known = Known::Observed(observed);
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, _now: Instant) -> Plan {
        planner::plan(&self.settings, &self.known, want)
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        if !plan.is_empty()
            && let Err(error) = self.restore(&plan)
        {
            self.known = Known::default();
            return Err(error);
        }
        self.known.learn(plan);
        Ok(())
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        self.rules.drift().map_err(Error::Observe)
    }

    fn make_way(&mut self, now: Instant) {
        self.predecessors.make_way(now);
    }

    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Error> {
        // Reading all rules once more takes seconds at 10,000 Services, and most starts are not the first one.
        let here = match self.kube_proxy {
            true => {
                self.rules.forget();
                remove_kube_proxy(self.rules.door())
            }
            false => Ok(()),
        };
        self.kube_proxy &= here.is_err();
        let there = self.predecessors.retire(now).map_err(Error::Leftovers);
        here.map_err(Error::Cleanup).and(there)
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.predecessors.wake()
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.known = Known::default();
        self.rules.forget();
        cleanup::remove_ours(self.rules.door()).map_err(Error::Cleanup)
    }
}
