//! Whether a configuration makes sense, and what it means.
//!
//! Each function reads some fields and notes what is wrong with them; with anything wrong, the value that it returns is
//! never used.

mod checks;
mod ipvs;
mod pod_network;

use std::net::IpAddr;
use std::path::PathBuf;

use super::file::{self, FerroviaConfiguration, KubeProxyConfiguration};
use super::overlay::Overlay;
use super::problem::Problems;
use super::{
    Action, AllowedExternalIps, CaptureBy, Config, DetectLocal, IptablesFlavour, LogFormat, Logging,
    Masquerade, ModeName, NodePortSetting, OnBindFailure, Periods, Serving, Source, SourceAddress, Userspace,
    UserspaceLimits, Written,
};
use crate::kernel::sysctl::Conntrack;
use crate::model::{Family, Scheduler};
use checks::Checks;

/// What is said outside the two documents.
pub(super) struct CommandLine {
    pub action: Action,
    pub master: Option<String>,
    pub overlay: Overlay,
    pub warnings: Vec<String>,
}

pub(super) fn validate(
    file: KubeProxyConfiguration,
    own: FerroviaConfiguration,
    command_line: CommandLine,
    hostname: &str,
) -> Result<Config, Problems> {
    let CommandLine { action, master, overlay, warnings } = command_line;
    let mut checks = Checks::new(overlay, warnings);
    let mode = mode(&mut checks, &file);
    if file.client_connection.burst.is_some_and(|burst| burst < 0) {
        checks.refuse("clientConnection.burst", &file.client_connection.burst, "must be 0 or more");
    }
    let config = Config {
        action,
        node_name: node_name(&mut checks, &file, hostname),
        source: source(&file, &own, master),
        node_ip: node_ip(&mut checks, &file),
        mode,
        scheduler: scheduler(&mut checks, mode, &own),
        service_counters: service_counters(&mut checks, mode, &own),
        masquerade: masquerade(&mut checks, mode, &file),
        localhost_node_ports: file.iptables.localhost_node_ports.unwrap_or_default(),
        iptables_flavour: iptables_flavour(&mut checks, &own),
        ipvs: ipvs::ipvs(&mut checks, &file.ipvs, &own),
        userspace: Userspace {
            source: match own.preserve_source {
                Some(true) => SourceAddress::PreservedOnThisNode,
                _ => SourceAddress::Replaced,
            },
            capture: userspace_capture(&mut checks, &own),
            drain_timeout: checks.timeout("userspaceDrainTimeout", &own.userspace_drain_timeout),
            limits: userspace_limits(&mut checks, &own),
        },
        pod_network: pod_network::pod_network(&mut checks, &own),
        detect_local: detect_local(&mut checks, &file),
        node_port_addresses: node_port_addresses(&mut checks, &file),
        allowed_external_ips: allowed_external_ips(&mut checks, &file, &own),
        periods: periods(&mut checks, mode, &file, &own),
        conntrack: conntrack(&mut checks, &file.conntrack),
        oom_score_adj: checks.in_range("oomScoreAdj", file.oom_score_adj, -1000..=1000),
        serving: serving(&mut checks, &file),
        logging: logging(&mut checks, &file.logging),
        warnings: Vec::new(),
        written: Written { kube_proxy: file, own },
    };
    let warnings = checks.finish()?;
    Ok(Config { warnings, ..config })
}

fn mode(checks: &mut Checks, file: &KubeProxyConfiguration) -> ModeName {
    let typed = file.mode.as_deref().unwrap_or_default();
    match ModeName::ALL.into_iter().find(|mode| mode.name() == typed) {
        Some(mode) => mode,
        None => {
            checks.refuse("mode", &file.mode, "must be userspace, iptables, ipvs or nftables");
            ModeName::Iptables
        }
    }
}

