//! The configuration in force as a file would have it: `--write-config-to` and `/configz`.

use std::path::Path;

use serde_json::{Value, json};

use super::file::{FerroviaConfiguration, KubeProxyConfiguration};
use super::problem::ConfigError;
use super::{ModeName, Written};

/// The file that would give this configuration again.
///
/// It is what kube-proxy writes, sorted keys included, with two differences. A minimum sync period that was not given is
/// `0s`, which reads as "not given" here and as its default in kube-proxy; there it is `1s`. What only we have follows in
/// a document of its own, left out where it says nothing, so that kube-proxy can read the file too.
pub fn to_yaml(written: &Written) -> String {
    let mut text = yaml(&kube_proxy_value(&written.kube_proxy));
    if let Some(own) = own_value(&written.own) {
        text.push_str("---\n");
        text.push_str(&yaml(&own));
    }
    text
}

/// The body of `/configz`: the name of each API group, with what is in force of it.
pub fn config_z(written: &Written) -> String {
    let mut groups = json!({ "kubeproxy.config.k8s.io": kube_proxy_value(&written.kube_proxy) });
    if let Some(own) = own_value(&written.own) {
        groups["ferrovia.dev"] = own;
    }
    groups.to_string()
}

pub fn write_config(path: &Path, written: &Written) -> Result<(), ConfigError> {
    let write = std::fs::write(path, to_yaml(written));
    write.map_err(|source| ConfigError::Write { path: path.to_owned(), source })
}

fn kube_proxy_value(file: &KubeProxyConfiguration) -> Value {
    let mut file = file.clone();
    forget_other_modes(&mut file);
    for min in [
        &mut file.iptables.min_sync_period,
        &mut file.ipvs.min_sync_period,
        &mut file.nftables.min_sync_period,
    ] {
        keep_explicit_zero(min);
    }
    // Plain structs of text, numbers and lists cannot fail to become JSON.
    serde_json::to_value(file).unwrap_or_default()
}

/// kube-proxy has one pair of sync periods, which it writes into the section of the mode in use and nowhere else.
fn forget_other_modes(file: &mut KubeProxyConfiguration) {
    let mode = ModeName::ALL.into_iter().find(|mode| Some(mode.name()) == file.mode.as_deref());
    let zero = || Some("0s".to_owned());
    if mode != Some(ModeName::Ipvs) {
        (file.ipvs.sync_period, file.ipvs.min_sync_period) = (zero(), None);
    }
    if mode != Some(ModeName::Nftables) {
        (file.nftables.sync_period, file.nftables.min_sync_period) = (zero(), None);
    }
    if matches!(mode, Some(ModeName::Ipvs | ModeName::Nftables)) {
        (file.iptables.sync_period, file.iptables.min_sync_period) = (zero(), None);
    }
}

/// A `0s` in a file reads as absent, so that an explicit zero has to be the next thing to it.
fn keep_explicit_zero(min: &mut Option<String>) {
    *min = Some(match min.as_deref() {
        None => "0s".to_owned(),
        Some(text) if text.parse().is_ok_and(super::duration::GoDuration::is_zero) => "1ns".to_owned(),
        Some(text) => text.to_owned(),
    });
}

/// `None` if it holds nothing but defaults.
fn own_value(own: &FerroviaConfiguration) -> Option<Value> {
    let mut defaults = FerroviaConfiguration::default();
    super::defaults::fill_own(&mut defaults);
    (*own != defaults).then(|| serde_json::to_value(own).unwrap_or_default())
}

fn yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // JSON values always have a YAML form.
    serde_saphyr::to_string_with_options(value, options).unwrap_or_default()
}
