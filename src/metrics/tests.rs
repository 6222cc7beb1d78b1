use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::*;
use crate::model::{Family, Protocol, ServicePortName};
use crate::modes::{Subject, Traffic};
use crate::sync::objects::{Kind, Reason};

/// With every metric used once, so that all of them have series.
fn used() -> (Metrics, String) {
    let now = Instant::now();
    let metrics = Metrics::new(now).unwrap();
    let family = Family::V4;
    let kube_proxy = &metrics.kube_proxy;
    let (sync, iptables, conntrack) = (&kube_proxy.sync, &kube_proxy.iptables, &kube_proxy.conntrack);
    for durations in [&sync.duration, &sync.full_duration, &sync.partial_duration, &conntrack.duration] {
        durations.of(family).observe(0.001);
    }
    conntrack.deleted_entries.of(family).inc();
    sync.last.of(family).set(1.5);
    sync.last_queued.of(family).set(1.5);
    iptables.restore_failures.of(family).inc();
    iptables.partial_restore_failures.of(family).inc();
    iptables.set_rules("nat", family, 3);
    iptables.set_rules_last("nat", family, 4);
    kube_proxy.observe_network_programming(family, [SystemTime::UNIX_EPOCH], SystemTime::UNIX_EPOCH);
    kube_proxy.set_no_local_endpoints(Policy::Internal, family, 1);
    kube_proxy.set_no_local_endpoints(Policy::External, family, 2);
    kube_proxy.count_healthz(200);
    kube_proxy.count_livez(503);
    let own = &metrics.own;
    for counter in [&own.drift_repairs, &own.audits, &own.plan_operations, &own.stale_flows] {
        counter.of(family).inc();
    }
    own.set_problems(&BTreeMap::from([(Reason::AddressInUse, 2)]));
    own.count_undecodable(Kind::Service);
    own.count_repaired(family, &BTreeMap::from([(Subject::VirtualServer, 1), (Subject::Destination, 3)]));
    own.observe_stage(Stage::Plan, family, Duration::from_millis(1));
    metrics.note_event(now + Duration::from_secs(1));
    let text = metrics.encode(now + Duration::from_secs(4)).unwrap();
    (metrics, text)
}

/// Name, type and one series of every metric that kube-proxy 1.36 registers in its iptables mode.
const KUBE_PROXY_METRICS: &str = r#"
kubeproxy_sync_proxy_rules_duration_seconds histogram _count{ip_family="IPv4"}
kubeproxy_sync_full_proxy_rules_duration_seconds histogram _count{ip_family="IPv4"}
kubeproxy_sync_partial_proxy_rules_duration_seconds histogram _count{ip_family="IPv4"}
kubeproxy_conntrack_reconciler_sync_duration_seconds histogram _count{ip_family="IPv4"}
kubeproxy_network_programming_duration_seconds histogram _count{ip_family="IPv4"}
kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge {ip_family="IPv4"}
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge {ip_family="IPv4"}
kubeproxy_sync_proxy_rules_endpoint_changes_pending gauge
kubeproxy_sync_proxy_rules_service_changes_pending gauge
kubeproxy_sync_proxy_rules_endpoint_changes_total counter
kubeproxy_sync_proxy_rules_service_changes_total counter
kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge {ip_family="IPv4",traffic_policy="internal"}
kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge {ip_family="IPv4",traffic_policy="external"}
kubeproxy_sync_proxy_rules_iptables_total gauge {ip_family="IPv4",table="nat"}
kubeproxy_sync_proxy_rules_iptables_last gauge {ip_family="IPv4",table="nat"}
kubeproxy_sync_proxy_rules_iptables_restore_failures_total counter {ip_family="IPv4"}
kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total counter {ip_family="IPv4"}
kubeproxy_conntrack_reconciler_deleted_entries_total counter {ip_family="IPv4"}
kubeproxy_proxy_healthz_total counter {code="200"}
kubeproxy_proxy_livez_total counter {code="503"}
kubeproxy_iptables_ct_state_invalid_dropped_packets_total counter
kubeproxy_iptables_localhost_nodeports_accepted_packets_total counter
"#;

