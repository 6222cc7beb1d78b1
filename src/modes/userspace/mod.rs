//! The userspace mode: this process carries the connections. `README.md` shows the packet's way.

pub mod balancer;
pub mod capture;
mod collector;
mod engine;
mod error;
pub mod figures;
pub mod frontends;
pub mod handover;
mod plan;
pub(super) mod served;
pub mod sockets;
mod splice;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::alarm::Ring;
use crate::kernel::local_delivery::{DeliveryError, KernelDelivery, LocalDelivery};
use crate::model::{Family, Scheduler, ServiceTable};
use crate::modes::{Drift, Leftovers, Mode, Predecessors, RemovalError, Tracking};

pub use capture::Capture;
pub use capture::iptables::{ByIptables, LeftRules};
pub use capture::nftables::ByNftables;
pub use collector::Figures;
pub use engine::{Engine, EngineError, Limits, LoopbackListener, Source};
pub use error::Error;
pub use frontends::Frontends;
pub use plan::Plan;
pub use sockets::{Listeners, Ports};

use handover::Turn;
use plan::Delivery;
use served::Served;

/// What the operator chose, and where this process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark by which packets are delivered to this process.
    pub mark: u32,
    pub ports: Listeners,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { mark: 0x4000, ports: Listeners::default() }
    }
}

/// How much a plan looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Changes,
}

/// The userspace mode for one address family.
#[derive(Debug)]
pub struct Userspace<C> {
    family: Family,
    capture: C,
    delivery: Box<dyn LocalDelivery>,
    frontends: Arc<Frontends>,
    is_delivered: Delivery,
    /// What the listeners were told.
    served: Served,
    scope: Scope,
    turn: Arc<Turn>,
    predecessors: Predecessors,
    /// When to look whether the process before this one writes no more.
    look_again: Option<Instant>,
}

impl<C: Capture> Userspace<C> {
    /// `frontends` is what the listeners ask.
    pub fn new(
        family: Family,
        capture: C,
        delivery: Box<dyn LocalDelivery>,
        frontends: Arc<Frontends>,
    ) -> Self {
        Userspace {
            family,
            capture,
            delivery,
            frontends,
            is_delivered: Delivery::Missing,
            served: Served::default(),
            scope: Scope::Everything,
            turn: Arc::default(),
            predecessors: Predecessors::default(),
            look_again: None,
        }
    }

    /// Beside processes that captured before, or will.
    pub fn in_turn(self, turn: Arc<Turn>) -> Self {
        Userspace { turn, ..self }
    }

    /// With what goes once its own rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Userspace { predecessors: Predecessors::new(leftovers), ..self }
    }
}

/// The whole of what a kernel without our table needs: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    with_the_rest(capture::nftables::render(settings, table), table)
}

/// The same by iptables and sets.
pub fn render_for_iptables(settings: &Settings, table: &ServiceTable) -> String {
    with_the_rest(capture::iptables::render(settings, table), table)
}

fn with_the_rest(capture: impl fmt::Display, table: &ServiceTable) -> String {
    let edit = plan::served(&Served::default(), Scope::Everything, table);
    Plan { capture, delivery: Delivery::Missing, edit }.to_string()
}

impl<C: Capture> Mode for Userspace<C> {
    type Plan = Plan<C::Plan>;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] = balancer::SCHEDULERS;
    const TRACKING: Tracking = Tracking::AsSent;

    fn observe(&mut self) -> Result<(), Error> {
        self.capture.observe()?;
        let is_set_up = self.delivery.is_set_up()?;
        self.is_delivered = if is_set_up { Delivery::SetUp } else { Delivery::Missing };
        self.scope = Scope::Everything;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, _now: Instant) -> Self::Plan {
        let edit = plan::served(&self.served, self.scope, want);
        Plan { capture: self.capture.plan(want, self.scope), delivery: self.is_delivered, edit }
    }

    fn apply(&mut self, plan: Self::Plan) -> Result<(), Error> {
        if self.turn.is_over() {
            return Ok(());
        }
        let Plan { capture, delivery, edit } = plan;
        self.frontends.tell(self.family, &edit);
        if delivery == Delivery::Missing {
            self.delivery.set_up()?;
            self.is_delivered = Delivery::SetUp;
        }
        self.capture.apply(capture)?;
        self.frontends.forget(self.family, &edit.removed);
        self.frontends.open(self.family);
        self.served.learn(&edit);
        self.scope = Scope::Changes;
        Ok(())
    }

    fn operations(plan: &Self::Plan) -> usize {
        C::operations(&plan.capture) + plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        if self.turn.is_over() {
            return Ok(Drift::None);
        }
        if !self.delivery.is_set_up()? {
            return Ok(Drift::Suspected);
        }
        self.capture.drift()
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.capture.alert(ring)
    }

    fn audit(&mut self) -> Result<Drift, Error> {
        Ok(if self.turn.is_over() { Drift::None } else { Drift::Suspected })
    }

    /// Both ways to capture lead to the same sockets: nothing is missed while both are there.
    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Error> {
        if self.turn.is_over() {
            return Ok(());
        }
        self.look_again = self.turn.has_predecessor().then(|| now + LOOK_AGAIN);
        match self.look_again {
            Some(_) => Ok(()),
            None => self.predecessors.retire(now).map_err(Error::Leftovers),
        }
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.look_again.or_else(|| self.predecessors.wake())
    }

    fn draining(&self) -> usize {
        self.frontends.draining(self.family)
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.scope = Scope::Everything;
        self.capture.cleanup()?;
        Ok(self.delivery.remove()?)
    }
}

/// How often to look whether the process before this one writes no more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a process that was told to end waits for its connections.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The local delivery that this mode leaves in a kernel where another mode works now. Its table goes with that of the
/// nftables mode, whose name it has.
#[derive(Debug)]
pub struct LeftDelivery(pub Family);

impl Leftovers for LeftDelivery {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        let removed = KernelDelivery::open(self.0, 0).and_then(|mut delivery| delivery.remove());
        removed.map_err(|error: DeliveryError| error.into())
    }

    /// Packets with the same mark are to be masqueraded in other modes, not delivered here.
    fn is_in_the_way(&self) -> bool {
        true
    }
}
