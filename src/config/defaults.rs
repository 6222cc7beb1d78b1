//! What holds where nothing was said: the defaults of kube-proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::duration::GoDuration;
use super::file::{API_VERSION, KIND, OWN_API_VERSION, OWN_KIND};
use super::file::{Conntrack, FerroviaConfiguration, KubeProxyConfiguration, Logging};

pub const HEALTHZ_PORT: u16 = 10256;
pub const METRICS_PORT: u16 = 10249;

/// Takes out of a file what kube-proxy takes for absent: kubeadm writes `syncPeriod: 0s` and means the default. On the
/// command line, a zero is a zero.
pub(super) fn forget_zeros(file: &mut KubeProxyConfiguration) {
    let client = &mut file.client_connection;
    client.qps = client.qps.filter(|qps| *qps != 0.0);
    client.burst = client.burst.filter(|burst| *burst != 0);
    for text in [&mut file.healthz_bind_address, &mut file.metrics_bind_address] {
        *text = text.take().filter(|text| !text.is_empty());
    }
    for period in [
        &mut file.config_sync_period,
        &mut file.iptables.sync_period,
        &mut file.iptables.min_sync_period,
        &mut file.ipvs.sync_period,
        &mut file.ipvs.min_sync_period,
        &mut file.nftables.sync_period,
        &mut file.nftables.min_sync_period,
        &mut file.logging.flush_frequency,
    ] {
        *period = period.take().filter(|text| !is_zero(text));
    }
}

fn is_zero(text: &str) -> bool {
    text.parse().is_ok_and(GoDuration::is_zero)
}

/// Fills in every field that is absent.
///
/// Minimum sync periods stay absent: kube-proxy's second is there because its syncs are dear, and ours adapt to what
/// they cost.
pub(super) fn fill(file: &mut KubeProxyConfiguration) {
    file.api_version = Some(API_VERSION.to_owned());
    file.kind = Some(KIND.to_owned());
    fill_general(file);
    fill_data_plane(file);
    fill_conntrack(&mut file.conntrack);
    fill_logging(&mut file.logging);
    fill_windows(file);
}

fn fill_general(file: &mut KubeProxyConfiguration) {
    let client = &mut file.client_connection;
    text(&mut client.kubeconfig, "");
    text(&mut client.accept_content_types, "");
    text_unless_empty(&mut client.content_type, "application/vnd.kubernetes.protobuf");
    value(&mut client.qps, 5.0);
    value(&mut client.burst, 10);
    text(&mut file.hostname_override, "");
    text_unless_empty(&mut file.bind_address, "0.0.0.0");
    fill_addresses(file);
    value(&mut file.bind_address_hard_fail, false);
    value(&mut file.enable_profiling, false);
    text(&mut file.show_hidden_metrics_for_version, "");
    value(&mut file.oom_score_adj, -999);
    text(&mut file.config_sync_period, "15m0s");
    text(&mut file.port_range, "");
}

/// An empty address stays empty: it means nowhere.
fn fill_addresses(file: &mut KubeProxyConfiguration) {
    let (any, loopback) = hosts(file.bind_address.as_deref());
    let healthz = file.healthz_bind_address.take().unwrap_or_else(|| any.to_string());
    file.healthz_bind_address = Some(with_port(healthz, HEALTHZ_PORT));
    let metrics = file.metrics_bind_address.take().unwrap_or_else(|| loopback.to_string());
    file.metrics_bind_address = Some(with_port(metrics, METRICS_PORT));
}

/// The wildcard and the loopback address, of the family of `bindAddress`.
pub(super) fn hosts(bind_address: Option<&str>) -> (IpAddr, IpAddr) {
    match bind_address.and_then(|text| text.parse().ok()) {
        Some(IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        _ => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    }
}

/// Appends a port to an address that has none; anything else is left for the checks to judge.
pub(super) fn with_port(text: String, port: u16) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => format!("{address}:{port}"),
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Err(_) => text,
    }
}

