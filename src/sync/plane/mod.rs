//! One address family's data plane: carries its table's changes out, retries, isolates what the kernel refuses, and
//! notices when somebody else changes what it wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{ServicePort, ServicePortName, ServiceTable};
use crate::modes::{Drift, Mode, ModeError};

use super::schedule::{Bounds, Schedule};

/// After a look that failed: the audits go on meanwhile.
const DRIFT_RETRY: Duration = Duration::from_secs(30);

/// Reading back the whole state may take this part of the time at most, whatever wakes it: an audit that took 1 s is
/// not followed by another for 20 s.
const AUDIT_SHARE: u32 = 20;

/// A ServicePort that the kernel refused is tried again after this time, or when it changes.
const QUARANTINE: Duration = Duration::from_secs(600);

/// A [`Mode`] for one family with all that decides when it runs.
pub struct Plane<M: Mode> {
    pub mode: M,
    schedule: Schedule,
    audit_period: Duration,
    knowledge: Knowledge,
    next_drift_poll: Instant,
    next_audit: Instant,
    /// An audit is not worth its cost before this time.
    earliest_audit: Instant,
    quarantine: BTreeMap<ServicePortName, Quarantined>,
    quarantine_ends: Option<Instant>,
}

/// What is known about the kernel's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// Nothing was read yet, or a write failed half way.
    Nothing,
    /// It was as planned, but somebody else may have written since, or it is time to look again.
    Doubtful,
    /// It is as planned.
    Certain,
}

struct Quarantined {
    port: Arc<ServicePort>,
}

/// What one sync did.
#[derive(Debug, Default)]
pub struct Report {
    pub observe: Option<Duration>,
    pub plan: Duration,
    pub apply: Duration,
    /// The plan's text, where debug logging asked for it and something was done.
    pub text: Option<String>,
    /// What the plan wrote, in the mode's own unit.
    pub operations: usize,
    /// Endpoints that left and have connections still.
    pub draining: usize,
    pub wrote: bool,
    /// The kernel was not as it was left.
    pub repaired: bool,
    /// ServicePorts that the kernel refused, with its words.
    pub refused: Vec<(ServicePortName, String)>,
}

impl<M: Mode> Plane<M> {
    pub fn new(mode: M, bounds: Bounds, audit_period: Duration, now: Instant) -> Self {
        let mut schedule = Schedule::new(bounds);
        schedule.request(now);
        Plane {
            mode,
            schedule,
            audit_period,
            knowledge: Knowledge::Nothing,
            next_drift_poll: now + M::DRIFT_POLL,
            next_audit: now + audit_period,
            earliest_audit: now,
            quarantine: BTreeMap::new(),
            quarantine_ends: None,
        }
    }

    /// When to call [`tick`](Self::tick) or [`sync`](Self::sync) next.
    pub fn wake(&self) -> Instant {
        // Once a sync is due, the mode's own time has nothing to add; one in the past must not spin until a retry.
        let work = self.schedule.due().or_else(|| self.mode.wake());
        let timers = [Some(self.next_drift_poll), Some(self.next_audit), work];
        timers.into_iter().flatten().min().unwrap_or(self.next_audit)
    }

    pub fn request(&mut self, now: Instant) {
        self.schedule.request(now);
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.schedule.is_due(now)
    }

    /// Whether what the kernel holds is believed to be what was last planned.
    pub fn is_certain(&self) -> bool {
        self.knowledge == Knowledge::Certain
    }

