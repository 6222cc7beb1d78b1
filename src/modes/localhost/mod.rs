//! NodePorts on 127.0.0.1 and ::1, beside any mode: this process listens there and carries the connections.
//!
//! kube-proxy's iptables mode sets `route_localnet` for them, which opened whatever listens on loopback to the neighbours
//! (CVE-2020-8558), and its other modes do without (KEP-6032 proposes what is done here).

mod plan;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::{Drift, Mode, Subject, Tracking, Traffic};
use crate::kernel::alarm::Ring;
use crate::model::{Scheduler, ServicePortName, ServiceTable};
use crate::modes::userspace::served::Edit;

pub use plan::Plan;
pub use ports::{LocalPorts, Services};

use plan::Known;

/// A mode, with NodePorts on loopback.
#[derive(Debug)]
pub struct WithLocalhost<M> {
    mode: M,
    /// `None` where nobody wants them.
    ports: Option<LocalPorts>,
    known: Known,
}

impl<M> WithLocalhost<M> {
    pub fn new(mode: M, ports: Option<LocalPorts>) -> Self {
        WithLocalhost { mode, ports, known: Known::default() }
    }
}

impl<M: Mode> Mode for WithLocalhost<M> {
    type Plan = Plan<M::Plan>;
    type Error = M::Error;

    const SCHEDULERS: &'static [Scheduler] = M::SCHEDULERS;
    const TRACKING: Tracking = M::TRACKING;
    const DRIFT_POLL: Duration = M::DRIFT_POLL;

    fn observe(&mut self) -> Result<(), M::Error> {
        self.mode.observe()
    }

    fn refresh(&mut self, now: Instant) -> Result<(), M::Error> {
        self.mode.refresh(now)
    }

    fn plan(&self, want: &ServiceTable, now: Instant) -> Self::Plan {
        // With the first part of a large load all of them were planned.
        let is_due = self.ports.is_some() && !self.mode.is_halfway();
        let local = if is_due { self.known.plan(want) } else { Edit::default() };
        Plan { of_mode: self.mode.plan(want, now), local }
    }

    fn apply(&mut self, plan: Self::Plan) -> Result<(), M::Error> {
        self.mode.apply(plan.of_mode)?;
        if let Some(ports) = &mut self.ports {
            ports.change(&plan.local);
            self.known.learn(&plan.local);
        }
        Ok(())
    }

    fn is_halfway(&self) -> bool {
        self.mode.is_halfway()
    }

    fn operations(plan: &Self::Plan) -> usize {
        M::operations(&plan.of_mode) + plan.local.len()
    }

    fn operations_by_subject(plan: &Self::Plan) -> BTreeMap<Subject, usize> {
        M::operations_by_subject(&plan.of_mode)
    }

    fn drift(&mut self) -> Result<Drift, M::Error> {
        self.mode.drift()
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.mode.alert(ring)
    }

    fn audit(&mut self) -> Result<Drift, M::Error> {
        self.mode.audit()
    }

    fn make_way(&mut self, now: Instant) {
        self.mode.make_way(now);
    }

    fn retire_predecessors(&mut self, now: Instant) -> Result<(), M::Error> {
        self.mode.retire_predecessors(now)
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.mode.predecessors_wake()
    }

    fn counts_traffic(&self) -> bool {
        self.mode.counts_traffic()
    }

    fn traffic(&mut self, want: &ServiceTable) -> Result<BTreeMap<ServicePortName, Traffic>, M::Error> {
        self.mode.traffic(want)
    }

    fn draining(&self) -> usize {
        self.mode.draining()
    }

    fn wake(&self) -> Option<Instant> {
        self.mode.wake()
    }

    fn cleanup(&mut self) -> Result<(), M::Error> {
        self.mode.cleanup()
    }
}
