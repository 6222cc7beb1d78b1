//! Reading single fields, and noting by the right name what cannot be read.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::duration::GoDuration;
use crate::config::overlay::Overlay;
use crate::config::problem::{Problem, Problems, Setting};

/// Fields of the documents that have a flag.
const FLAGS: [(&str, &str); 54] = [
    ("allowedExternalIPs", "allowed-external-ips"),
    ("auditPeriod", "audit-period"),
    ("bindAddress", "bind-address"),
    ("clientConnection.burst", "kube-api-burst"),
    ("clusterCIDR", "cluster-cidr"),
    ("cniBinDir", "cni-bin-dir"),
    ("cniConfDir", "cni-conf-dir"),
    ("cniDataDir", "cni-data-dir"),
    ("cniPlugin", "cni-plugin"),
    ("configSyncPeriod", "config-sync-period"),
    ("conntrack.maxPerCore", "conntrack-max-per-core"),
    ("conntrack.min", "conntrack-min"),
    ("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait"),
    ("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established"),
    ("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream"),
    ("conntrack.udpTimeout", "conntrack-udp-timeout"),
    ("detectLocal.bridgeInterface", "pod-bridge-interface"),
    ("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix"),
    ("detectLocalMode", "detect-local-mode"),
    ("healthzBindAddress", "healthz-bind-address"),
    ("hostnameOverride", "hostname-override"),
    ("iptables.masqueradeBit", "iptables-masquerade-bit"),
    ("iptables.minSyncPeriod", "iptables-min-sync-period"),
    ("iptables.syncPeriod", "iptables-sync-period"),
    ("iptablesFlavour", "iptables-flavour"),
    ("ipvs.excludeCIDRs", "ipvs-exclude-cidrs"),
    ("ipvs.minSyncPeriod", "ipvs-min-sync-period"),
    ("ipvs.scheduler", "ipvs-scheduler"),
    ("ipvs.syncPeriod", "ipvs-sync-period"),
    ("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout"),
    ("ipvs.tcpTimeout", "ipvs-tcp-timeout"),
    ("ipvs.udpTimeout", "ipvs-udp-timeout"),
    ("ipvsDrainTimeout", "ipvs-drain-timeout"),
    ("ipvsSchedulerFlags", "ipvs-scheduler-flags"),
    ("ipvsVirtualAddresses", "ipvs-virtual-addresses"),
    ("logging.flushFrequency", "log-flush-frequency"),
    ("logging.format", "logging-format"),
    ("logging.verbosity", "v"),
    ("manifests", "manifests"),
    ("metricsBindAddress", "metrics-bind-address"),
    ("mode", "proxy-mode"),
    ("nftables.minSyncPeriod", "iptables-min-sync-period"),
    ("nftables.syncPeriod", "iptables-sync-period"),
    ("nodePortAddresses", "nodeport-addresses"),
    ("nonMasqueradeCIDRs", "non-masquerade-cidrs"),
    ("oomScoreAdj", "oom-score-adj"),
    ("podNetwork", "pod-network"),
    ("scheduler", "scheduler"),
    ("serviceCounters", "service-counters"),
    ("userspaceCapture", "userspace-capture"),
    ("userspaceDrainTimeout", "userspace-drain-timeout"),
    ("userspaceMaxConnections", "userspace-max-connections"),
    ("userspaceMaxPipes", "userspace-max-pipes"),
    ("userspaceMaxUdpFlows", "userspace-max-udp-flows"),
];

pub(super) struct Checks {
    given: Vec<&'static str>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Checks {
    pub fn new(overlay: Overlay, warnings: Vec<String>) -> Self {
        Checks { given: overlay.given, problems: overlay.problems, warnings }
    }

    /// The warnings, or every problem there is.
    pub fn finish(self) -> Result<Vec<String>, Problems> {
        if self.problems.is_empty() { Ok(self.warnings) } else { Err(Problems(self.problems)) }
    }

    pub fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    pub fn refuse(&mut self, field: &'static str, value: impl Typed, message: impl Into<String>) {
        let problem = Problem { setting: self.setting(field), value: value.typed(), message: message.into() };
        self.problems.push(problem);
    }

    /// The flag if that is what was typed, otherwise the field.
    fn setting(&self, field: &'static str) -> Setting {
        let flag = FLAGS.iter().find(|(name, _)| *name == field).map(|(_, flag)| *flag);
        match flag.filter(|flag| self.given.contains(flag)) {
            Some(flag) => Setting::Flag(flag),
            None => Setting::Field(field),
        }
    }

    pub fn name(&self, field: &'static str) -> String {
        match self.setting(field) {
            Setting::Flag(flag) => format!("--{flag}"),
            Setting::Field(field) => field.to_owned(),
        }
    }

    pub fn parse<T: FromStr>(
        &mut self,
        field: &'static str,
        typed: &Option<String>,
        message: &str,
    ) -> Option<T> {
        let parsed = typed.as_deref().unwrap_or_default().parse().ok();
        if parsed.is_none() {
            self.refuse(field, typed, message);
        }
        parsed
    }

