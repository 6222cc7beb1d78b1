//! Flags about the network of pods.

use clap::Args;

/// A network of pods, for clusters in which nobody else makes one.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Pod network")]
pub struct PodNetwork {
    /// host-gw makes a network of pods by plain routes between nodes; none leaves that to others [default: none]
    #[arg(long, value_name = "KIND")]
    pub pod_network: Option<String>,
    /// Networks outside the cluster that see pods' own addresses instead of the node's [default: none]
    #[arg(long = "non-masquerade-cidrs", value_delimiter = ',', value_name = "CIDR")]
    pub non_masquerade_cidrs: Option<Vec<String>>,
    /// Where the container runtime looks for network configurations [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<String>,
    /// Where the container runtime looks for plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<String>,
    /// The plugin to be installed there [default: ferrovia-cni, beside this program]
    #[arg(long, value_name = "FILE")]
    pub cni_plugin: Option<String>,
    /// Where the plugin keeps which pod has which addresses [default: /var/lib/cni/ferrovia]
    #[arg(long, value_name = "DIR")]
    pub cni_data_dir: Option<String>,
}
