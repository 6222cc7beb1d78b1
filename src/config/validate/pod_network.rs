//! The options of the pod network.

use std::path::PathBuf;

use super::checks::Checks;
use crate::config::PodNetwork;
use crate::config::file::FerroviaConfiguration;

pub fn pod_network(checks: &mut Checks, own: &FerroviaConfiguration) -> Option<PodNetwork> {
    let non_masquerade = own.non_masquerade_cidrs.iter().flatten();
    let network = PodNetwork {
        non_masquerade: non_masquerade
            .filter_map(|item| checks.network("nonMasqueradeCIDRs", item))
            .collect(),
        cni_conf_dir: path(checks, "cniConfDir", &own.cni_conf_dir).unwrap_or_default(),
        cni_bin_dir: path(checks, "cniBinDir", &own.cni_bin_dir).unwrap_or_default(),
        cni_plugin: path(checks, "cniPlugin", &own.cni_plugin),
        cni_data_dir: path(checks, "cniDataDir", &own.cni_data_dir).unwrap_or_default(),
    };
    match own.pod_network.as_deref() {
        Some("host-gw") => Some(network),
        None | Some("none") => {
            let unused = [&own.cni_conf_dir, &own.cni_bin_dir, &own.cni_plugin, &own.cni_data_dir]
                .iter()
                .any(|text| text.is_some());
            if unused || own.non_masquerade_cidrs.as_ref().is_some_and(|list| !list.is_empty()) {
                checks.warn("options of the pod network have no effect without --pod-network=host-gw");
            }
            None
        }
        Some(_) => {
            checks.refuse("podNetwork", &own.pod_network, "must be host-gw or none");
            None
        }
    }
}

/// Runtimes have other working directories.
fn path(checks: &mut Checks, field: &'static str, typed: &Option<String>) -> Option<PathBuf> {
    let path = PathBuf::from(typed.as_deref().filter(|text| !text.is_empty())?);
    if !path.is_absolute() {
        checks.refuse(field, typed, "must be an absolute path");
    }
    Some(path)
}