fn node_name(checks: &mut Checks, file: &KubeProxyConfiguration, hostname: &str) -> String {
    let typed = file.hostname_override.as_deref().unwrap_or_default();
    let name = if typed.is_empty() { hostname } else { typed }.trim().to_lowercase();
    if name.is_empty() {
        checks.refuse("hostnameOverride", &file.hostname_override, "must not be empty");
    }
    name
}

fn source(file: &KubeProxyConfiguration, own: &FerroviaConfiguration, master: Option<String>) -> Source {
    match own.manifests.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => Source::Manifests(PathBuf::from(path)),
        None => {
            let kubeconfig = file.client_connection.kubeconfig.as_deref().filter(|path| !path.is_empty());
            let master = master.filter(|url| !url.is_empty());
            Source::ApiServer { kubeconfig: kubeconfig.map(PathBuf::from), master }
        }
    }
}

fn node_ip(checks: &mut Checks, file: &KubeProxyConfiguration) -> Option<IpAddr> {
    let address: Option<IpAddr> = checks.parse("bindAddress", &file.bind_address, "must be an IP address");
    address.filter(|address| !address.is_unspecified())
}

fn service_counters(checks: &mut Checks, mode: ModeName, own: &FerroviaConfiguration) -> bool {
    let wanted = own.service_counters.unwrap_or_default();
    if wanted && mode != ModeName::Nftables {
        checks.warn(format!(
            "--service-counters: the {} mode does not count; the nftables mode does",
            mode.name()
        ));
    }
    wanted
}

/// The IPVS mode has its own flag, which the other modes ignore as they do in kube-proxy.
fn scheduler(checks: &mut Checks, mode: ModeName, own: &FerroviaConfiguration) -> Option<Scheduler> {
    let typed = own.scheduler.as_deref().filter(|name| !name.is_empty())?;
    if mode == ModeName::Ipvs {
        checks.refuse("scheduler", &own.scheduler, "the ipvs mode takes --ipvs-scheduler");
    }
    match typed.parse() {
        Ok(scheduler) => Some(scheduler),
        Err(error) => {
            checks.refuse("scheduler", &own.scheduler, format!("{error}"));
            None
        }
    }
}

fn masquerade(checks: &mut Checks, mode: ModeName, file: &KubeProxyConfiguration) -> Masquerade {
    let bit = checks.in_range("iptables.masqueradeBit", file.iptables.masquerade_bit, 0..=31);
    let (bit, all) = match mode {
        ModeName::Nftables => {
            let bit = checks.in_range("nftables.masqueradeBit", file.nftables.masquerade_bit, 0..=31);
            (bit, file.nftables.masquerade_all)
        }
        _ => (bit, file.iptables.masquerade_all),
    };
    Masquerade { mark: 1 << bit, all: all.unwrap_or_default() }
}

fn iptables_flavour(checks: &mut Checks, own: &FerroviaConfiguration) -> IptablesFlavour {
    match own.iptables_flavour.as_deref() {
        Some("legacy") => IptablesFlavour::Legacy,
        Some("nft") => IptablesFlavour::Nft,
        Some("auto") => IptablesFlavour::Auto,
        _ => {
            checks.refuse("iptablesFlavour", &own.iptables_flavour, "must be auto, legacy or nft");
            IptablesFlavour::Auto
        }
    }
}

fn userspace_limits(checks: &mut Checks, own: &FerroviaConfiguration) -> UserspaceLimits {
    let mut limit = |field, typed: Option<i32>, least| {
        typed.map(|_| checks.in_range(field, typed, least..=i32::MAX).unsigned_abs() as usize)
    };
    UserspaceLimits {
        connections: limit("userspaceMaxConnections", own.userspace_max_connections, 1),
        pipes: limit("userspaceMaxPipes", own.userspace_max_pipes, 0),
        udp_flows: limit("userspaceMaxUdpFlows", own.userspace_max_udp_flows, 1),
    }
}

