//! Flags about packets.

use clap::Args;

/// What happens to packets.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Data plane")]
pub struct DataPlane {
    /// How Services become traffic: iptables, ipvs, nftables or userspace [default: nftables where the kernel has all that it
    /// needs, else iptables]
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Give all traffic to ClusterIPs this node's source address
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub masquerade_all: Option<String>,
    /// Bit of the packet mark that says masquerade, 0 to 31 [default: 14]
    #[arg(long, value_name = "BIT", allow_hyphen_values = true)]
    pub iptables_masquerade_bit: Option<String>,
    /// NodePorts on 127.0.0.1 and ::1, in every mode, without route_localnet (CVE-2020-8558) [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub iptables_localhost_nodeports: Option<String>,
    /// How often to retry, at the least, and to look after what others changed [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub iptables_sync_period: Option<String>,
    /// The least time between two syncs [default: what a sync costs]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub iptables_min_sync_period: Option<String>,
    /// How traffic of local pods is told: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix
    /// [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The bridge that local pods are on, for BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// What the names of local pods' interfaces begin with, for InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// The pods' network, or one of each family, for ClusterCIDR
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<String>,
    /// Networks of the node addresses that have NodePorts, or `primary` [default: all addresses]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub nodeport_addresses: Option<Vec<String>>,
}

/// Options of the IPVS mode.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "IPVS mode")]
pub struct Ipvs {
    /// How often to retry, at the least, and to look after what others changed [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_sync_period: Option<String>,
    /// The least time between two syncs [default: what a sync costs]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_min_sync_period: Option<String>,
    /// IPVS scheduler [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,
    /// Virtual servers in these networks are left alone
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub ipvs_exclude_cidrs: Option<Vec<String>>,
    /// Set arp_ignore to 1 and arp_announce to 2
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ipvs_strict_arp: Option<String>,
    /// Timeout of idle TCP connections; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcp_timeout: Option<String>,
    /// Timeout of TCP connections after a FIN; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcpfin_timeout: Option<String>,
    /// Timeout of UDP flows; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_udp_timeout: Option<String>,
}

/// Sysctls of connection tracking.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection tracking")]
pub struct Conntrack {
    /// Tracked connections per CPU; 0 leaves the limit as it is [default: 32768]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub conntrack_max_per_core: Option<String>,
    /// Tracked connections at the least [default: 131072]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub conntrack_min: Option<String>,
    /// Timeout of idle TCP connections; 0 leaves it as it is [default: 24h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_established: Option<String>,
    /// Timeout of TCP connections in CLOSE_WAIT; 0 leaves it as it is [default: 1h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_close_wait: Option<String>,
    /// Set nf_conntrack_tcp_be_liberal to 1
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub conntrack_tcp_be_liberal: Option<String>,
    /// Timeout of UDP flows without replies; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout: Option<String>,
    /// Timeout of UDP flows with replies; 0 leaves it as it is [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout_stream: Option<String>,
}