    pub fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// Looks at what time brings: drift, the periodic audit, what the mode waits for, quarantines that end.
    pub fn tick(&mut self, table: &mut ServiceTable, now: Instant) -> Result<(), M::Error> {
        if self.schedule.due().is_none() && self.mode.wake().is_some_and(|wake| wake <= now) {
            self.schedule.request(now);
        }
        if self.quarantine_ends.is_some_and(|end| end <= now) {
            self.release_quarantine(table, now);
        }
        if self.next_audit <= now {
            self.audit(now)?;
        }
        if self.next_drift_poll <= now {
            self.next_drift_poll = now + M::DRIFT_POLL;
            if self.knowledge == Knowledge::Certain && self.earliest_audit <= now {
                match self.mode.drift() {
                    Ok(Drift::None) => {}
                    Ok(Drift::Suspected) => self.doubt(now),
                    Err(error) => {
                        self.next_drift_poll = now + DRIFT_RETRY;
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Somebody may have changed what the kernel holds.
    pub fn look(&mut self, now: Instant) {
        self.next_drift_poll = now.max(self.earliest_audit);
    }

    fn audit(&mut self, now: Instant) -> Result<(), M::Error> {
        self.next_audit = now + self.audit_period;
        if self.knowledge != Knowledge::Certain || self.mode.audit()? == Drift::Suspected {
            self.doubt(now);
        }
        Ok(())
    }

    fn doubt(&mut self, now: Instant) {
        self.next_audit = now + self.audit_period;
        if self.knowledge == Knowledge::Certain {
            self.knowledge = Knowledge::Doubtful;
        }
        self.schedule.request(now);
    }

    /// Carries the table's changes out. After an error nothing is lost: the next sync reads the kernel and does all of it.
    pub fn sync(
        &mut self,
        table: &mut ServiceTable,
        clock: impl Fn() -> Instant,
    ) -> Result<Report, M::Error> {
        let started = clock();
        self.hold_back_quarantined(table);
        let result = match self.attempt(table, &clock) {
            Err(error) if !error.is_transient() => self.isolate(table, error, &clock),
            result => result,
        };
        match &result {
            Ok(_) => self.schedule.succeeded(started, clock()),
            Err(_) => self.schedule.failed(started, clock()),
        }
        result
    }

    fn attempt(
        &mut self,
        table: &mut ServiceTable,
        clock: &impl Fn() -> Instant,
    ) -> Result<Report, M::Error> {
        let mut report = Report::default();
        let doubted = self.knowledge == Knowledge::Doubtful;
        let changed = !table.is_settled();
        if self.knowledge != Knowledge::Certain {
            report.observe = Some(self.observe(table, clock)?);
        }
        if self.mode.wake().is_some_and(|wake| wake <= clock()) {
            self.mode.refresh(clock())?;
        }
        self.carry_out(table, &mut report, clock)?;
        while self.mode.is_halfway() {
            self.carry_out(table, &mut report, clock)?;
        }
        report.wrote = report.operations > 0;
        report.repaired = doubted && !changed && report.wrote;
        report.draining = self.mode.draining();
        self.knowledge = Knowledge::Certain;
        table.settle();
        Ok(report)
    }

    fn carry_out(
        &mut self,
        table: &ServiceTable,
        report: &mut Report,
        clock: &impl Fn() -> Instant,
    ) -> Result<(), M::Error> {
        let planning = clock();
        let plan = self.mode.plan(table, planning);
        report.plan += clock() - planning;
        let operations = M::operations(&plan);
        report.operations += operations;
        if operations > 0 && tracing::enabled!(tracing::Level::TRACE) {
            *report.text.get_or_insert_default() += &plan.to_string();
        }
        self.knowledge = Knowledge::Nothing;
        let applying = clock();
        self.mode.apply(plan)?;
        report.apply += clock() - applying;
        Ok(())
    }

    fn observe(
        &mut self,
        table: &mut ServiceTable,
        clock: &impl Fn() -> Instant,
    ) -> Result<Duration, M::Error> {
        let started = clock();
        self.mode.observe()?;
        table.unsettle();
        let now = clock();
        let cost = now - started;
        self.next_audit = now + self.audit_period.max(cost * AUDIT_SHARE);
        self.earliest_audit = now + cost * AUDIT_SHARE;
        Ok(cost)
    }

    /// Finds the ServicePorts without which the plan goes through and sets them aside, so that one of them never holds
    /// up the others (k8s#139515). The error names the culprit where the kernel tells; otherwise groups are halved.
    fn isolate(
        &mut self,
        table: &mut ServiceTable,
        error: M::Error,
        clock: &impl Fn() -> Instant,
    ) -> Result<Report, M::Error> {
        if let Some(culprit) = error.culprit().cloned() {
            return self.without_culprit(table, culprit, error, clock);
        }
        let suspects = suspects(table);
        if suspects.is_empty() {
            return Err(error);
        }
        suspects.iter().for_each(|suspect| suspect.withhold(table));
        if let Err(still) = self.attempt(table, clock) {
            // The changes are not the reason: put them back and try all of it again later.
            suspects.iter().for_each(|suspect| suspect.release(table));
            return Err(still);
        }
        self.bisect(table, suspects, clock)
    }

    fn without_culprit(
        &mut self,
        table: &mut ServiceTable,
        mut culprit: ServicePortName,
        mut error: M::Error,
        clock: &impl Fn() -> Instant,
    ) -> Result<Report, M::Error> {
        let mut refused = Vec::new();
        loop {
            let Some(port) = table.get(&culprit).cloned() else { return Err(error) };
            let before = table.touched().and_then(|touched| touched.get(&culprit)?.before.clone());
            put(table, &culprit, before.filter(|before| *before != port).as_ref());
            self.set_aside(port, clock());
            refused.push((culprit, error.to_string()));
            match self.attempt(table, clock) {
                Ok(report) => return Ok(Report { refused, ..report }),
                Err(next) => match next.culprit().cloned() {
                    Some(name) => (culprit, error) = (name, next),
                    None => return Err(next),
                },
            }
        }
    }

    /// Releases the suspects in groups; a group that fails is withheld again and halved until one is left.
    fn bisect(
        &mut self,
        table: &mut ServiceTable,
        suspects: Vec<Suspect>,
        clock: &impl Fn() -> Instant,
    ) -> Result<Report, M::Error> {
        let mut report = Report::default();
        let mut groups = vec![suspects];
        while let Some(mut group) = groups.pop() {
            group.iter().for_each(|suspect| suspect.release(table));
            match self.attempt(table, clock) {
                Ok(done) => report = Report { refused: std::mem::take(&mut report.refused), ..done },
                Err(error) => {
                    group.iter().for_each(|suspect| suspect.withhold(table));
                    if group.len() == 1 {
                        if let Some(port) = group.remove(0).wanted {
                            report.refused.push((port.name.clone(), error.to_string()));
                            self.set_aside(port, clock());
                        }
                    } else {
                        let half = group.split_off(group.len() / 2);
                        groups.extend([half, group]);
                    }
                }
            }
        }
        // The last group may have failed: leave the kernel as it is without it.
        self.attempt(table, clock).map(|last| Report { refused: report.refused, ..last })
    }

    fn set_aside(&mut self, port: Arc<ServicePort>, now: Instant) {
        self.quarantine_ends = Some(now + QUARANTINE);
        self.quarantine.insert(port.name.clone(), Quarantined { port });
    }

    /// A recompile puts a quarantined ServicePort into the table again; unless it changed, it stays out.
    fn hold_back_quarantined(&mut self, table: &mut ServiceTable) {
        self.quarantine.retain(|name, quarantined| match table.get(name) {
            Some(port) if **port == *quarantined.port => {
                table.remove(name);
                true
            }
            Some(_) => false,
            None => true,
        });
    }

    fn release_quarantine(&mut self, table: &mut ServiceTable, now: Instant) {
        self.quarantine_ends = None;
        for (_, quarantined) in std::mem::take(&mut self.quarantine) {
            table.set(ServicePort::clone(&quarantined.port));
        }
        self.schedule.request(now);
    }

    /// The objects that a quarantined ServicePort came from are gone.
    pub fn forget_quarantined(&mut self, gone: impl Fn(&ServicePortName) -> bool) {
        self.quarantine.retain(|name, _| !gone(name));
    }
}

/// A changed ServicePort that may be the one that the kernel refuses.
struct Suspect {
    name: ServicePortName,
    before: Option<Arc<ServicePort>>,
    wanted: Option<Arc<ServicePort>>,
}

impl Suspect {
    fn release(&self, table: &mut ServiceTable) {
        put(table, &self.name, self.wanted.as_ref());
    }

    fn withhold(&self, table: &mut ServiceTable) {
        put(table, &self.name, self.before.as_ref());
    }
}

/// The ServicePorts that changed since the kernel last took all of the table. Before it ever did, that is all of them,
/// and what an earlier process left of them goes while the culprit is searched.
fn suspects(table: &ServiceTable) -> Vec<Suspect> {
    match table.touched() {
        Some(touched) => touched
            .iter()
            .map(|(name, change)| Suspect {
                name: name.clone(),
                before: change.before.clone(),
                wanted: table.get(name).cloned(),
            })
            .collect(),
        None => table
            .ports()
            .map(|port| Suspect { name: port.name.clone(), before: None, wanted: Some(Arc::clone(port)) })
            .collect(),
    }
}

fn put(table: &mut ServiceTable, name: &ServicePortName, port: Option<&Arc<ServicePort>>) {
    match port {
        Some(port) => table.set(ServicePort::clone(port)),
        None => table.remove(name),
    }
}

#[cfg(test)]
mod tests;