fn userspace_capture(checks: &mut Checks, own: &FerroviaConfiguration) -> CaptureBy {
    match own.userspace_capture.as_deref() {
        Some("nftables") => CaptureBy::Nftables,
        Some("iptables") => CaptureBy::Iptables,
        Some("auto") => CaptureBy::Auto,
        _ => {
            checks.refuse("userspaceCapture", &own.userspace_capture, "must be auto, nftables or iptables");
            CaptureBy::Auto
        }
    }
}

fn detect_local(checks: &mut Checks, file: &KubeProxyConfiguration) -> DetectLocal {
    let detect = &file.detect_local;
    match file.detect_local_mode.as_deref() {
        Some("ClusterCIDR") => cluster_cidr(checks, &file.cluster_cidr),
        Some("NodeCIDR") => DetectLocal::NodeCidr,
        Some("BridgeInterface") => DetectLocal::BridgeInterface(
            checks.interface("detectLocal.bridgeInterface", &detect.bridge_interface),
        ),
        Some("InterfaceNamePrefix") => DetectLocal::InterfaceNamePrefix(
            checks.interface("detectLocal.interfaceNamePrefix", &detect.interface_name_prefix),
        ),
        _ => {
            let known = "must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
            checks.refuse("detectLocalMode", &file.detect_local_mode, known);
            DetectLocal::None
        }
    }
}

fn cluster_cidr(checks: &mut Checks, typed: &Option<String>) -> DetectLocal {
    const FIELD: &str = "clusterCIDR";
    let text = typed.as_deref().unwrap_or_default();
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        checks.warn(
            "no cluster CIDR is given: traffic from outside the cluster to ClusterIPs is not masqueraded",
        );
        return DetectLocal::None;
    }
    let networks: Vec<_> = parts.iter().filter_map(|part| checks.network(FIELD, part)).collect();
    match networks[..] {
        _ if parts.len() > 2 => checks.refuse(FIELD, typed, "must be one network, or one of each family"),
        [a, b] if Family::of(a.addr()) == Family::of(b.addr()) => {
            checks.refuse(FIELD, typed, "two networks must be of different families");
        }
        _ => {}
    }
    DetectLocal::ClusterCidr(networks)
}

fn node_port_addresses(checks: &mut Checks, file: &KubeProxyConfiguration) -> NodePortSetting {
    const FIELD: &str = "nodePortAddresses";
    let typed = file.node_port_addresses.as_deref().unwrap_or_default();
    match typed {
        [] => {
            checks
                .warn("no --nodeport-addresses are given: NodePorts are open on every address of this node");
            NodePortSetting::All
        }
        [single] if single == "primary" => NodePortSetting::Primary,
        _ if typed.iter().any(|item| item == "primary") => {
            checks.refuse(FIELD, typed.join(","), "\"primary\" must stand alone");
            NodePortSetting::Primary
        }
        _ => NodePortSetting::In(typed.iter().filter_map(|item| checks.network(FIELD, item)).collect()),
    }
}

/// kube-proxy's gate lets everything through unless it is switched off. Here only an explicit `true` does (CVE-2020-8554).
fn allowed_external_ips(
    checks: &mut Checks,
    file: &KubeProxyConfiguration,
    own: &FerroviaConfiguration,
) -> AllowedExternalIps {
    const FIELD: &str = "allowedExternalIPs";
    const GATE: &str = "AllowServiceExternalIPs";
    let typed = own.allowed_external_ips.as_deref().unwrap_or_default();
    let networks: Vec<_> = typed.iter().filter_map(|item| checks.network(FIELD, item)).collect();
    for name in file.feature_gates.keys().filter(|name| *name != GATE) {
        checks.warn(format!("feature gate {name} has no meaning here"));
    }
    match file.feature_gates.get(GATE) {
        Some(gate) if !typed.is_empty() => {
            checks.refuse(FIELD, typed.join(","), format!("contradicts feature gate {GATE}={gate}"));
            AllowedExternalIps::In(networks)
        }
        Some(true) => AllowedExternalIps::All,
        _ => AllowedExternalIps::In(networks),
    }
}

