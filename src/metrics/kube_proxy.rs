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
    pub sync: Sync,
    pub changes: Changes,
    pub iptables: Iptables,
    pub conntrack: Conntrack,
    network_programming: PerFamily<HistogramVec>,
    no_local_endpoints: IntGaugeVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

/// How syncs went.
#[derive(Clone, Debug)]
pub struct Sync {
    pub duration: PerFamily<HistogramVec>,
    pub full_duration: PerFamily<HistogramVec>,
    pub partial_duration: PerFamily<HistogramVec>,
    /// When the last successful one ended.
    pub last: PerFamily<GaugeVec>,
    pub last_queued: PerFamily<GaugeVec>,
}

/// What the source said, and what of it waits for a sync.
#[derive(Clone, Debug)]
pub struct Changes {
    pub endpoints: IntCounter,
    pub endpoints_pending: IntGauge,
    pub services: IntCounter,
    pub services_pending: IntGauge,
}

#[derive(Clone, Debug)]
pub struct Iptables {
    pub restore_failures: PerFamily<IntCounterVec>,
    pub partial_restore_failures: PerFamily<IntCounterVec>,
    pub ct_state_invalid_dropped_packets: IntCounter,
    pub localhost_node_ports_accepted_packets: IntCounter,
    rules: IntGaugeVec,
    rules_last: IntGaugeVec,
}

#[derive(Clone, Debug)]
pub struct Conntrack {
    pub duration: PerFamily<HistogramVec>,
    pub deleted_entries: PerFamily<IntCounterVec>,
}

/// A traffic policy of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Internal,
    External,
}

impl KubeProxy {
    pub(super) fn new(register: &Register<'_>) -> Result<Self> {
        Ok(KubeProxy {
            sync: Sync::new(register)?,
            changes: Changes::new(register)?,
            iptables: Iptables::new(register)?,
            conntrack: Conntrack::new(register)?,
            network_programming: register.family_histogram(
                "kubeproxy_network_programming_duration_seconds",
                "From the change of a Service or a pod until the kernel knew",
                network_programming_buckets()?,
            )?,
            no_local_endpoints: register.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Services with a Local traffic policy and no endpoints on this node",
                &["traffic_policy", IP_FAMILY],
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
        let histogram = self.network_programming.of(family);
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

    pub fn count_healthz(&self, code: u16) {
        self.healthz.with_label_values(&[code.to_string()]).inc();
    }

    pub fn count_livez(&self, code: u16) {
        self.livez.with_label_values(&[code.to_string()]).inc();
    }
}

impl Sync {
    fn new(register: &Register<'_>) -> Result<Self> {
        let duration = |name: &str, help: &str| register.family_histogram(name, help, sync_buckets()?);
        Ok(Sync {
            duration: duration("kubeproxy_sync_proxy_rules_duration_seconds", "How long a sync took")?,
            full_duration: duration(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "How long a sync of everything took",
            )?,
            partial_duration: duration(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "How long a sync of what had changed took",
            )?,
            last: register.family_timestamp(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When the last successful sync ended",
            )?,
            last_queued: register.family_timestamp(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a sync was last asked for",
            )?,
        })
    }
}

impl Changes {
    fn new(register: &Register<'_>) -> Result<Self> {
        Ok(Changes {
            endpoints: register.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "EndpointSlice changes that were seen",
            )?,
            endpoints_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "EndpointSlice changes that no sync has taken up yet",
            )?,
            services: register.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Service changes that were seen",
            )?,
            services_pending: register.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Service changes that no sync has taken up yet",
            )?,
        })
    }
}

impl Iptables {
    fn new(register: &Register<'_>) -> Result<Self> {
        Ok(Iptables {
            restore_failures: register.family_counter(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "Runs of iptables-restore that failed",
            )?,
            partial_restore_failures: register.family_counter(
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
            rules: register.gauges(
                "kubeproxy_sync_proxy_rules_iptables_total",
                "iptables rules that are ours",
                &["table", IP_FAMILY],
            )?,
            rules_last: register.gauges(
                "kubeproxy_sync_proxy_rules_iptables_last",
                "iptables rules that the last sync wrote",
                &["table", IP_FAMILY],
            )?,
        })
    }

    /// How many rules of a table are ours.
    pub fn set_rules(&self, table: &str, family: Family, rules: usize) {
        set(&self.rules, table, family, rules);
    }

    /// How many rules of a table the last sync wrote.
    pub fn set_rules_last(&self, table: &str, family: Family, rules: usize) {
        set(&self.rules_last, table, family, rules);
    }
}

impl Conntrack {
    fn new(register: &Register<'_>) -> Result<Self> {
        Ok(Conntrack {
            duration: register.family_histogram(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "How long a search for stale tracked flows took",
                sync_buckets()?,
            )?,
            deleted_entries: register.family_counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Stale tracked flows that were deleted",
            )?,
        })
    }
}

fn set(gauges: &IntGaugeVec, label: &str, family: Family, value: usize) {
    let gauge = gauges.with_label_values(&[label, &family.to_string()]);
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}

/// 1 ms to 16 s, each bucket twice as wide as the one before.
fn sync_buckets() -> Result<Vec<f64>> {
    exponential_buckets(0.001, 2.0, 15)
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
