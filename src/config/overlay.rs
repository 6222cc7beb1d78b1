//! Flags laid over a configuration file, or over nothing.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::file::{FerroviaConfiguration, KubeProxyConfiguration};
use super::flags::{Conntrack, DataPlane, Flags, General, Ipvs, Logging, Own, PodNetwork};
use super::problem::{Problem, Setting};

/// Copies what was typed, remembering which flags those were and which of them cannot be read.
#[derive(Default)]
pub(super) struct Overlay {
    /// Names of the flags that were given, without dashes.
    pub given: Vec<&'static str>,
    pub problems: Vec<Problem>,
}

impl Overlay {
    pub fn text(&mut self, flag: &'static str, typed: &Option<String>, into: &mut Option<String>) {
        if let Some(text) = typed {
            self.given.push(flag);
            *into = Some(text.clone());
        }
    }

    pub fn number<T: FromStr>(&mut self, flag: &'static str, typed: &Option<String>, into: &mut Option<T>) {
        let Some(text) = typed else { return };
        self.given.push(flag);
        match text.parse() {
            Ok(number) => *into = Some(number),
            Err(_) => self.refuse(flag, text, "must be a number in range"),
        }
    }

    pub fn boolean(&mut self, flag: &'static str, typed: &Option<String>, into: &mut Option<bool>) {
        let Some(text) = typed else { return };
        self.given.push(flag);
        match parse_bool(text) {
            Some(value) => *into = Some(value),
            None => self.refuse(flag, text, "must be true or false"),
        }
    }

    pub fn list(&mut self, flag: &'static str, typed: &Option<Vec<String>>, into: &mut Option<Vec<String>>) {
        if let Some(items) = typed {
            self.given.push(flag);
            let items = items.iter().map(|item| item.trim().to_owned());
            *into = Some(items.filter(|item| !item.is_empty()).collect());
        }
    }

    /// A flag that is taken only so that nobody has to edit a command line.
    pub fn ignored<T>(&mut self, flag: &'static str, typed: &Option<T>) {
        if typed.is_some() {
            self.given.push(flag);
        }
    }

    fn refuse(&mut self, flag: &'static str, value: &str, message: &str) {
        let setting = Setting::Flag(flag);
        self.problems.push(Problem { setting, value: value.to_owned(), message: message.to_owned() });
    }

