//! `ferrovia cleanup`: takes everything out again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;

use crate::kernel::iptables::Programs;
use crate::model::Family;
use crate::modes::iptables::{Iptables, Settings, remove_kube_proxy};
use crate::modes::ipvs::{self, DeviceUse, KubeProxy, Remains};
use crate::modes::nftables::LeftTable;
use crate::modes::userspace::{LeftDelivery, LeftRules};
use crate::modes::{Leftovers, Mode};
use crate::podnet;
use crate::podnet::conflist::STATE;
use crate::sync::sources::{annotations, cluster, condition};

#[derive(Args)]
pub struct Arguments {
    /// Where the container runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where it looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// The API server on which to take back what the pod network says of this node
    #[arg(long, value_name = "FILE", requires = "hostname_override")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node's Node there
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub hostname_override: Option<String>,
}

/// Where a container runtime looks.
#[derive(Clone, Copy, Debug)]
pub struct CniDirectories<'a> {
    pub configurations: &'a Path,
    pub plugins: &'a Path,
}

/// The Node of this node, and where it is.
pub struct OwnNode {
    pub address: cluster::Address,
    pub name: String,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let node = arguments.kubeconfig.clone().zip(arguments.hostname_override.clone()).map(|(file, name)| {
        OwnNode { address: cluster::Address { kubeconfig: Some(file), master: None }, name }
    });
    let cni = CniDirectories { configurations: &arguments.cni_conf_dir, plugins: &arguments.cni_bin_dir };
    clean(cni, node)
}

/// Everything on this node, and on its Node where one is given.
pub fn clean(cni: CniDirectories<'_>, node: Option<OwnNode>) -> anyhow::Result<ExitCode> {
    let taken_back = node.map_or(Ok(()), |node| take_back(&node));
    let taken_back = taken_back.inspect_err(|error| eprintln!("Error: {error:#}"));
    match cleanup(cni) + usize::from(taken_back.is_err()) {
        0 => Ok(ExitCode::SUCCESS),
        errors => anyhow::bail!("{errors} of the removals failed; what could be removed is gone"),
    }
}

/// The annotations and the condition of a Node whose pod network goes.
fn take_back(node: &OwnNode) -> anyhow::Result<()> {
    let said = |what: &str, said: Result<(), String>| {
        said.map_err(|error| anyhow!("cannot take {what} from Node {}: {error}", node.name))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = cluster::Connection::new(node.address.clone()).await?;
        said("annotations", annotations::remove(&connection, &node.name).await)?;
        said("the condition of its network", condition::remove(&connection, &node.name).await)
    })
}

/// Removes everything that any mode of this program, its pod network or kube-proxy may have written, both families and both
/// flavours. Goes on after an error; returns how many there were.
pub fn cleanup(cni: CniDirectories<'_>) -> usize {
    // First of all the network configuration: no more pods come to a node that is being cleared.
    let mut errors = podnet::cleanup(cni.configurations, cni.plugins, Path::new(STATE));
    for family in Family::ALL {
        let doors = Programs::installed(family);
        // Sets can go only when no rule of either flavour asks them any more.
        for door in doors {
            errors.extend(clean_rules(door));
        }
        errors.extend(clean_others(family));
    }
    errors.iter().for_each(|error| eprintln!("Error: {error}"));
    errors.len()
}

fn clean_rules(mut door: Programs) -> Vec<String> {
    let kube_proxy = remove_kube_proxy(&mut door).map_err(|error| error.to_string());
    let ours = Iptables::new(door, Settings::default()).cleanup().map_err(|error| error.to_string());
    [kube_proxy, ours].into_iter().filter_map(Result::err).collect()
}

fn clean_others(family: Family) -> Vec<String> {
    let mut leftovers: Vec<Box<dyn Leftovers>> = vec![
        Box::new(KubeProxy { family, device: DeviceUse::Nobodys }),
        Box::new(Remains::new(family, Duration::ZERO)),
        Box::new(LeftTable::kube_proxys(family)),
        Box::new(LeftTable::ours(family)),
        Box::new(LeftRules(family)),
        Box::new(LeftDelivery(family)),
    ];
    leftovers
        .iter_mut()
        .filter_map(|left| left.remove(Instant::now()).err())
        .map(|error| format!("{family}: {}", ipvs::Error::Leftovers(error)))
        .collect()
}