fn fill_data_plane(file: &mut KubeProxyConfiguration) {
    text_unless_empty(&mut file.mode, "iptables");
    let iptables = &mut file.iptables;
    value(&mut iptables.masquerade_bit, 14);
    value(&mut iptables.masquerade_all, false);
    value(&mut iptables.localhost_node_ports, true);
    text(&mut iptables.sync_period, "30s");
    let ipvs = &mut file.ipvs;
    text(&mut ipvs.sync_period, "30s");
    text(&mut ipvs.scheduler, "");
    value(&mut ipvs.strict_arp, false);
    for timeout in [&mut ipvs.tcp_timeout, &mut ipvs.tcp_fin_timeout, &mut ipvs.udp_timeout] {
        text(timeout, "0s");
    }
    let nftables = &mut file.nftables;
    value(&mut nftables.masquerade_bit, 14);
    value(&mut nftables.masquerade_all, false);
    text(&mut nftables.sync_period, "30s");
    text_unless_empty(&mut file.detect_local_mode, "ClusterCIDR");
    text(&mut file.detect_local.bridge_interface, "");
    text(&mut file.detect_local.interface_name_prefix, "");
    text(&mut file.cluster_cidr, "");
    if file.mode.as_deref() == Some("nftables") && file.node_port_addresses.as_ref().is_none_or(Vec::is_empty)
    {
        file.node_port_addresses = Some(vec!["primary".to_owned()]);
    }
}

fn fill_conntrack(conntrack: &mut Conntrack) {
    value(&mut conntrack.max_per_core, 32 * 1024);
    value(&mut conntrack.min, 128 * 1024);
    text(&mut conntrack.tcp_established_timeout, "24h0m0s");
    // A peer that closed may wait long for the other side; with the kernel's minute its late FIN would leave
    // untranslated (k8s#32551).
    text(&mut conntrack.tcp_close_wait_timeout, "1h0m0s");
    value(&mut conntrack.tcp_be_liberal, false);
    text(&mut conntrack.udp_timeout, "0s");
    text(&mut conntrack.udp_stream_timeout, "0s");
}

fn fill_logging(logging: &mut Logging) {
    text_unless_empty(&mut logging.format, "text");
    text(&mut logging.flush_frequency, "5s");
    value(&mut logging.verbosity, 0);
    text(&mut logging.options.text.info_buffer_size, "0");
    text(&mut logging.options.json.info_buffer_size, "0");
}

fn fill_windows(file: &mut KubeProxyConfiguration) {
    let kernel = &mut file.winkernel;
    text(&mut kernel.network_name, "");
    text(&mut kernel.source_vip, "");
    value(&mut kernel.enable_dsr, false);
    text(&mut kernel.root_hns_endpoint_name, "");
    value(&mut kernel.forward_health_check_vip, false);
}

pub(super) fn fill_own(own: &mut FerroviaConfiguration) {
    own.api_version = Some(OWN_API_VERSION.to_owned());
    own.kind = Some(OWN_KIND.to_owned());
    value(&mut own.allowed_external_ips, Vec::new());
    text_unless_empty(&mut own.iptables_flavour, "auto");
    text(&mut own.audit_period, "1m0s");
    text_unless_empty(&mut own.ipvs_virtual_addresses, "routes");
    text(&mut own.ipvs_drain_timeout, "0s");
    value(&mut own.preserve_source, false);
    text_unless_empty(&mut own.userspace_capture, "auto");
    text(&mut own.userspace_drain_timeout, "0s");
    text_unless_empty(&mut own.pod_network, "none");
    if own.pod_network.as_deref() != Some("none") {
        value(&mut own.non_masquerade_cidrs, Vec::new());
        text_unless_empty(&mut own.cni_conf_dir, "/etc/cni/net.d");
        text_unless_empty(&mut own.cni_bin_dir, "/opt/cni/bin");
        text_unless_empty(&mut own.cni_data_dir, "/var/lib/cni/ferrovia");
    }
}

fn value<T>(field: &mut Option<T>, default: T) {
    field.get_or_insert(default);
}

fn text(field: &mut Option<String>, default: &str) {
    field.get_or_insert_with(|| default.to_owned());
}

fn text_unless_empty(field: &mut Option<String>, default: &str) {
    if field.as_ref().is_none_or(String::is_empty) {
        *field = Some(default.to_owned());
    }
}
