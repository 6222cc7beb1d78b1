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

use crate::kernel::iptables::{self as door, Door, Stamp};
use crate::model::{Scheduler, ServicePortName, ServiceTable};
use crate::modes::{Drift, Mode, ModeError};

pub use cleanup::remove_kube_proxy;
pub use plan::{Plan, Refused};
pub use render::{InvalidPackets, MasqueradePorts, Settings};

use plan::Known;

/// The iptables mode for one address family.
#[derive(Debug)]
pub struct Iptables<D> {
    door: D,
    settings: Settings,
    known: Known,
    /// The kernel's when `known` was true of it; `None` when somebody else may have come in between.
    stamp: Option<Stamp>,
    /// Of our chains at that time, once somebody asked for drift.
    fingerprint: Option<u64>,
    /// Whether kube-proxy's chains were there when the rules were last read.
    kube_proxy: bool,
    /// To where an earlier proxy may have left rules: the other flavour.
    other: Option<D>,
}

impl<D: Door> Iptables<D> {
    pub fn new(door: D, settings: Settings) -> Self {
        Iptables {
            door,
            settings,
            known: Known::default(),
            stamp: None,
            fingerprint: None,
            kube_proxy: false,
            other: None,
        }
    }

    /// A node whose rules are in one flavour must have none in the other: both are asked for each packet, and the first
    /// to translate it wins, with endpoints of long ago (k8s#71305).
    pub fn in_place_of(self, other: Option<D>) -> Self {
        Iptables { other, ..self }
    }

    /// The door to the same rules, for what is not this mode's own.
    pub fn door(&mut self) -> &mut D {
        &mut self.door
    }

    fn restore(&mut self, plan: &Plan) -> Result<(), Error> {
        let before = self.door.stamp().map_err(Error::Observe)?;
        let undisturbed = self.is_as_known(&before)?;
        if let Err(source) = self.door.restore(plan) {
            let refused = self.refused(plan, &source).map(Box::new);
            return Err(Error::Restore { refused, source });
        }
        let after = self.door.stamp().map_err(Error::Observe)?;
        let alone = undisturbed && (!after.is_others_alone() || after == before);
        self.stamp = alone.then_some(after);
        self.fingerprint = None;
        Ok(())
    }

    /// Whether nothing of ours changed though the stamp may have: in nft it counts transactions on anything.
    fn is_as_known(&mut self, now: &Stamp) -> Result<bool, Error> {
        if self.stamp.as_ref() == Some(now) {
            return Ok(true);
        }
        if self.stamp.is_none() || self.fingerprint.is_none() {
            return Ok(false);
        }
        let same = self.door.fingerprint(&is_ours).map_err(Error::Observe)? == self.fingerprint;
        if same {
            self.stamp = Some(now.clone());
        }
        Ok(same)
    }

    fn refused(&mut self, plan: &Plan, error: &door::Error) -> Option<Refused> {
        let mut refused = plan.refused(error.line()?)?;
        if refused.line == "COMMIT" {
            refused.culprit = isolate::culprit(&mut self.door, plan).cloned();
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
        }
    }
}

impl<D: Door> Mode for Iptables<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] =
        &[Scheduler::Random, Scheduler::RoundRobin, Scheduler::SourceHash];

    fn observe(&mut self) -> Result<(), Error> {
        // First the stamp: what changes while we read then counts as drift.
        let stamp = self.door.stamp().map_err(Error::Observe)?;
        let observed = observe::observe(&mut self.door).map_err(Error::Observe)?;
        self.kube_proxy = observed.kube_proxy;
        self.known = Known::Observed(observed);
        self.stamp = Some(stamp);
        self.fingerprint = None;
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
            self.stamp = None;
            return Err(error);
        }
        self.known.learn(plan);
        Ok(())
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        let now = self.door.stamp().map_err(Error::Observe)?;
        if !self.is_as_known(&now)? {
            return Ok(Drift::Suspected);
        }
        if self.fingerprint.is_none() {
            let fingerprint = self.door.fingerprint(&is_ours).map_err(Error::Observe)?;
            // Only if it is of the time of the stamp.
            let still = self.door.stamp().map_err(Error::Observe)? == now;
            self.fingerprint = fingerprint.filter(|_| still);
        }
        Ok(Drift::None)
    }

    fn retire_predecessors(&mut self) -> Result<(), Error> {
        // Reading all rules once more takes seconds at 10,000 Services, and most starts are not the first one.
        let here = match std::mem::take(&mut self.kube_proxy) {
            true => {
                self.stamp = None;
                remove_kube_proxy(&mut self.door)
            }
            false => Ok(()),
        };
        let there = match &mut self.other {
            Some(other) => cleanup::remove_ours(other).and(remove_kube_proxy(other)),
            None => Ok(()),
        };
        here.and(there).map_err(Error::Cleanup)
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.known = Known::default();
        self.stamp = None;
        cleanup::remove_ours(&mut self.door).map_err(Error::Cleanup)
    }
}