    fn feature_gates(&mut self, typed: &Option<Vec<String>>, into: &mut BTreeMap<String, bool>) {
        const FLAG: &str = "feature-gates";
        let Some(gates) = typed else { return };
        self.given.push(FLAG);
        for gate in gates.iter().map(|gate| gate.trim()).filter(|gate| !gate.is_empty()) {
            match gate.split_once('=').map(|(name, value)| (name.trim(), parse_bool(value.trim()))) {
                Some((name, Some(value))) => drop(into.insert(name.to_owned(), value)),
                _ => self.refuse(FLAG, gate, "must be Name=true or Name=false"),
            }
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Overlay {
    /// The flags that a configuration file takes the place of.
    pub fn replaced_by_file(&mut self, flags: &Flags, file: &mut KubeProxyConfiguration) {
        self.general(&flags.general, file);
        self.data_plane(&flags.data_plane, file);
        self.sync_periods(flags, file);
        self.ipvs(&flags.ipvs, file);
        self.conntrack(&flags.conntrack, file);
        self.windows(flags, file);
    }

    fn general(&mut self, flags: &General, file: &mut KubeProxyConfiguration) {
        let client = &mut file.client_connection;
        self.feature_gates(&flags.feature_gates, &mut file.feature_gates);
        self.text("kubeconfig", &flags.kubeconfig, &mut client.kubeconfig);
        self.text("kube-api-content-type", &flags.kube_api_content_type, &mut client.content_type);
        self.number("kube-api-burst", &flags.kube_api_burst, &mut client.burst);
        self.number("kube-api-qps", &flags.kube_api_qps, &mut client.qps);
        self.text("bind-address", &flags.bind_address, &mut file.bind_address);
        self.text("healthz-bind-address", &flags.healthz_bind_address, &mut file.healthz_bind_address);
        self.text("metrics-bind-address", &flags.metrics_bind_address, &mut file.metrics_bind_address);
        self.boolean(
            "bind-address-hard-fail",
            &flags.bind_address_hard_fail,
            &mut file.bind_address_hard_fail,
        );
        self.boolean("profiling", &flags.profiling, &mut file.enable_profiling);
        self.text(
            "show-hidden-metrics-for-version",
            &flags.show_hidden_metrics_for_version,
            &mut file.show_hidden_metrics_for_version,
        );
        self.number("oom-score-adj", &flags.oom_score_adj, &mut file.oom_score_adj);
        self.text("config-sync-period", &flags.config_sync_period, &mut file.config_sync_period);
        self.ignored("healthz-port", &flags.healthz_port);
        self.ignored("metrics-port", &flags.metrics_port);
    }

    fn data_plane(&mut self, flags: &DataPlane, file: &mut KubeProxyConfiguration) {
        self.text("proxy-mode", &flags.proxy_mode, &mut file.mode);
        let masquerade_all = match file.mode.as_deref() {
            Some("nftables") => &mut file.nftables.masquerade_all,
            _ => &mut file.iptables.masquerade_all,
        };
        self.boolean("masquerade-all", &flags.masquerade_all, masquerade_all);
        let iptables = &mut file.iptables;
        self.number("iptables-masquerade-bit", &flags.iptables_masquerade_bit, &mut iptables.masquerade_bit);
        self.boolean(
            "iptables-localhost-nodeports",
            &flags.iptables_localhost_nodeports,
            &mut iptables.localhost_node_ports,
        );
        let detect = &mut file.detect_local;
        self.text("detect-local-mode", &flags.detect_local_mode, &mut file.detect_local_mode);
        self.text("pod-bridge-interface", &flags.pod_bridge_interface, &mut detect.bridge_interface);
        self.text(
            "pod-interface-name-prefix",
            &flags.pod_interface_name_prefix,
            &mut detect.interface_name_prefix,
        );
        self.text("cluster-cidr", &flags.cluster_cidr, &mut file.cluster_cidr);
        self.list("nodeport-addresses", &flags.nodeport_addresses, &mut file.node_port_addresses);
    }

    /// kube-proxy has no flags of its own for nftables: those of iptables count for every mode but IPVS.
    fn sync_periods(&mut self, flags: &Flags, file: &mut KubeProxyConfiguration) {
        let (period, min_period) = match file.mode.as_deref() {
            Some("nftables") => (&mut file.nftables.sync_period, &mut file.nftables.min_sync_period),
            _ => (&mut file.iptables.sync_period, &mut file.iptables.min_sync_period),
        };
        self.text("iptables-sync-period", &flags.data_plane.iptables_sync_period, period);
        self.text("iptables-min-sync-period", &flags.data_plane.iptables_min_sync_period, min_period);
        self.text("ipvs-sync-period", &flags.ipvs.ipvs_sync_period, &mut file.ipvs.sync_period);
        self.text("ipvs-min-sync-period", &flags.ipvs.ipvs_min_sync_period, &mut file.ipvs.min_sync_period);
    }

    fn ipvs(&mut self, flags: &Ipvs, file: &mut KubeProxyConfiguration) {
        let ipvs = &mut file.ipvs;
        self.text("ipvs-scheduler", &flags.ipvs_scheduler, &mut ipvs.scheduler);
        self.list("ipvs-exclude-cidrs", &flags.ipvs_exclude_cidrs, &mut ipvs.exclude_cidrs);
        self.boolean("ipvs-strict-arp", &flags.ipvs_strict_arp, &mut ipvs.strict_arp);
        self.text("ipvs-tcp-timeout", &flags.ipvs_tcp_timeout, &mut ipvs.tcp_timeout);
        self.text("ipvs-tcpfin-timeout", &flags.ipvs_tcpfin_timeout, &mut ipvs.tcp_fin_timeout);
        self.text("ipvs-udp-timeout", &flags.ipvs_udp_timeout, &mut ipvs.udp_timeout);
    }

    fn conntrack(&mut self, flags: &Conntrack, file: &mut KubeProxyConfiguration) {
        let conntrack = &mut file.conntrack;
        self.number("conntrack-max-per-core", &flags.conntrack_max_per_core, &mut conntrack.max_per_core);
        self.number("conntrack-min", &flags.conntrack_min, &mut conntrack.min);
        self.text(
            "conntrack-tcp-timeout-established",
            &flags.conntrack_tcp_timeout_established,
            &mut conntrack.tcp_established_timeout,
        );
        self.text(
            "conntrack-tcp-timeout-close-wait",
            &flags.conntrack_tcp_timeout_close_wait,
            &mut conntrack.tcp_close_wait_timeout,
        );
        self.boolean(
            "conntrack-tcp-be-liberal",
            &flags.conntrack_tcp_be_liberal,
            &mut conntrack.tcp_be_liberal,
        );
        self.text("conntrack-udp-timeout", &flags.conntrack_udp_timeout, &mut conntrack.udp_timeout);
        self.text(
            "conntrack-udp-timeout-stream",
            &flags.conntrack_udp_timeout_stream,
            &mut conntrack.udp_stream_timeout,
        );
    }

    fn windows(&mut self, flags: &Flags, file: &mut KubeProxyConfiguration) {
        let (flags, kernel) = (&flags.elsewhere, &mut file.winkernel);
        self.boolean("windows-service", &flags.windows_service, &mut file.windows_run_as_service);
        self.text("source-vip", &flags.source_vip, &mut kernel.source_vip);
        self.text("network-name", &flags.network_name, &mut kernel.network_name);
        self.boolean("enable-dsr", &flags.enable_dsr, &mut kernel.enable_dsr);
        self.text("root-hnsendpoint-name", &flags.root_hnsendpoint_name, &mut kernel.root_hns_endpoint_name);
        self.boolean(
            "forward-healthcheck-vip",
            &flags.forward_healthcheck_vip,
            &mut kernel.forward_health_check_vip,
        );
        self.ignored("machine-id-file", &flags.machine_id_file);
        self.ignored("boot-id-file", &flags.boot_id_file);
    }

    /// The flags that hold beside a configuration file too.
    pub fn beside_file(&mut self, flags: &Flags, file: &mut KubeProxyConfiguration) {
        self.text("hostname-override", &flags.general.hostname_override, &mut file.hostname_override);
        self.logging(&flags.logging, file);
    }

    fn logging(&mut self, flags: &Logging, file: &mut KubeProxyConfiguration) {
        let logging = &mut file.logging;
        let (text, json) = (&mut logging.options.text, &mut logging.options.json);
        self.text("logging-format", &flags.logging_format, &mut logging.format);
        self.number("v", &flags.v, &mut logging.verbosity);
        self.text("log-flush-frequency", &flags.log_flush_frequency, &mut logging.flush_frequency);
        self.ignored("vmodule", &flags.vmodule);
        self.boolean("log-text-split-stream", &flags.log_text_split_stream, &mut text.split_stream);
        self.text("log-text-info-buffer-size", &flags.log_text_info_buffer_size, &mut text.info_buffer_size);
        self.boolean("log-json-split-stream", &flags.log_json_split_stream, &mut json.split_stream);
        self.text("log-json-info-buffer-size", &flags.log_json_info_buffer_size, &mut json.info_buffer_size);
    }

    pub fn own(&mut self, flags: &Own, own: &mut FerroviaConfiguration) {
        self.text("manifests", &flags.manifests, &mut own.manifests);
        self.list("allowed-external-ips", &flags.allowed_external_ips, &mut own.allowed_external_ips);
        self.text("scheduler", &flags.scheduler, &mut own.scheduler);
        self.text("iptables-flavour", &flags.iptables_flavour, &mut own.iptables_flavour);
        self.text("audit-period", &flags.audit_period, &mut own.audit_period);
        self.list("ipvs-scheduler-flags", &flags.ipvs_scheduler_flags, &mut own.ipvs_scheduler_flags);
        self.text("ipvs-virtual-addresses", &flags.ipvs_virtual_addresses, &mut own.ipvs_virtual_addresses);
        self.text("ipvs-drain-timeout", &flags.ipvs_drain_timeout, &mut own.ipvs_drain_timeout);
        self.boolean("service-counters", &flags.service_counters, &mut own.service_counters);
        self.boolean("preserve-source", &flags.preserve_source, &mut own.preserve_source);
        self.text("userspace-capture", &flags.userspace_capture, &mut own.userspace_capture);
        self.text(
            "userspace-drain-timeout",
            &flags.userspace_drain_timeout,
            &mut own.userspace_drain_timeout,
        );
        self.userspace_limits(flags, own);
        self.pod_network(&flags.pod_network, own);
    }

    fn userspace_limits(&mut self, flags: &Own, own: &mut FerroviaConfiguration) {
        self.number(
            "userspace-max-connections",
            &flags.userspace_max_connections,
            &mut own.userspace_max_connections,
        );
        self.number("userspace-max-pipes", &flags.userspace_max_pipes, &mut own.userspace_max_pipes);
        self.number(
            "userspace-max-udp-flows",
            &flags.userspace_max_udp_flows,
            &mut own.userspace_max_udp_flows,
        );
    }

    fn pod_network(&mut self, flags: &PodNetwork, own: &mut FerroviaConfiguration) {
        self.text("pod-network", &flags.pod_network, &mut own.pod_network);
        self.list("non-masquerade-cidrs", &flags.non_masquerade_cidrs, &mut own.non_masquerade_cidrs);
        self.text("cni-conf-dir", &flags.cni_conf_dir, &mut own.cni_conf_dir);
        self.text("cni-bin-dir", &flags.cni_bin_dir, &mut own.cni_bin_dir);
        self.text("cni-plugin", &flags.cni_plugin, &mut own.cni_plugin);
        self.text("cni-data-dir", &flags.cni_data_dir, &mut own.cni_data_dir);
    }
}