fn periods(
    checks: &mut Checks,
    mode: ModeName,
    file: &KubeProxyConfiguration,
    own: &FerroviaConfiguration,
) -> Periods {
    let [(sync_field, sync), (min_field, min)] = sync_fields(mode, file);
    let periods = Periods {
        sync: checks.positive(sync_field, sync),
        min_sync: min.is_some().then(|| checks.duration(min_field, min)),
        config_sync: checks.positive("configSyncPeriod", &file.config_sync_period),
        audit: checks.positive("auditPeriod", &own.audit_period),
    };
    if !periods.sync.is_zero() && periods.min_sync.is_some_and(|min| min > periods.sync) {
        let than = checks.name(sync_field);
        checks.refuse(min_field, min, format!("must not be longer than {than}"));
    }
    periods
}

/// The sync period and its minimum, of the section that the mode has.
fn sync_fields(mode: ModeName, file: &KubeProxyConfiguration) -> [(&'static str, &Option<String>); 2] {
    let KubeProxyConfiguration { iptables, ipvs, nftables, .. } = file;
    match mode {
        ModeName::Iptables | ModeName::Userspace => [
            ("iptables.syncPeriod", &iptables.sync_period),
            ("iptables.minSyncPeriod", &iptables.min_sync_period),
        ],
        ModeName::Ipvs => {
            [("ipvs.syncPeriod", &ipvs.sync_period), ("ipvs.minSyncPeriod", &ipvs.min_sync_period)]
        }
        ModeName::Nftables => [
            ("nftables.syncPeriod", &nftables.sync_period),
            ("nftables.minSyncPeriod", &nftables.min_sync_period),
        ],
    }
}

fn conntrack(checks: &mut Checks, typed: &file::Conntrack) -> Conntrack {
    Conntrack {
        max_per_core: checks.count("conntrack.maxPerCore", typed.max_per_core),
        min: checks.count("conntrack.min", typed.min),
        tcp_established_timeout: checks
            .timeout("conntrack.tcpEstablishedTimeout", &typed.tcp_established_timeout),
        tcp_close_wait_timeout: checks
            .timeout("conntrack.tcpCloseWaitTimeout", &typed.tcp_close_wait_timeout),
        udp_timeout: checks.timeout("conntrack.udpTimeout", &typed.udp_timeout),
        udp_stream_timeout: checks.timeout("conntrack.udpStreamTimeout", &typed.udp_stream_timeout),
        tcp_be_liberal: typed.tcp_be_liberal.unwrap_or_default(),
    }
}

fn serving(checks: &mut Checks, file: &KubeProxyConfiguration) -> Serving {
    if file.enable_profiling == Some(true) {
        checks.warn("profiling has no effect: there is no profiler");
    }
    let on_bind_failure = match file.bind_address_hard_fail {
        Some(true) => OnBindFailure::Exit,
        _ => OnBindFailure::Retry,
    };
    Serving {
        healthz: checks.socket("healthzBindAddress", &file.healthz_bind_address),
        metrics: checks.socket("metricsBindAddress", &file.metrics_bind_address),
        on_bind_failure,
    }
}

fn logging(checks: &mut Checks, typed: &file::Logging) -> Logging {
    checks.duration("logging.flushFrequency", &typed.flush_frequency);
    if !typed.vmodule.is_empty() {
        checks.warn("logging.vmodule has no effect: the verbosity counts for every source file");
    }
    let format = match typed.format.as_deref() {
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        _ => {
            checks.refuse("logging.format", &typed.format, "must be text or json");
            LogFormat::Text
        }
    };
    Logging { format, verbosity: typed.verbosity.unwrap_or_default() }
}
