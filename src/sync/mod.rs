//! From Kubernetes objects to a data plane: one ordinary thread that owns the objects, the tables and the modes.

#[cfg(test)]
pub mod builders;
pub mod compile;
pub mod conntrack;
pub mod objects;
pub mod plane;
mod predecessors;
pub mod report;
pub mod schedule;
pub mod sources;
pub mod store;

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::kernel::conntrack::Conntrack;
use crate::model::{Family, ServiceTable};
use crate::modes::Mode;

use compile::Compiler;
use conntrack::Reconciler;
use objects::Event;
use plane::Plane;
use predecessors::Predecessors;
use report::Reporter;
use store::Store;

/// What wakes the loop.
#[derive(Debug)]
pub enum Input {
    Object(Event),
    /// The node's interfaces have these addresses now.
    Addresses(Vec<IpAddr>),
    /// Somebody may have changed what was written.
    Drift,
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

/// Between two looks at the inputs while the first lists come in: nothing is done before they are complete, and to be woken
/// for each of many thousand objects costs more than to take them up.
const LISTS_PAUSE: Duration = Duration::from_millis(5);

/// Between two looks at what the kernel counted for Services, and how much of the time these may take.
const TRAFFIC_PAUSE: Duration = Duration::from_secs(5);
const TRAFFIC_SHARE: u32 = 50;

/// Between two looks at the tracked flows, also after one that failed.
const FLOWS_PAUSE: Duration = Duration::from_secs(1);

/// Tables compiled from objects that do not change any more, and what is wrong with the objects.
pub struct Compiled {
    pub tables: Vec<ServiceTable>,
    pub problems: Vec<compile::Problem>,
}

/// The way from objects to tables without a loop, a kernel or a clock.
pub fn compile_once(events: impl IntoIterator<Item = Event>, settings: compile::Settings) -> Compiled {
    let mut store = Store::new(settings.node_name.clone(), SystemTime::UNIX_EPOCH);
    events.into_iter().for_each(|event| store.handle(event));
    let mut compiler = Compiler::new(settings);
    let mut tables = Family::ALL.map(ServiceTable::new);
    if let Some(node) = store.node() {
        compiler.set_addresses(node.addresses.to_vec());
    }
    let changed = store.take_changed();
    let problems = compiler.recompile(&store, &changed, &mut tables);
    Compiled { tables: tables.into(), problems }
}

/// Owns everything from the objects to the kernel.
pub struct Sync<M: Mode> {
    store: Store,
    compiler: Compiler,
    /// One table and one path into the kernel per address family, in the same order.
    tables: Vec<ServiceTable>,
    paths: Vec<Path<M>>,
    conntrack: Box<dyn Conntrack>,
    reporter: Reporter,
    addresses_changed: bool,
}

/// What carries one family's table into the kernel.
struct Path<M: Mode> {
    plane: Plane<M>,
    flows: Reconciler,
    /// When to look for stale flows; `None` while none can be there.
    flows_due: Option<Instant>,
    /// When the changes that are on their way were made, as far as their authors tell.
    triggers: Vec<SystemTime>,
    predecessors: Predecessors,
    /// When to read what the kernel counted; `None` where nothing is counted, and before the first sync.
    traffic_due: Option<Instant>,
}

impl<M: Mode> Sync<M> {
    pub fn new(
        store: Store,
        compiler: Compiler,
        planes: impl IntoIterator<Item = (ServiceTable, Plane<M>)>,
        conntrack: Box<dyn Conntrack>,
        reporter: Reporter,
    ) -> Self {
        let (tables, paths) = planes
            .into_iter()
            .map(|(table, plane)| {
                let flows = Reconciler::of(M::TRACKING);
                let predecessors = Predecessors::default();
                let (flows_due, traffic_due) = (None, None);
                (table, Path { plane, flows, flows_due, triggers: Vec::new(), predecessors, traffic_due })
            })
            .unzip();
        Sync { store, compiler, tables, paths, conntrack, reporter, addresses_changed: true }
    }

