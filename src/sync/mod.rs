//! From Kubernetes objects to a data plane: one ordinary thread that owns the objects, the tables and the modes.

#[cfg(test)]
pub mod builders;
pub mod compile;
pub mod conntrack;
pub mod objects;
pub mod plane;
pub mod report;
pub mod schedule;
pub mod sources;
pub mod store;

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::kernel::conntrack::Conntrack;
use crate::model::ServiceTable;
use crate::modes::Mode;

use compile::Compiler;
use conntrack::Reconciler;
use objects::Event;
use plane::Plane;
use report::Reporter;
use store::Store;

/// What wakes the loop.
#[derive(Debug)]
pub enum Input {
    Object(Event),
    /// The node's interfaces have these addresses now.
    Addresses(Vec<IpAddr>),
    /// Leave everything as it is and return: rules outlive the process.
    Stop,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Input::Object(event)
    }
}

/// Inputs taken up before the schedule is looked at again.
const BATCH: usize = 4096;

/// A reconcile of tracked flows that failed is tried again after this time.
const FLOWS_RETRY: Duration = Duration::from_secs(1);

/// Owns everything from the objects to the kernel.
pub struct Sync<M: Mode> {
    pub store: Store,
    pub compiler: Compiler,
    /// One table and one path to the kernel per address family, in the same order.
    pub tables: Vec<ServiceTable>,
    pub paths: Vec<Path<M>>,
    pub conntrack: Box<dyn Conntrack>,
    pub reporter: Reporter,
}

/// What carries one family's table into the kernel.
pub struct Path<M: Mode> {
    pub plane: Plane<M>,
    pub flows: Reconciler,
    flows_due: Option<Instant>,
    predecessors_retired: bool,
}

impl<M: Mode> Path<M> {
    pub fn new(plane: Plane<M>) -> Self {
        Path { plane, flows: Reconciler::default(), flows_due: None, predecessors_retired: false }
    }

    fn wake(&self) -> Instant {
        self.flows_due.map_or(self.plane.wake(), |due| due.min(self.plane.wake()))
    }
}

impl<M: Mode> Sync<M> {
    /// Runs until `Stop`, or until all senders are gone.
    pub fn run(&mut self, inputs: &Receiver<Input>) {
        loop {
            // The schedule comes first: a steady stream of events must not starve it.
            self.work();
            match inputs.recv_timeout(self.idle_time()) {
                Ok(input) => {
                    let batch = std::iter::once(input).chain(inputs.try_iter()).take(BATCH);
                    for input in batch {
                        match input {
                            Input::Object(event) => self.take(event),
                            Input::Addresses(addresses) => self.compiler.set_addresses(addresses),
                            Input::Stop => return,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        self.reporter.event(&event);
        self.store.handle(event);
    }

    fn idle_time(&self) -> Duration {
        if !self.store.lists_done() {
            return Duration::from_secs(1);
        }
        let now = Instant::now();
        let wake = self.paths.iter().map(Path::wake).min();
        wake.map_or(Duration::from_secs(1), |wake| wake.saturating_duration_since(now))
    }

    /// Everything that is due now. Nothing is written before every first list is complete, or a restart would wipe the
    /// node's rules (k8s#126468).
    fn work(&mut self) {
        if !self.store.lists_done() {
            return;
        }
        self.recompile();
        for (index, path) in self.paths.iter_mut().enumerate() {
            let table = &mut self.tables[index];
            if let Err(error) = path.plane.tick(table, Instant::now()) {
                self.reporter.drift_unknown(table.family(), &error);
            }
            if path.plane.is_due(Instant::now()) {
                write(path, table, &mut self.reporter);
            }
            if path.flows_due.is_some_and(|due| due <= Instant::now()) {
                clear_stale_flows(path, table, self.conntrack.as_mut(), &mut self.reporter);
            }
        }
    }
}
