//! The configuration file as written: kube-proxy's `KubeProxyConfiguration`, and our own `FerroviaConfiguration`.
//!
//! Nothing is interpreted here. Every field may be absent, and durations are still text, so that all that is wrong with
//! them can be reported together.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration::GoDuration;

pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub const KIND: &str = "KubeProxyConfiguration";
pub const OWN_API_VERSION: &str = "ferrovia.dev/v1alpha1";
pub const OWN_KIND: &str = "FerroviaConfiguration";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Logging,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub bind_address_hard_fail: Option<bool>,
    pub enable_profiling: Option<bool>,
    pub show_hidden_metrics_for_version: Option<String>,
    pub mode: Option<String>,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Winkernel,
    pub detect_local_mode: Option<String>,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<String>,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: Option<String>,
    pub port_range: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_run_as_service: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: Option<String>,
    pub accept_content_types: Option<String>,
    pub content_type: Option<String>,
    #[serde(serialize_with = "whole_if_possible")]
    pub qps: Option<f32>,
    pub burst: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    pub format: Option<String>,
    /// A duration, or a number of nanoseconds.
    #[serde(deserialize_with = "duration_or_nanoseconds")]
    pub flush_frequency: Option<String>,
    pub verbosity: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VModule>,
    pub options: LogOptions,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VModule {
    pub file_pattern: String,
    pub verbosity: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    pub text: LogOutput,
    pub json: LogOutput,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogOutput {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_stream: Option<bool>,
    /// A quantity such as `64Ki`, or a number.
    #[serde(deserialize_with = "text_or_number")]
    pub info_buffer_size: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: Option<bool>,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: Option<String>,
    pub min_sync_period: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipvs {
    pub sync_period: Option<String>,
    pub min_sync_period: Option<String>,
    pub scheduler: Option<String>,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: Option<bool>,
    pub tcp_timeout: Option<String>,
    pub tcp_fin_timeout: Option<String>,
    pub udp_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: Option<bool>,
    pub sync_period: Option<String>,
    pub min_sync_period: Option<String>,
}

/// Windows only: read and written, never used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Winkernel {
    pub network_name: Option<String>,
    pub source_vip: Option<String>,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: Option<bool>,
    pub root_hns_endpoint_name: Option<String>,
    pub forward_health_check_vip: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    pub bridge_interface: Option<String>,
    pub interface_name_prefix: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<String>,
    pub tcp_close_wait_timeout: Option<String>,
    pub tcp_be_liberal: Option<bool>,
    pub udp_timeout: Option<String>,
    pub udp_stream_timeout: Option<String>,
}

/// What kube-proxy has no words for. A document of its own, so that the first one stays valid for kube-proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FerroviaConfiguration {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<String>,
    #[serde(rename = "allowedExternalIPs", skip_serializing_if = "Option::is_none")]
    pub allowed_external_ips: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iptables_flavour: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_period: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipvs_scheduler_flags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipvs_virtual_addresses: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipvs_drain_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_counters: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_source: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_capture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_drain_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_max_connections: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_max_pipes: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_max_udp_flows: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_network: Option<String>,
    #[serde(rename = "nonMasqueradeCIDRs", skip_serializing_if = "Option::is_none")]
    pub non_masquerade_cidrs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_conf_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_bin_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_plugin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_data_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(i64),
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    }))
}

/// component-base took nanoseconds before it took durations, and kubeadm still writes `flushFrequency: 0`.
fn duration_or_nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(nanos) => GoDuration::from_nanos(nanos).to_string(),
    }))
}

/// `5`, not `5.0`, as Go writes floats.
fn whole_if_possible<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e9 => serializer.serialize_i64(*value as i64),
        value => value.serialize(serializer),
    }
}