    /// Runs until `Stop`, or until all senders are gone.
    pub fn run(&mut self, inputs: &Receiver<Input>) {
        loop {
            // The schedule comes first: a steady stream of events must not starve it.
            self.work();
            match inputs.recv_timeout(self.idle_time()) {
                Ok(first) => {
                    for input in std::iter::once(first).chain(inputs.try_iter()).take(BATCH) {
                        match input {
                            Input::Object(event) => self.take(event),
                            Input::Addresses(addresses) => self.set_addresses(addresses),
                            Input::Drift => self.look(),
                            Input::Stop => return,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.store.lists_done() {
                thread::sleep(LISTS_PAUSE);
            }
        }
    }

    fn take(&mut self, event: Event) {
        self.reporter.heard(&event);
        self.store.handle(event);
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.paths.iter_mut().for_each(|path| path.plane.look(now));
    }

    fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.compiler.set_addresses(addresses);
        self.addresses_changed = true;
    }

    fn idle_time(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(1);
        if !self.store.lists_done() {
            return LONGEST;
        }
        let now = Instant::now();
        let wakes = self.paths.iter().flat_map(Path::wakes);
        wakes.min().map_or(LONGEST, |wake| wake.saturating_duration_since(now).min(LONGEST))
    }

    /// Everything that is due now. Nothing is written before every first list is complete, or a restart would wipe the
    /// node's rules (k8s#126468).
    fn work(&mut self) {
        if !self.store.lists_done() {
            return;
        }
        self.recompile();
        for (path, table) in self.paths.iter_mut().zip(&mut self.tables) {
            path.sync(table, &self.reporter);
        }
        // What can wait for one family does not keep the other's rules back.
        for (path, table) in self.paths.iter_mut().zip(&self.tables) {
            path.follow_up(table, self.conntrack.as_mut(), &self.reporter);
        }
    }

    fn recompile(&mut self) {
        let changed = self.store.take_changed();
        if changed.is_empty() && !std::mem::take(&mut self.addresses_changed) {
            return;
        }
        self.addresses_changed = false;
        let started = Instant::now();
        let problems = self.compiler.recompile(&self.store, &changed, &mut self.tables);
        let triggers: Vec<_> = self.store.take_triggers().into_values().flatten().collect();
        let now = Instant::now();
        for (path, table) in self.paths.iter_mut().zip(&self.tables) {
            path.triggers.extend(&triggers);
            if !table.is_settled() {
                path.plane.request(now);
                self.reporter.queued(table.family(), now);
            }
        }
        self.reporter.compiled(now - started, &problems, &self.compiler, &self.store);
        self.reporter.health_checks(&self.tables);
    }
}

impl<M: Mode> Path<M> {
    fn wakes(&self) -> impl Iterator<Item = Instant> {
        [Some(self.plane.wake()), self.flows_due, self.predecessors.due(), self.traffic_due]
            .into_iter()
            .flatten()
    }

    fn sync(&mut self, table: &mut ServiceTable, reporter: &Reporter) {
        if let Err(error) = self.plane.tick(table, Instant::now()) {
            reporter.drift_unknown(table.family(), &error);
        }
        if self.plane.is_due(Instant::now()) {
            self.write(table, reporter);
        }
        // At once: as long as both are in the kernel, one may mark or capture what the other translates.
        if self.predecessors.due().is_some_and(|due| due <= Instant::now()) {
            self.retire_predecessors(table.family(), reporter);
        }
    }

    fn follow_up(&mut self, table: &ServiceTable, conntrack: &mut dyn Conntrack, reporter: &Reporter) {
        if self.traffic_due.is_some_and(|due| due <= Instant::now()) {
            self.read_traffic(table, reporter);
        }
        if self.flows_due.is_some_and(|due| due <= Instant::now()) {
            self.clear_stale_flows(table, conntrack, reporter);
        }
    }

    fn write(&mut self, table: &mut ServiceTable, reporter: &Reporter) {
        let started = Instant::now();
        self.flows.note(table);
        if self.predecessors.are_untouched() {
            self.plane.mode.make_way(started);
        }
        match self.plane.sync(table, Instant::now) {
            Ok(report) => {
                reporter.synced(table, &report, started.elapsed(), &std::mem::take(&mut self.triggers));
                // Rules first, then cleaning: a flow cleared before would come back by the old rules.
                if self.flows.is_due() {
                    self.flows_due = Some(Instant::now());
                }
                if self.traffic_due.is_none() && self.plane.mode.counts_traffic() {
                    self.traffic_due = Some(Instant::now());
                }
                self.predecessors.replaced(Instant::now());
            }
            Err(error) => reporter.failed(table.family(), &error),
        }
    }

    fn retire_predecessors(&mut self, family: Family, reporter: &Reporter) {
        let mode = &mut self.plane.mode;
        let retire = || {
            let result = mode.retire_predecessors(Instant::now());
            (result, mode.predecessors_wake())
        };
        let news = self.predecessors.attempt(retire, Instant::now);
        reporter.predecessors(family, news);
    }

    fn read_traffic(&mut self, table: &ServiceTable, reporter: &Reporter) {
        let started = Instant::now();
        let read = self.plane.mode.traffic(table);
        reporter.traffic(table.family(), read);
        let now = Instant::now();
        self.traffic_due = Some(now + TRAFFIC_PAUSE.max((now - started) * TRAFFIC_SHARE));
    }

    fn clear_stale_flows(
        &mut self,
        table: &ServiceTable,
        conntrack: &mut dyn Conntrack,
        reporter: &Reporter,
    ) {
        let started = Instant::now();
        let result = self.flows.reconcile(table, conntrack);
        self.flows_due = self.flows.is_due().then(|| Instant::now() + FLOWS_PAUSE);
        reporter.flows(table.family(), started.elapsed(), &result);
    }
}
