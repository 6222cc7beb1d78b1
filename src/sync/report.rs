//! What the loop tells the outside: log, metrics, health, and what health check node ports have to answer.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::health::{Health, NodeEligibility};
use crate::http::HealthChecks;
use crate::kernel::conntrack::ConntrackError;
use crate::metrics::{Metrics, Policy, Stage};
use crate::model::{Family, ServicePortName, ServiceTable};
use crate::modes::Traffic;

use super::compile::{Compiler, Problem};
use super::conntrack::Outcome;
use super::objects::{Event, FieldProblem, Kind, Reason};
use super::plane;
use super::predecessors::News;
use super::sources::{EventRecorder, Regarding};
use super::store::Store;

/// Turns what happens in the loop into what people and programs can see of it.
pub struct Reporter {
    pub metrics: Metrics,
    pub health: Arc<Health>,
    /// To the servers of each family.
    pub health_checks: BTreeMap<Family, watch::Sender<HealthChecks>>,
    pub events: EventRecorder,
    /// What it means that there is no Node object: without an API server, nothing.
    pub node_unknown: Option<NodeEligibility>,
}

impl Reporter {
    pub fn heard(&self, event: &Event) {
        if !matches!(event, Event::ListGivenUp(_)) {
            self.metrics.note_event(Instant::now());
        }
        if let Event::Undecodable { kind, .. } = event {
            self.metrics.own.count_undecodable(*kind);
        }
    }

    pub fn queued(&self, family: Family, now: Instant) {
        self.health.queued(family, now);
        self.metrics.kube_proxy.sync.last_queued.of(family).set(seconds_since_1970());
    }

    /// After a recompile: what is new in it.
    pub fn compiled(&self, took: Duration, problems: &[Problem], compiler: &Compiler, store: &Store) {
        for family in Family::ALL {
            self.metrics.own.observe_stage(Stage::Compile, family, took);
        }
        for problem in problems {
            tracing::warn!(
                object = %problem.object, field = problem.field, reason = problem.reason.name(), "{problem}"
            );
            self.record(problem, store);
        }
        self.metrics.own.set_problems(&compiler.problem_counts());
        let eligibility = store.node().map(|node| match node.leaving {
            true => NodeEligibility::Leaving,
            false => NodeEligibility::Eligible,
        });
        self.health.set_node(eligibility.or(self.node_unknown));
        let metrics = &self.metrics.kube_proxy.changes;
        metrics.services_pending.set(0);
        metrics.endpoints_pending.set(0);
        raise(&metrics.services, store.service_changes().total);
        raise(&metrics.endpoints, store.endpoint_changes().total);
    }

    /// Makes an Event of a problem, for `kubectl describe`.
    fn record(&self, problem: &Problem, store: &Store) {
        let service = store.service(&problem.object).filter(|_| problem.kind == Kind::Service);
        let uid = service.map_or_else(|| "".into(), |service| service.uid.to_string().into());
        let regarding = Regarding { kind: problem.kind, name: problem.object.clone(), uid };
        let found = FieldProblem {
            field: problem.field.clone(),
            reason: problem.reason,
            message: problem.message.clone(),
        };
        self.events.problem(regarding, &found);
    }

    /// Wakes the servers only if one has something else to answer.
    pub fn health_checks(&self, tables: &[ServiceTable]) {
        for table in tables {
            let Some(servers) = self.health_checks.get(&table.family()) else { continue };
            servers.send_if_modified(|current| {
                let wanted = HealthChecks::of(table);
                let modified = *current != wanted;
                *current = wanted;
                modified
            });
        }
    }

