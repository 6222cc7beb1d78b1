//! The metrics that kube-proxy does not have.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{
    Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Result, exponential_buckets,
};

use super::register::{IP_FAMILY, PerFamily, Register};
use crate::model::Family;
use crate::modes::Subject;
use crate::sync::objects::{Kind, Reason};

#[derive(Clone, Debug)]
pub struct Own {
    pub drift_repairs: PerFamily<IntCounterVec>,
    pub audits: PerFamily<IntCounterVec>,
    pub plan_operations: PerFamily<IntCounterVec>,
    pub stale_flows: PerFamily<IntCounterVec>,
    pub draining: PerFamily<IntGaugeVec>,
    pub health_check_node_ports_unbound: PerFamily<IntGaugeVec>,
    pub pod_routes: PerFamily<IntGaugeVec>,
    pub pod_route_repairs: IntCounter,
    pub pod_network_ready: IntGauge,
    pub(super) last_event_age: Gauge,
    drift_repaired: IntCounterVec,
    pod_network_problems: IntGaugeVec,
    problems: IntGaugeVec,
    undecodable_objects: IntCounterVec,
    stage_duration: HistogramVec,
}

/// A step of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Compile,
    Observe,
    Plan,
    Apply,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Compile => "compile",
            Stage::Observe => "observe",
            Stage::Plan => "plan",
            Stage::Apply => "apply",
        }
    }
}

impl Own {
    pub(super) fn new(register: &Register<'_>) -> Result<Self> {
        let build = Opts::new("ferrovia_build_info", "The version that is running; always 1")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("architecture", std::env::consts::ARCH);
        register.add(IntGauge::with_opts(build)?)?.set(1);
        Ok(Own {
            drift_repairs: register.family_counter(
                "ferrovia_drift_repairs_total",
                "Times that somebody else's change to our rules was found and undone",
            )?,
            drift_repaired: register.counters(
                "ferrovia_drift_repaired_parts_total",
                "What was put right at these times, by what it is",
                &[IP_FAMILY, "kind"],
            )?,
            audits: register.family_counter(
                "ferrovia_audits_total",
                "Times that the kernel was read back and compared",
            )?,
            plan_operations: register.family_counter(
                "ferrovia_plan_operations_total",
                "Changes to the kernel that plans asked for",
            )?,
            stale_flows: register.family_counter(
                "ferrovia_stale_flows_total",
                "Tracked flows found that lead to where no endpoint is any more",
            )?,
            draining: register.family_gauge(
                "ferrovia_draining_endpoints",
                "Endpoints that left their Service and keep the connections that they have; of the IPVS mode",
            )?,
            health_check_node_ports_unbound: register.family_gauge(
                "ferrovia_health_check_node_ports_unbound",
                "Health check node ports that could not be listened on at the last attempt",
            )?,
            pod_routes: register.family_gauge(
                "ferrovia_pod_network_routes",
                "Routes to pod CIDRs of other nodes that are in the kernel",
            )?,
            pod_route_repairs: register.counter(
                "ferrovia_pod_network_repairs_total",
                "Times that somebody else's change to our routes was found and undone",
            )?,
            pod_network_ready: register.gauge(
                "ferrovia_pod_network_ready",
                "Whether pods of this node can have a network: 1 or 0; always 0 without a pod network",
            )?,
            pod_network_problems: register.gauges(
                "ferrovia_pod_network_problems",
                "Pod CIDRs of Nodes that have no direct route, and why",
                &["reason"],
            )?,
            last_event_age: register.add(Gauge::new(
                "ferrovia_last_event_age_seconds",
                "Time since the API server or the manifests last said anything",
            )?)?,
            problems: register.gauges(
                "ferrovia_problems",
                "Parts of objects that are left out, and why",
                &["reason"],
            )?,
            undecodable_objects: register.counters(
                "ferrovia_undecodable_objects_total",
                "Objects that came but made no sense",
                &["kind"],
            )?,
            // From 10 us, as most stages of most syncs are short.
            stage_duration: register.histograms(
                "ferrovia_stage_duration_seconds",
                "How long the steps of a sync took",
                &["stage", IP_FAMILY],
                exponential_buckets(0.000_01, 4.0, 12)?,
            )?,
        })
    }

    /// Replaces the counts of all reasons.
    pub fn set_problems(&self, counts: &BTreeMap<Reason, u64>) {
        self.problems.reset();
        for (reason, count) in counts {
            self.problems.with_label_values(&[reason.name()]).set((*count).try_into().unwrap_or(i64::MAX));
        }
    }

    pub fn count_repaired(&self, family: Family, repairs: &BTreeMap<Subject, usize>) {
        for (subject, count) in repairs {
            let counter = self.drift_repaired.with_label_values(&[&*family.to_string(), subject.name()]);
            counter.inc_by(*count as u64);
        }
    }

    /// Replaces the counts of all reasons.
    pub fn set_pod_network_problems(&self, counts: &BTreeMap<Reason, u64>) {
        self.pod_network_problems.reset();
        for (reason, count) in counts {
            let count = (*count).try_into().unwrap_or(i64::MAX);
            self.pod_network_problems.with_label_values(&[reason.name()]).set(count);
        }
    }

    pub fn count_undecodable(&self, kind: Kind) {
        self.undecodable_objects.with_label_values(&[kind.to_string()]).inc();
    }

    pub fn observe_stage(&self, stage: Stage, family: Family, took: Duration) {
        let histogram = self.stage_duration.with_label_values(&[stage.name(), &family.to_string()]);
        histogram.observe(took.as_secs_f64());
    }
}
