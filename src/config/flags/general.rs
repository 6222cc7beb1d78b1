//! Flags that are not about packets.

use clap::Args;

use super::pod_network::PodNetwork;

/// What to run as, and which API server to follow.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "General")]
pub struct General {
    /// Path of a KubeProxyConfiguration file; most other flags are ignored then
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Write the configuration in force to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<String>,
    /// Remove everything that any mode may have left in the kernel, and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cleanup: Option<String>,
    /// Only do what needs full root privileges, and exit; CAP_NET_ADMIN is enough afterwards
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub init_only: Option<String>,
    /// Feature gates as Name=true or Name=false
    #[arg(long, value_delimiter = ',', value_name = "NAME=BOOL")]
    pub feature_gates: Option<Vec<String>>,
    /// Path of a kubeconfig file [default: the service account in the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// Address of the API server, instead of the one in the kubeconfig file
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Content type of API requests (accepted; JSON is what is spoken)
    #[arg(long, value_name = "TYPE")]
    pub kube_api_content_type: Option<String>,
    /// Burst of API requests (accepted; a few watches need no limit) [default: 10]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub kube_api_burst: Option<String>,
    /// API requests a second (accepted; a few watches need no limit) [default: 5]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub kube_api_qps: Option<String>,
    /// Name of the Node that this is [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's own address; no socket is bound to it [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Where /healthz and /livez are served; empty for nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics is served; empty for nowhere [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Exit when an address cannot be bound, instead of trying again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub bind_address_hard_fail: Option<String>,
    /// Serve /debug/pprof (accepted; there is no profiler)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub profiling: Option<String>,
    /// Show metrics hidden since this version (accepted; none are hidden)
    #[arg(long, value_name = "VERSION")]
    pub show_hidden_metrics_for_version: Option<String>,
    /// oom_score_adj of this process, -1000 to 1000 [default: -999]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<String>,
    /// How often objects are taken anew from the API server [default: 15m]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub config_sync_period: Option<String>,
    /// Deprecated: use --healthz-bind-address
    #[arg(long, value_name = "PORT", hide = true)]
    pub healthz_port: Option<String>,
    /// Deprecated: use --metrics-bind-address
    #[arg(long, value_name = "PORT", hide = true)]
    pub metrics_port: Option<String>,
}

/// How much is logged, and how.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Logging")]
pub struct Logging {
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    /// Verbosity: 4 shows plans, 6 everything [default: 0]
    #[arg(long, value_name = "N", short = 'v')]
    pub v: Option<String>,
    /// Longest time between log flushes (accepted; nothing is held back)
    #[arg(long, value_name = "DURATION")]
    pub log_flush_frequency: Option<String>,
    /// Verbosity by source file (accepted; -v counts for all)
    #[arg(long, value_delimiter = ',', value_name = "PATTERN=N")]
    pub vmodule: Option<Vec<String>>,
    /// Accepted; all messages go to stderr
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub log_text_split_stream: Option<String>,
    /// Accepted; nothing is held back
    #[arg(long, value_name = "QUANTITY", hide = true)]
    pub log_text_info_buffer_size: Option<String>,
    /// Accepted; all messages go to stderr
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub log_json_split_stream: Option<String>,
    /// Accepted; nothing is held back
    #[arg(long, value_name = "QUANTITY", hide = true)]
    pub log_json_info_buffer_size: Option<String>,
}

/// What kube-proxy does not have. These hold beside a configuration file, and come before what it says.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "ferrovia")]
pub struct Own {
    /// Take Services and EndpointSlices from the YAML and JSON files here, without an API server
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<String>,
    /// Networks that externalIPs may come from; others are refused (CVE-2020-8554) [default: none]
    #[arg(long = "allowed-external-ips", value_delimiter = ',', value_name = "CIDR")]
    pub allowed_external_ips: Option<Vec<String>>,
    /// How endpoints are chosen where a Service does not say, in modes other than IPVS: random, rr, sh; in the userspace mode
    /// also wrr, lc, wlc, mh, twos [default: random; rr in the userspace mode]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Which iptables to use: auto, legacy or nft [default: auto]
    #[arg(long, value_name = "FLAVOUR")]
    pub iptables_flavour: Option<String>,
    /// How often what is in the kernel is read back and compared [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub audit_period: Option<String>,
    /// What the IPVS scheduler hashes: sh-port, sh-fallback, mh-port, mh-fallback [default: mh-port with mh]
    #[arg(long, value_delimiter = ',', value_name = "FLAG")]
    pub ipvs_scheduler_flags: Option<Vec<String>>,
    /// What makes virtual addresses this node's own in the IPVS mode: routes, or a device as in kube-proxy
    /// [default: routes]
    #[arg(long, value_name = "KIND")]
    pub ipvs_virtual_addresses: Option<String>,
    /// How long a removed endpoint may keep its connections in the IPVS mode; 0 has no bound [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_drain_timeout: Option<String>,
    /// Count connections, packets and bytes of each Service, in the nftables mode [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub service_counters: Option<String>,
    /// In the userspace mode, let endpoints on this node see the client's address where the policy keeps it
    /// [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub preserve_source: Option<String>,
    /// How connections come to this process in the userspace mode: nftables, iptables (with sets), or auto for nftables where
    /// the kernel has what it takes [default: auto]
    #[arg(long, value_name = "FACILITY")]
    pub userspace_capture: Option<String>,
    /// How long a removed endpoint may keep its connections in the userspace mode; 0 has no bound [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub userspace_drain_timeout: Option<String>,
    /// How many connections the userspace mode carries at once; more wait until others end [default: what the limit of file
    /// descriptors allows for]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub userspace_max_connections: Option<String>,
    /// How many pipes carry what moves much in the userspace mode, of 256 KiB each [default: likewise, 4096 at the most]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub userspace_max_pipes: Option<String>,
    /// How many UDP clients the userspace mode remembers; the one that was silent longest goes for a new one [default:
    /// likewise, 32768 at the most]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub userspace_max_udp_flows: Option<String>,
    #[command(flatten)]
    pub pod_network: PodNetwork,
}

/// Flags of kube-proxy that mean nothing here: for Windows, or of libraries that it links. Accepted and ignored.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Other systems")]
pub struct Elsewhere {
    /// Windows only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub windows_service: Option<String>,
    /// Windows only
    #[arg(long, value_name = "IP", hide = true)]
    pub source_vip: Option<String>,
    /// Windows only
    #[arg(long, value_name = "NAME", hide = true)]
    pub network_name: Option<String>,
    /// Windows only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub enable_dsr: Option<String>,
    /// Windows only
    #[arg(long, value_name = "NAME", hide = true)]
    pub root_hnsendpoint_name: Option<String>,
    /// Windows only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub forward_healthcheck_vip: Option<String>,
    /// Of cadvisor, which is not here
    #[arg(long, value_name = "FILE", hide = true)]
    pub machine_id_file: Option<String>,
    /// Of cadvisor, which is not here
    #[arg(long, value_name = "FILE", hide = true)]
    pub boot_id_file: Option<String>,
}
