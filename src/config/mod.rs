//! Flags as typed and files as written, made into one configuration as meant.
//!
//! [`Flags`] and [`KubeProxyConfiguration`](file::KubeProxyConfiguration) hold text and numbers just as their
//! author gave them. [`load`] lays one over the other, fills in kube-proxy's defaults and checks the whole at once: what
//! comes out is a [`Config`] that needs no further checks, or every error there is.

pub mod decode;
mod defaults;
pub mod duration;
pub mod file;
pub mod flags;
mod load;
pub mod logging;
mod overlay;
pub mod problem;
mod validate;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::kernel::sysctl::Conntrack;
use crate::model::{Hashing, Scheduler};

pub use crate::model::{DetectLocal, NodePortSetting};

pub use flags::{Flags, is_kube_proxy, normalize};
pub use load::{load, load_with_default, resolve};
pub use problem::ConfigError;
pub use write::{config_z, to_yaml, write_config};

/// What to do, as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub action: Action,
    /// The Node that this is.
    pub node_name: String,
    pub source: Source,
    /// `--bind-address` where it names an address: the node's own one, instead of what the Node object says.
    pub node_ip: Option<IpAddr>,
    pub mode: ModeName,
    /// How endpoints are chosen where a Service does not say; `None` is the mode's default. IPVS has [its own](Ipvs).
    pub scheduler: Option<Scheduler>,
    /// What goes through each Service is counted, where the mode can.
    pub service_counters: bool,
    pub masquerade: Masquerade,
    /// Asked for, or not said. No kernel mode has it: it would need `route_localnet` (CVE-2020-8558).
    pub localhost_node_ports: bool,
    pub iptables_flavour: IptablesFlavour,
    pub ipvs: Ipvs,
    pub userspace: Userspace,
    /// `None` leaves the network of pods to others.
    pub pod_network: Option<PodNetwork>,
    pub detect_local: DetectLocal,
    pub node_port_addresses: NodePortSetting,
    pub allowed_external_ips: AllowedExternalIps,
    pub periods: Periods,
    pub conntrack: Conntrack,
    pub oom_score_adj: i32,
    pub serving: Serving,
    pub logging: Logging,
    /// To be logged once logging is set up.
    pub warnings: Vec<String>,
    /// The same as kube-proxy's own form, defaults filled in: for `--write-config-to` and `/configz`.
    pub written: Written,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Run,
    Cleanup,
    InitOnly,
    WriteConfig(PathBuf),
}

/// Where Services and EndpointSlices come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Manifests(PathBuf),
    ApiServer {
        /// `None` is the service account of the pod.
        kubeconfig: Option<PathBuf>,
        /// Instead of the address in the kubeconfig file.
        master: Option<String>,
    },
}

/// The ways of getting Service traffic to endpoints, by kube-proxy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeName {
    Userspace,
    Iptables,
    Ipvs,
    Nftables,
}

impl ModeName {
    pub const ALL: [ModeName; 4] =
        [ModeName::Userspace, ModeName::Iptables, ModeName::Ipvs, ModeName::Nftables];

    pub fn name(self) -> &'static str {
        match self {
            ModeName::Userspace => "userspace",
            ModeName::Iptables => "iptables",
            ModeName::Ipvs => "ipvs",
            ModeName::Nftables => "nftables",
        }
    }
}

/// Which packets leave with this node's source address, and how they are marked on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masquerade {
    /// One bit of the packet mark.
    pub mark: u32,
    /// All traffic to ClusterIPs.
    pub all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IptablesFlavour {
    /// The one in use on this node.
    Auto,
    Legacy,
    Nft,
}

/// By what connections come to this process in the userspace mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureBy {
    /// nf_tables where the kernel has what it takes.
    Auto,
    Nftables,
    Iptables,
}

/// What only the userspace mode looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Userspace {
    pub source: SourceAddress,
    pub capture: CaptureBy,
    /// How long a removed endpoint may keep its connections; `None` is as long as they like.
    pub drain_timeout: Option<Duration>,
    pub limits: UserspaceLimits,
}

/// What the userspace mode takes at the most; `None` is what its file descriptors allow for, which nothing exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserspaceLimits {
    pub connections: Option<usize>,
    pub pipes: Option<usize>,
    pub udp_flows: Option<usize>,
}

/// Whose address endpoints see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceAddress {
    Replaced,
    /// The client's, where the policy keeps it and the endpoint is on this node.
    PreservedOnThisNode,
}

/// What only the IPVS mode looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvs {
    /// How endpoints are chosen where a Service does not say; `None` is the mode's default. Never one that IPVS lacks in
    /// every kernel.
    pub scheduler: Option<Scheduler>,
    /// How that scheduler hashes; `None` is as usual for it.
    pub hashing: Option<Hashing>,
    /// Virtual servers in these networks are somebody else's.
    pub exclude: Vec<IpNet>,
    /// arp_ignore 1 and arp_announce 2: no ARP answers for addresses of other interfaces.
    pub strict_arp: bool,
    pub timeouts: IpvsTimeouts,
    pub virtual_addresses: VirtualAddressing,
    /// How long an endpoint that is gone may keep its connections; `None` has no bound.
    pub drain_timeout: Option<Duration>,
}

/// `ipvsadm --set`, in whole seconds; `None` leaves a timeout as it is. The kernel takes 24 days at the least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpvsTimeouts {
    /// Of idle connections.
    pub tcp: Option<Duration>,
    /// After a FIN.
    pub tcp_fin: Option<Duration>,
    pub udp: Option<Duration>,
}

/// A network of pods by plain routes between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Networks outside the cluster that see pods' own addresses.
    pub non_masquerade: Vec<IpNet>,
    /// Where runtimes look for network configurations.
    pub cni_conf_dir: PathBuf,
    /// Where runtimes look for plugins.
    pub cni_bin_dir: PathBuf,
    /// The plugin to be installed there; `None` is the one beside this program.
    pub cni_plugin: Option<PathBuf>,
    /// Where the plugin keeps which pod has which addresses.
    pub cni_data_dir: PathBuf,
}

/// What makes packets to virtual addresses this node's own, which IPVS needs to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtualAddressing {
    /// Local routes.
    Routes,
    /// Addresses of an interface of their own, as kube-proxy has them.
    Device,
}

/// Which externalIPs are believed (CVE-2020-8554).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedExternalIps {
    All,
    /// Only these; none if empty.
    In(Vec<IpNet>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// How late a sync may be before it counts as failing, and how often a failed one is tried again.
    pub sync: Duration,
    /// The least time between syncs. `None` adapts to what a sync costs.
    pub min_sync: Option<Duration>,
    /// How often objects are taken anew from the API server.
    pub config_sync: Duration,
    /// How often what is in the kernel is read back and compared.
    pub audit: Duration,
}

/// Where HTTP is served; `None` is nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub on_bind_failure: OnBindFailure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBindFailure {
    Exit,
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
    pub format: LogFormat,
    pub verbosity: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// klog's, as all of Kubernetes' node components write it.
    Text,
    Json,
}

/// The configuration in force, as a file would have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub kube_proxy: file::KubeProxyConfiguration,
    pub own: file::FerroviaConfiguration,
}
