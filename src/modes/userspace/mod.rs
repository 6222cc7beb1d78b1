//! The userspace mode: this process carries the connections. `README.md` shows the packet's way.

pub mod balancer;
pub(super) mod base;
mod capture;
mod collector;
mod engine;
mod error;
pub mod figures;
pub mod frontends;
mod names;
mod observe;
mod plan;
pub(super) mod served;
pub mod sockets;
mod splice;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::alarm::Ring;
use crate::kernel::local_delivery::{DeliveryError, KernelDelivery, LocalDelivery};
use crate::kernel::nftables as door;
use crate::model::{Family, Scheduler, ServiceTable};
use crate::modes::nftables::Watch;
use crate::modes::nftables::cleanup;
use crate::modes::nftables::names::table as table_of;
use crate::modes::{Drift, Leftovers, Mode, Predecessors, RemovalError, Tracking};

pub use collector::Figures;
pub use engine::{Engine, EngineError, Limits, Source};
pub use error::Error;
pub use frontends::Frontends;
pub use plan::Plan;
pub use sockets::{Listeners, Ports};

use base::Style;
use observe::{Held, Presence};
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
enum Scope {
    Everything,
    Changes,
}

/// What is known of the kernel and of the listeners.
#[derive(Debug)]
struct Known {
    held: Held,
    delivery: Delivery,
    served: Served,
}

impl Default for Known {
    fn default() -> Self {
        Known { held: Held::default(), delivery: Delivery::Missing, served: Served::default() }
    }
}

/// The userspace mode for one address family.
#[derive(Debug)]
pub struct Userspace<D> {
    family: Family,
    door: D,
    watch: Box<dyn Watch>,
    delivery: Box<dyn LocalDelivery>,
    frontends: Arc<Frontends>,
    settings: Settings,
    known: Known,
    /// Of the last plan that was carried out.
    style: Option<Style>,
    scope: Scope,
    predecessors: Predecessors,
}

impl<D: door::Nftables> Userspace<D> {
    /// `frontends` is what the listeners ask; `watch` tells of what others do to the table.
    pub fn new(
        family: Family,
        door: D,
        watch: Box<dyn Watch>,
        delivery: Box<dyn LocalDelivery>,
        frontends: Arc<Frontends>,
        settings: Settings,
    ) -> Self {
        Userspace {
            family,
            door,
            watch,
            delivery,
            frontends,
            settings,
            known: Known::default(),
            style: None,
            scope: Scope::Everything,
            predecessors: Predecessors::default(),
        }
    }

    /// With what goes once its own rules are in place.
    pub fn in_place_of(self, leftovers: Vec<Box<dyn Leftovers>>) -> Self {
        Userspace { predecessors: Predecessors::new(leftovers), ..self }
    }
}

/// The whole of what a kernel without our table needs: what goldens hold and `ferrovia plan` prints.
pub fn render(settings: &Settings, table: &ServiceTable) -> String {
    plan::plan(settings, &Known::default(), Scope::Everything, table).to_string()
}

impl<D: door::Nftables> Mode for Userspace<D> {
    type Plan = Plan;
    type Error = Error;

    const SCHEDULERS: &'static [Scheduler] = balancer::SCHEDULERS;
    const TRACKING: Tracking = Tracking::AsSent;

    fn observe(&mut self) -> Result<(), Error> {
        // What others do while we read counts as drift.
        self.watch.disturbed()?;
        // An earlier process listened elsewhere, so that its rules are never right.
        let nothing = Style::new(&self.settings, &ServiceTable::new(self.family));
        let style = self.style.as_ref().unwrap_or(&nothing);
        self.known.held = observe::observe(&mut self.door, self.family, style)?;
        let is_set_up = self.delivery.is_set_up()?;
        self.known.delivery = if is_set_up { Delivery::SetUp } else { Delivery::Missing };
        self.scope = Scope::Everything;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, _now: Instant) -> Plan {
        plan::plan(&self.settings, &self.known, self.scope, want)
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        self.frontends.tell(self.family, &plan.edit);
        if plan.delivery == Delivery::Missing {
            self.delivery.set_up()?;
            self.known.delivery = Delivery::SetUp;
        }
        self.door.commit(&plan.transaction).map_err(Error::Apply)?;
        self.style = Some(plan.style.clone());
        self.frontends.forget(self.family, &plan.edit.removed);
        self.known.served.learn(&plan.edit);
        plan.learn(&mut self.known.held);
        self.scope = Scope::Changes;
        Ok(())
    }

    fn operations(plan: &Plan) -> usize {
        plan.operations()
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        let disturbed = self.watch.disturbed()? || !self.delivery.is_set_up()?;
        Ok(if disturbed { Drift::Suspected } else { Drift::None })
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.watch.alert(ring)
    }

    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Error> {
        self.predecessors.retire(now).map_err(Error::Leftovers)
    }

    fn predecessors_wake(&self) -> Option<Instant> {
        self.predecessors.wake()
    }

    fn draining(&self) -> usize {
        self.frontends.draining(self.family)
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.known.held = Held { table: Presence::Absent, ..Held::default() };
        self.scope = Scope::Everything;
        cleanup::delete(&mut self.door, &table_of(self.family)).map_err(Error::Cleanup)?;
        Ok(self.delivery.remove()?)
    }
}

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
}