    pub fn in_range(&mut self, field: &'static str, typed: Option<i32>, range: RangeInclusive<i32>) -> i32 {
        match typed.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                self.refuse(field, &typed, format!("must be within {} to {}", range.start(), range.end()));
                *range.start()
            }
        }
    }

    pub fn count(&mut self, field: &'static str, typed: Option<i32>) -> u32 {
        self.in_range(field, typed, 0..=i32::MAX).unsigned_abs()
    }

    /// A duration that may be zero.
    pub fn duration(&mut self, field: &'static str, typed: &Option<String>) -> Duration {
        match typed.as_deref().unwrap_or_default().parse::<GoDuration>() {
            Ok(duration) => duration.non_negative().unwrap_or_else(|| {
                self.refuse(field, typed, "must not be negative");
                Duration::ZERO
            }),
            Err(error) => {
                self.refuse(field, typed, error.to_string());
                Duration::ZERO
            }
        }
    }

    pub fn positive(&mut self, field: &'static str, typed: &Option<String>) -> Duration {
        let problems = self.problems.len();
        let duration = self.duration(field, typed);
        if duration.is_zero() && self.problems.len() == problems {
            self.refuse(field, typed, "must be longer than 0");
        }
        duration
    }

    /// `None` for zero, which leaves a timeout as it is.
    pub fn timeout(&mut self, field: &'static str, typed: &Option<String>) -> Option<Duration> {
        Some(self.duration(field, typed)).filter(|duration| !duration.is_zero())
    }

    /// A network; bits beyond its prefix are cut off, as kube-proxy does.
    pub fn network(&mut self, field: &'static str, typed: &str) -> Option<IpNet> {
        match typed.parse::<IpNet>() {
            Ok(network) => Some(network.trunc()),
            Err(_) => {
                self.refuse(field, typed, "must be a network such as 10.244.0.0/16 or fd00:244::/48");
                None
            }
        }
    }

    /// `None` for an empty address, which is nowhere.
    pub fn socket(&mut self, field: &'static str, typed: &Option<String>) -> Option<SocketAddr> {
        if typed.as_ref().is_none_or(String::is_empty) {
            return None;
        }
        let message = "must be an address and port such as 0.0.0.0:10256 or [::]:10256";
        let address: SocketAddr = self.parse(field, typed, message)?;
        if address.port() == 0 {
            self.refuse(field, typed, "must have a port within 1 to 65535");
        }
        Some(address)
    }

    /// An interface's name, or what it begins with.
    pub fn interface(&mut self, field: &'static str, typed: &Option<String>) -> String {
        // IFNAMSIZ, with the byte that ends a C string.
        const MAX: usize = 15;
        let name = typed.clone().unwrap_or_default();
        if name.is_empty() || name.len() > MAX || name.contains(|c: char| c.is_whitespace() || c == '/') {
            self.refuse(field, typed, "must be an interface name of 1 to 15 bytes");
        }
        name
    }
}

/// What the user wrote, for an error message.
pub(super) trait Typed {
    fn typed(&self) -> String;
}

impl<T: Display> Typed for &Option<T> {
    fn typed(&self) -> String {
        self.as_ref().map(T::to_string).unwrap_or_default()
    }
}

impl Typed for &str {
    fn typed(&self) -> String {
        (*self).to_owned()
    }
}

impl Typed for String {
    fn typed(&self) -> String {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};
    use serde_json::Value;

    use super::*;
    use crate::config::file::{FerroviaConfiguration, KubeProxyConfiguration};
    use crate::config::flags::Flags;

    fn has_field(document: &Value, path: &str) -> bool {
        path.split('.').try_fold(document, |value, field| value.get(field)).is_some()
    }

    #[test]
    fn every_name_is_one_of_a_flag_and_of_a_field() {
        let command = Flags::augment_args(Command::new("test"));
        let text = || Some(String::new());
        let own = FerroviaConfiguration {
            manifests: text(),
            allowed_external_ips: Some(vec![]),
            scheduler: text(),
            iptables_flavour: text(),
            audit_period: text(),
            ipvs_scheduler_flags: Some(vec![]),
            ipvs_virtual_addresses: text(),
            ipvs_drain_timeout: text(),
            service_counters: Some(true),
            userspace_capture: text(),
            userspace_drain_timeout: text(),
            userspace_max_connections: Some(1),
            userspace_max_pipes: Some(1),
            userspace_max_udp_flows: Some(1),
            pod_network: text(),
            non_masquerade_cidrs: Some(vec![]),
            cni_conf_dir: text(),
            cni_bin_dir: text(),
            cni_plugin: text(),
            cni_data_dir: text(),
            ..Default::default()
        };
        let own = serde_json::to_value(own).unwrap();
        let kube_proxy = serde_json::to_value(KubeProxyConfiguration::default()).unwrap();
        for (field, flag) in FLAGS {
            assert!(command.get_arguments().any(|argument| argument.get_long() == Some(flag)), "--{flag}");
            assert!(has_field(&kube_proxy, field) || has_field(&own, field), "{field}");
        }
    }
}