    pub fn synced(
        &self,
        table: &ServiceTable,
        report: &plane::Report,
        took: Duration,
        triggers: &[SystemTime],
    ) {
        let family = table.family();
        self.health.synced(family, SystemTime::now());
        self.measure(table, report, took);
        self.metrics.kube_proxy.observe_network_programming(
            family,
            triggers.iter().copied(),
            SystemTime::now(),
        );
        for (port, error) in &report.refused {
            tracing::error!(service = %port, error, "The kernel refused a ServicePort; the others are in force");
            let regarding = Regarding { kind: Kind::Service, name: port.service_name(), uid: "".into() };
            let (field, message) = (format!("port {:?}", port.port), error.clone());
            self.events.problem(regarding, &FieldProblem { field, reason: Reason::Quarantined, message });
        }
        if let Some(text) = &report.text {
            tracing::trace!(%family, "Applied\n{text}");
        }
        if report.repaired {
            tracing::warn!(%family, took = ?took, "Somebody else had changed our rules; repaired");
            self.metrics.own.drift_repairs.of(family).inc();
            self.metrics.own.count_repaired(family, &report.repairs);
        } else if report.wrote {
            tracing::info!(
                %family, services = table.ports().len(), operations = report.operations, took = ?took, "Synced"
            );
        }
    }

    fn measure(&self, table: &ServiceTable, report: &plane::Report, took: Duration) {
        let family = table.family();
        let metrics = &self.metrics.kube_proxy;
        let seconds = took.as_secs_f64();
        metrics.sync.duration.of(family).observe(seconds);
        let by_extent = if report.observe.is_some() {
            &metrics.sync.full_duration
        } else {
            &metrics.sync.partial_duration
        };
        by_extent.of(family).observe(seconds);
        metrics.sync.last.of(family).set(seconds_since_1970());
        if let Some(observe) = report.observe {
            self.metrics.own.audits.of(family).inc();
            self.metrics.own.observe_stage(Stage::Observe, family, observe);
        }
        self.metrics.own.observe_stage(Stage::Plan, family, report.plan);
        self.metrics.own.observe_stage(Stage::Apply, family, report.apply);
        self.metrics.own.draining.of(family).set(report.draining as i64);
        self.metrics.own.plan_operations.of(family).inc_by(report.operations as u64);
        let (internal, external) = table.without_local_endpoints();
        metrics.set_no_local_endpoints(Policy::Internal, family, internal);
        metrics.set_no_local_endpoints(Policy::External, family, external);
    }

    pub fn failed(&self, family: Family, error: &impl Display) {
        tracing::error!(%family, error = %error, "Sync failed; it is tried again");
        self.metrics.kube_proxy.iptables.restore_failures.of(family).inc();
        self.health.degraded(family, format!("sync failed: {error}"));
    }

    pub fn drift_unknown(&self, family: Family, error: &impl Display) {
        tracing::warn!(%family, error = %error, "Cannot tell whether somebody else changed our rules");
    }

    pub fn traffic<E: Display>(&self, family: Family, read: Result<BTreeMap<ServicePortName, Traffic>, E>) {
        match read {
            Ok(traffic) => self.metrics.traffic.set(family, traffic),
            Err(error) => tracing::warn!(%family, %error, "Cannot read the counters of Services"),
        }
    }

    pub fn predecessors(&self, family: Family, news: Option<News>) {
        match news {
            Some(News::Remain(error)) => {
                tracing::warn!(%family, error, "Cannot remove what an earlier proxy left; it is tried again");
            }
            Some(News::Gone) => tracing::info!(%family, "What an earlier proxy left is gone"),
            None => {}
        }
    }

    pub fn flows(&self, family: Family, took: Duration, result: &Result<Outcome, ConntrackError>) {
        self.metrics.kube_proxy.conntrack.duration.of(family).observe(took.as_secs_f64());
        match result {
            Ok(outcome) => {
                let deleted = outcome.deleted as u64;
                self.metrics.kube_proxy.conntrack.deleted_entries.of(family).inc_by(deleted);
                self.metrics.own.stale_flows.of(family).inc_by(deleted);
                if deleted > 0 {
                    tracing::info!(%family, flows = deleted, took = ?took, "Cleared stale UDP flows");
                }
            }
            Err(error) => {
                tracing::warn!(%family, %error, "Cannot clear stale UDP flows; tried again in a second")
            }
        }
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Brings a counter up to a total that was counted elsewhere.
fn raise(counter: &prometheus::IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
