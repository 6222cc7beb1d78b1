//! The metrics of kube-proxy that its general code and its iptables mode have, under their exact names: dashboards and
//! alerts are written for these.

use std::time::SystemTime;

use prometheus::{
    GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result, exponential_buckets,
    linear_buckets,
};

use super::register::{IP_FAMILY, PerFamily, Register};
use crate::model::Family;

#[derive(Clone, Debug)]
pub struct KubeProxy {
    pub sync_duration: PerFamily<HistogramVec>,
    pub sync_full_duration: PerFamily<HistogramVec>,
    pub sync_partial_duration: PerFamily<HistogramVec>,
    pub conntrack_reconcile_duration: PerFamily<HistogramVec>,
    pub conntrack_deleted_entries: PerFamily<IntCounterVec>,
    pub last_sync: PerFamily<GaugeVec>,
    pub last_queued: PerFamily<GaugeVec>,
    pub endpoint_changes_pending: IntGauge,
    pub service_changes_pending: IntGauge,
    pub endpoint_changes: IntCounter,
    pub service_changes: IntCounter,
    pub iptables_restore_failures: PerFamily<IntCounterVec>,
    pub iptables_partial_restore_failures: PerFamily<IntCounterVec>,
    pub ct_state_invalid_dropped_packets: IntCounter,
    pub localhost_node_ports_accepted_packets: IntCounter,
    network_programming_duration: PerFamily<HistogramVec>,
    no_local_endpoints: IntGaugeVec,
    iptables_rules: IntGaugeVec,
    iptables_rules_last: IntGaugeVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

/// A traffic policy of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Internal,
    External,
}

impl KubeProxy {
    pub(super) fn new(register: &Register<'_>) -> Result<Self> {
        let durations = exponential_buckets(0.001, 2.0, 15)?;
        let duration = |name: &str, help: &str| {
            register.family_histogram(&format!("kubeproxy_{name}_duration_seconds"), help, durations.clone())
        };
        Ok(KubeProxy {
            sync_duration: duration("sync_proxy_rules", "How long a sync took")?,
            sync_full_duration: duration("sync_full_proxy_rules", "How long a sync of everything took")?,
            sync_partial_duration: duration(
                "sync_partial_proxy_rules",
                "How long a sync of what had changed took",
            )?,
            conntrack_reconcile_duration: duration(
                "conntrack_reconciler_sync",
                "How long a search for stale tracked flows took",
            )?,
            conntrack_deleted_entries: register.family_counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Stale tracked flows that were deleted",
            )?,
            last_sync: register.family_timestamp(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When the last successful sync ended",
            )?,
            last_queued: register.family_timestamp(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a sync was last asked for",
            )?,
            endpoint_changes_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "EndpointSlice changes that no sync has taken up yet",
            )?,
            service_changes_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Service changes that no sync has taken up yet",
            )?,
            endpoint_changes: register.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "EndpointSlice changes that were seen",
            )?,
            service_changes: register
                .counter("kubeproxy_sync_proxy_rules_service_changes_total", "Service changes that were seen")?,
            iptables_restore_failures: register.family_counter(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "Runs of iptables-restore that failed",
            )?,
            iptables_partial_restore_failures: register.family_counter(
                "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                "Runs of iptables-restore for what had changed that failed, so that everything is written next",
            )?,
            ct_state_invalid_dropped_packets: register.counter(
                "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
                "Packets dropped because connection tracking called them invalid",
            )?,
            localhost_node_ports_accepted_packets: register.counter(
                "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
                "Packets accepted on NodePorts of the loopback interface",
            )?,
            network_programming_duration: register.family_histogram(
                "kubeproxy_network_programming_duration_seconds",
                "From the change of a Service or a pod until the kernel knew",
                network_programming_buckets()?,
            )?,
            no_local_endpoints: register.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Services with a Local traffic policy and no endpoints on this node",
                &["traffic_policy", IP_FAMILY],
            )?,
            iptables_rules: register.gauges(
                "kubeproxy_sync_proxy_rules_iptables_total",
                "iptables rules that are ours",
                &["table", IP_FAMILY],
            )?,
            iptables_rules_last: register.gauges(
                "kubeproxy_sync_proxy_rules_iptables_last",
                "iptables rules that the last sync wrote",
                &["table", IP_FAMILY],
            )?,
            healthz: register.counters("kubeproxy_proxy_healthz_total", "Answers of /healthz", &["code"])?,
            livez: register.counters("kubeproxy_proxy_livez_total", "Answers of /livez", &["code"])?,
        })
    }

    /// A sync carried out changes that were made at these times.
    ///
    /// The times are those of another machine's clock. One that is ahead of ours gives no negative durations.
    pub fn observe_network_programming(
        &self,
        family: Family,
        triggers: impl IntoIterator<Item = SystemTime>,
        now: SystemTime,
    ) {
        let histogram = self.network_programming_duration.of(family);
        for trigger in triggers {
            histogram.observe(now.duration_since(trigger).unwrap_or_default().as_secs_f64());
        }
    }

    pub fn set_no_local_endpoints(&self, policy: Policy, family: Family, services: usize) {
        let policy = match policy {
            Policy::Internal => "internal",
            Policy::External => "external",
        };
        set(&self.no_local_endpoints, policy, family, services);
    }

    pub fn set_iptables_rules(&self, table: &str, family: Family, rules: usize) {
        set(&self.iptables_rules, table, family, rules);
    }

    pub fn set_iptables_rules_last(&self, table: &str, family: Family, rules: usize) {
        set(&self.iptables_rules_last, table, family, rules);
    }

    pub fn count_healthz(&self, code: u16) {
        self.healthz.with_label_values(&[code.to_string()]).inc();
    }

    pub fn count_livez(&self, code: u16) {
        self.livez.with_label_values(&[code.to_string()]).inc();
    }
}

fn set(gauges: &IntGaugeVec, label: &str, family: Family, value: usize) {
    let gauge = gauges.with_label_values(&[label, &family.to_string()]);
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}

/// As the service level objective for network programming has them: fine to a second, coarse to five minutes.
fn network_programming_buckets() -> Result<Vec<f64>> {
    let parts = [
        linear_buckets(0.25, 0.25, 2)?,
        linear_buckets(1.0, 1.0, 59)?,
        linear_buckets(60.0, 5.0, 12)?,
        linear_buckets(120.0, 30.0, 7)?,
    ];
    Ok(parts.concat())
}
