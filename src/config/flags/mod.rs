//! The command line as typed: every flag that kube-proxy has, and ours.
//!
//! All values are text here, so that everything wrong with them is reported together and in one way, be it from flags
//! or from a file.

mod data_plane;
mod general;
mod pod_network;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Args;

pub use data_plane::{Conntrack, DataPlane, Ipvs};
pub use general::{Elsewhere, General, Logging, Own};
pub use pod_network::PodNetwork;

#[derive(Args, Clone, Debug, Default)]
// As for Go's flags, the last one of several counts.
#[command(args_override_self = true)]
pub struct Flags {
    #[command(flatten)]
    pub general: General,
    #[command(flatten)]
    pub data_plane: DataPlane,
    #[command(flatten)]
    pub ipvs: Ipvs,
    #[command(flatten)]
    pub conntrack: Conntrack,
    #[command(flatten)]
    pub logging: Logging,
    #[command(flatten)]
    pub own: Own,
    #[command(flatten)]
    pub elsewhere: Elsewhere,
}

/// Whether this process was started as kube-proxy, whose command line has no subcommands.
pub fn is_kube_proxy(argv0: &OsStr) -> bool {
    Path::new(argv0).file_stem().is_some_and(|name| name == "kube-proxy")
}

/// Flag names with dashes for underscores: kube-proxy takes `--cluster_cidr` for `--cluster-cidr`.
pub fn normalize(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    arguments.into_iter().map(normalize_one).collect()
}

fn normalize_one(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    format!("--{}{value}", name.replace('_', "-")).into()
}

#[cfg(test)]
mod tests;
