//! The data planes. Each folder holds one mode, with the same file names in each.
//!
//! A mode translates a [`ServiceTable`] into what one kernel facility understands. It decides nothing about what a
//! Service means: that was decided when the table was compiled.

pub mod iptables;
pub mod ipvs;
mod leftovers;
pub mod localhost;
pub mod nftables;
mod skeleton;
pub mod userspace;
mod watched;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::kernel::alarm::Ring;
use crate::model::{Scheduler, ServicePortName, ServiceTable};

pub use leftovers::{Leftovers, OtherFlavour, Predecessors, RemovalError};

/// One way of getting Service traffic to endpoints, for one address family. Blocking on purpose: the sync loop is an
/// ordinary thread.
pub trait Mode {
    /// What `apply` will do. Its `Display` is what `ferrovia plan`, golden tests and debug logs show.
    type Plan: fmt::Display;
    type Error: ModeError;

    /// The schedulers that this mode has, its default first.
    const SCHEDULERS: &'static [Scheduler];

    /// How connection tracking sees the flows that this mode carries.
    const TRACKING: Tracking = Tracking::Translated;

    /// How often to look for other writers.
    const DRIFT_POLL: Duration = Duration::from_millis(250);

    /// Reads what this mode has in the kernel. Called first, and again after any failed `apply` or noticed drift.
    fn observe(&mut self) -> Result<(), Self::Error>;

    /// Reads what changes by itself, such as the connections of an endpoint that left. Called before `plan` when `wake` has
    /// come; the next `wake` is later, also after an error.
    fn refresh(&mut self, _now: Instant) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Decides everything. Pure. Looks only at `want.changes()`, or at everything if `observe` came since the last plan.
    fn plan(&self, want: &ServiceTable, now: Instant) -> Self::Plan;

    /// Carries the plan out.
    fn apply(&mut self, plan: Self::Plan) -> Result<(), Self::Error>;

    /// Whether the last plan was a part: the next one, of the same table, goes on.
    fn is_halfway(&self) -> bool {
        false
    }

    /// How much a plan writes or removes: lines, messages, whatever the mode's unit is. 0 for nothing at all.
    fn operations(plan: &Self::Plan) -> usize;

    /// The same, by what is written or removed.
    fn operations_by_subject(plan: &Self::Plan) -> BTreeMap<Subject, usize> {
        [(Subject::Rule, Self::operations(plan))].into()
    }

    /// Whether somebody else may have changed what this mode wrote. Cheap enough to be called every second whatever the
    /// size of the table; a `Suspected` is settled by `observe` and `plan`.
    fn drift(&mut self) -> Result<Drift, Self::Error>;

    /// Has `ring` called, from another thread, when `drift` is worth a call. Modes whose kernel facility tells of nothing
    /// are asked from time to time.
    fn alert(&mut self, _ring: Ring) -> io::Result<()> {
        Ok(())
    }

    /// Whether to read everything again though nobody is suspected, after a long time. A mode that can account for all that
    /// happened since it last read need not.
    fn audit(&mut self) -> Result<Drift, Self::Error> {
        Ok(Drift::Suspected)
    }

    /// Removes what other proxies left that the first rules must not meet. Called before each sync until the first is in.
    fn make_way(&mut self, _now: Instant) {}

    /// Removes what other modes and kube-proxy itself left behind. Called once this mode's own rules are in place, so that
    /// there is no moment without any, again after an error, and when [`predecessors_wake`](Self::predecessors_wake) has come.
    fn retire_predecessors(&mut self, now: Instant) -> Result<(), Self::Error>;

    /// When more of it may go: what connections go on through stays until they end.
    fn predecessors_wake(&self) -> Option<Instant> {
        None
    }

    /// Whether [`traffic`](Self::traffic) has anything to tell.
    fn counts_traffic(&self) -> bool {
        false
    }

    /// What the kernel has counted for each ServicePort of the table that is in force. Its cost grows with their number.
    fn traffic(&mut self, _want: &ServiceTable) -> Result<BTreeMap<ServicePortName, Traffic>, Self::Error> {
        Ok(BTreeMap::new())
    }

    /// How many endpoints left their Service and have connections still.
    fn draining(&self) -> usize {
        0
    }

    /// When `plan` would say something new though nothing changed: a drain ending, a chain now deletable.
    fn wake(&self) -> Option<Instant> {
        None
    }

    /// Removes everything that this mode, in any version, may have created in this family.
    fn cleanup(&mut self) -> Result<(), Self::Error>;
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Of IPVS; its destinations are counted by themselves.
    VirtualServer,
    Destination,
    /// An ipset, or a member of one.
    Set,
    /// By which the node takes packets to virtual addresses, as a route or of a device.
    Address,
    /// Whatever an iptables or nft command would write.
    Rule,
}

impl Subject {
    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Subject::VirtualServer => "virtual server",
            Subject::Destination => "destination",
            Subject::Set => "set",
            Subject::Address => "address",
            Subject::Rule => "rule",
        }
    }
}

/// How connection tracking sees the flows of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// From the frontend to the endpoint. One that is not translated is older than the rules.
    Translated,
    /// To the frontend, as they were sent: they end at this node.
    AsSent,
}

/// Why a mode could not do its work.
pub trait ModeError: Error + Send + Sync + 'static {
    /// The one ServicePort without which the same plan would have gone through, where the error tells.
    fn culprit(&self) -> Option<&ServicePortName> {
        None
    }

    /// Whether any plan would have failed: a lock is held, a program is missing. Only time or the operator helps.
    fn is_transient(&self) -> bool {
        false
    }
}

/// What went through a ServicePort, as far as the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// New ones that were led to an endpoint.
    pub connections: u64,
    /// From clients.
    pub packets_in: u64,
    /// With their IP headers.
    pub bytes_in: u64,
    /// To clients.
    pub packets_out: u64,
    pub bytes_out: u64,
}

/// What a look at the kernel's own change stamps says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    None,
    Suspected,
}