#[test]
fn services_have_series_and_their_number_is_bounded() {
    let metrics = Metrics::new(Instant::now()).unwrap();
    let name = |number: usize| ServicePortName {
        namespace: "ns".into(),
        service: format!("s{number}").into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    };
    let traffic =
        |bytes| Traffic { connections: 2, packets_in: 3, bytes_in: bytes, packets_out: 4, bytes_out: 1 };
    let all = (0..MOST + 5).map(|number| (name(number), traffic(number as u64))).collect();
    metrics.traffic.set(Family::V4, all);
    let text = metrics.encode(Instant::now()).unwrap();
    let line = "ferrovia_service_bytes_total{direction=\"in\",ip_family=\"IPv4\",namespace=\"ns\",port=\"http\",\
                protocol=\"TCP\",service=\"s1004\"} 1004\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("# TYPE ferrovia_service_connections_total counter"));
    assert_eq!(text.matches("ferrovia_service_connections_total{").count(), MOST);
    assert!(!text.contains("service=\"s4\""), "those with the least traffic are left out");
    assert!(text.contains("ferrovia_service_counters_left_out{ip_family=\"IPv4\"} 5\n"), "{text}");
    metrics.traffic.set(Family::V4, [(name(1), traffic(7))].into());
    let text = metrics.encode(Instant::now()).unwrap();
    assert_eq!(text.matches("ferrovia_service_packets_total{").count(), 2, "what is gone has no series");
}

#[test]
fn names_types_and_labels_are_those_of_kube_proxy() {
    let (_, text) = used();
    for line in KUBE_PROXY_METRICS.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{line}");
        let series = format!("\n{name}{} ", words.next().unwrap_or_default());
        assert!(text.contains(&series), "{line}");
    }
}

#[test]
fn what_is_not_kube_proxys_bears_our_name() {
    let (_, text) = used();
    let known = ["kubeproxy_", "ferrovia_", "process_"];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(known.iter().any(|prefix| line.starts_with(prefix)), "{line}");
    }
    for line in [
        "ferrovia_problems{reason=\"AddressInUse\"} 2",
        "ferrovia_undecodable_objects_total{kind=\"Service\"} 1",
        "ferrovia_stage_duration_seconds_count{ip_family=\"IPv4\",stage=\"plan\"} 1",
        "ferrovia_last_event_age_seconds 3",
        "ferrovia_drift_repairs_total{ip_family=\"IPv4\"} 1",
        "ferrovia_drift_repaired_parts_total{ip_family=\"IPv4\",kind=\"virtual server\"} 1",
        "ferrovia_drift_repaired_parts_total{ip_family=\"IPv4\",kind=\"destination\"} 3",
        concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn buckets_are_those_of_kube_proxy() {
    let (_, text) = used();
    let buckets = |name: &str| -> Vec<f64> {
        let prefix = format!("{name}_bucket{{ip_family=\"IPv4\",le=\"");
        let bounds = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.split('"').next());
        bounds.filter(|bound| *bound != "+Inf").map(|bound| bound.parse().unwrap()).collect()
    };
    let sync = buckets("kubeproxy_sync_proxy_rules_duration_seconds");
    assert_eq!((sync.len(), sync[0], sync[14]), (15, 0.001, 16.384));
    let network = buckets("kubeproxy_network_programming_duration_seconds");
    assert_eq!(network.len(), 2 + 59 + 12 + 7);
    assert_eq!([network[0], network[1], network[2], network[60]], [0.25, 0.5, 1.0, 59.0]);
    assert_eq!([network[61], network[72], network[73], network[79]], [60.0, 115.0, 120.0, 300.0]);
}

/// Row A7 of the faults: the clock of the machine that changed the object may be ahead of ours.
#[test]
fn a_trigger_in_the_future_took_no_time() {
    let (metrics, _) = used();
    let now = SystemTime::now();
    let triggers = [now + Duration::from_secs(3600), now - Duration::from_secs(2)];
    metrics.kube_proxy.observe_network_programming(Family::V6, triggers, now);
    let text = metrics.encode(Instant::now()).unwrap();
    assert!(text.contains("kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"} 2\n"));
    assert!(text.contains("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv6\"} 2\n"));
}

#[test]
fn a_family_that_is_never_used_has_no_series() {
    let (_, text) = used();
    assert!(!text.contains("IPv6"));
}

#[test]
fn a_problem_that_is_solved_is_counted_no_more() {
    let (metrics, _) = used();
    metrics.own.set_problems(&BTreeMap::from([(Reason::Malformed, 1)]));
    let text = metrics.encode(Instant::now()).unwrap();
    assert!(text.contains("reason=\"Malformed\"") && !text.contains("reason=\"AddressInUse\""));
}
