//! From flags, and the file that they may name, to one configuration.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::decode::{Decoded, decode};
use super::file::KubeProxyConfiguration;
use super::flags::{Flags, General};
use super::overlay::Overlay;
use super::problem::{ConfigError, Problems};
use super::validate::{CommandLine, validate};
use super::{Action, Config, ModeName, defaults};

/// Reads the configuration file, if any, and this machine's host name. Where no mode is asked for, it is iptables.
pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
    load_with_default(flags, || ModeName::Iptables)
}

/// The same where the mode depends on this machine. `default` is asked only if it counts: a configuration that is merely
/// written down must not depend on the kernel.
pub fn load_with_default(flags: &Flags, default: impl FnOnce() -> ModeName) -> Result<Config, ConfigError> {
    let file = match &flags.general.config {
        Some(path) if !path.is_empty() => Some(read(Path::new(path))?),
        _ => None,
    };
    let hostname = rustix::system::uname().nodename().to_str().map(str::to_owned);
    let hostname = hostname
        .map_err(|_| ConfigError::Hostname(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")))?;
    Ok(resolve_with_default(flags, file, &hostname, default)?)
}

fn read(path: &Path) -> Result<Decoded, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    decode(&text).map_err(|source| ConfigError::Decode { path: path.to_owned(), source })
}

/// Makes one configuration of everything, or reports everything that is wrong with it.
///
/// A file takes the place of kube-proxy's flags, but for those about logging, the host name and what to do at all.
pub fn resolve(flags: &Flags, file: Option<Decoded>, hostname: &str) -> Result<Config, Problems> {
    resolve_with_default(flags, file, hostname, || ModeName::Iptables)
}

fn resolve_with_default(
    flags: &Flags,
    file: Option<Decoded>,
    hostname: &str,
    default: impl FnOnce() -> ModeName,
) -> Result<Config, Problems> {
    let mut overlay = Overlay::default();
    let (mut kube_proxy, mut own, mut warnings) = match file {
        Some(mut decoded) => {
            defaults::forget_zeros(&mut decoded.kube_proxy);
            decoded.warnings.extend(ignored_flags(flags));
            (decoded.kube_proxy, decoded.own, decoded.warnings)
        }
        None => {
            let mut kube_proxy = KubeProxyConfiguration::default();
            overlay.replaced_by_file(flags, &mut kube_proxy);
            apply_deprecated_ports(&flags.general, &mut kube_proxy, &mut overlay);
            (kube_proxy, Default::default(), Vec::new())
        }
    };
    overlay.beside_file(flags, &mut kube_proxy);
    overlay.own(&flags.own, &mut own);
    let action = action(&flags.general, &mut overlay);
    warnings.extend(flags_without_effect(&overlay.given));
    if action == Action::Run && kube_proxy.mode.as_ref().is_none_or(String::is_empty) {
        kube_proxy.mode = Some(default().name().to_owned());
    }
    defaults::fill(&mut kube_proxy);
    defaults::fill_own(&mut own);
    let command_line = CommandLine { action, master: flags.general.master.clone(), overlay, warnings };
    validate(kube_proxy, own, command_line, hostname)
}

/// Flags silently ignored have cost many an hour (k8s#57144).
fn ignored_flags(flags: &Flags) -> Option<String> {
    let mut overlay = Overlay::default();
    overlay.replaced_by_file(flags, &mut KubeProxyConfiguration::default());
    let names: Vec<String> = overlay.given.iter().map(|name| format!("--{name}")).collect();
    (!names.is_empty())
        .then(|| format!("the configuration file takes the place of these flags: {}", names.join(", ")))
}

fn flags_without_effect(given: &[&'static str]) -> Vec<String> {
    const WITHOUT_EFFECT: [(&str, &str); 5] = [
        ("healthz-port", "is deprecated: use --healthz-bind-address"),
        ("metrics-port", "is deprecated: use --metrics-bind-address"),
        ("vmodule", "has no effect: --v counts for every source file"),
        ("log-text-split-stream", "has no effect: all messages go to standard error"),
        ("log-json-split-stream", "has no effect: all messages go to standard error"),
    ];
    let matching = WITHOUT_EFFECT.iter().filter(|(flag, _)| given.contains(flag));
    matching.map(|(flag, message)| format!("--{flag} {message}")).collect()
}

/// Port 0 disables a server. Another one counts where the address says none, as it does in kube-proxy, and also where
/// there is no address.
fn apply_deprecated_ports(flags: &General, file: &mut KubeProxyConfiguration, overlay: &mut Overlay) {
    let (any, loopback) = defaults::hosts(file.bind_address.as_deref());
    let (mut healthz, mut metrics) = (None, None);
    overlay.number("healthz-port", &flags.healthz_port, &mut healthz);
    overlay.number("metrics-port", &flags.metrics_port, &mut metrics);
    for (port, address, host) in
        [(healthz, &mut file.healthz_bind_address, any), (metrics, &mut file.metrics_bind_address, loopback)]
    {
        match port {
            None => {}
            Some(0) => *address = Some(String::new()),
            Some(port) => {
                let text = address.take().unwrap_or_else(|| host.to_string());
                *address = Some(defaults::with_port(text, port));
            }
        }
    }
}

fn action(flags: &General, overlay: &mut Overlay) -> Action {
    let (mut cleanup, mut init_only) = (None, None);
    overlay.boolean("cleanup", &flags.cleanup, &mut cleanup);
    overlay.boolean("init-only", &flags.init_only, &mut init_only);
    match &flags.write_config_to {
        Some(path) if !path.is_empty() => Action::WriteConfig(PathBuf::from(path)),
        _ if cleanup == Some(true) => Action::Cleanup,
        _ if init_only == Some(true) => Action::InitOnly,
        _ => Action::Run,
    }
}

#[cfg(test)]
mod tests;
