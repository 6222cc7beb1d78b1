mod ipvs;
mod pod_network;

use std::time::Duration;

use clap::Parser;

use super::*;
use crate::config::{
    AllowedExternalIps, DetectLocal, IptablesFlavour, Ipvs, IpvsTimeouts, LogFormat, Logging, ModeName,
    NodePortSetting, OnBindFailure, Periods, Source, VirtualAddressing, config_z, to_yaml,
};
use crate::kernel::sysctl::Conntrack;
use crate::model::{Hashing, Scheduler};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: Flags,
}

fn flags(line: &str) -> Flags {
    let arguments = std::iter::once("ferrovia").chain(line.split_whitespace());
    Command::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).flags
}

fn from_flags(line: &str) -> Result<Config, Problems> {
    resolve(&flags(line), None, "Node-A ")
}

fn from_file(text: &str, line: &str) -> Result<Config, Problems> {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let file = decode(&format!("{head}{text}")).unwrap();
    resolve(&flags(line), Some(file), "Node-A ")
}

const FROM_TO: &str = "must be within";

fn networks(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn defaults_are_those_of_kube_proxy() {
    for config in [from_flags("").unwrap(), from_file("", "").unwrap()] {
        assert_eq!(config.action, Action::Run);
        assert_eq!(config.node_name, "node-a");
        assert_eq!(config.source, Source::ApiServer { kubeconfig: None, master: None });
        assert_eq!((config.mode, config.scheduler, config.node_ip), (ModeName::Iptables, None, None));
        assert_eq!((config.masquerade.mark, config.masquerade.all), (0x4000, false));
        assert!(config.localhost_node_ports);
        assert_eq!(config.iptables_flavour, IptablesFlavour::Auto);
        assert_eq!(config.detect_local, DetectLocal::None);
        assert_eq!(config.node_port_addresses, NodePortSetting::All);
        assert_eq!(config.allowed_external_ips, AllowedExternalIps::In(vec![]));
        let (sync, audit) = (Duration::from_secs(30), Duration::from_secs(60));
        let config_sync = Duration::from_secs(900);
        assert_eq!(config.periods, Periods { sync, min_sync: None, config_sync, audit });
        let expected = Conntrack {
            max_per_core: 32768,
            min: 131_072,
            tcp_established_timeout: Some(Duration::from_secs(86400)),
            tcp_close_wait_timeout: Some(Duration::from_secs(3600)),
            udp_timeout: None,
            udp_stream_timeout: None,
            tcp_be_liberal: false,
        };
        assert_eq!(config.conntrack, expected);
        assert_eq!(config.oom_score_adj, -999);
        assert_eq!(config.serving.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(config.serving.metrics, Some("127.0.0.1:10249".parse().unwrap()));
        assert_eq!(config.serving.on_bind_failure, OnBindFailure::Retry);
        assert_eq!(config.logging, Logging { format: LogFormat::Text, verbosity: 0 });
    }
}

#[test]
fn every_flag_has_its_effect() {
    let config = from_flags(
        "--kubeconfig=/k --master=https://api:6443 --hostname-override=Other --bind-address=192.0.2.1 \
         --healthz-bind-address=192.0.2.1 --metrics-bind-address= --bind-address-hard-fail --masquerade-all \
         --iptables-masquerade-bit=15 --iptables-localhost-nodeports=false --iptables-sync-period=1m \
         --iptables-min-sync-period=0 --cluster-cidr=10.244.0.0/16,fd00:244::/48 --nodeport-addresses=172.18.0.9/16 \
         --allowed-external-ips=203.0.113.0/24 --scheduler=rr --iptables-flavour=nft --audit-period=5s \
         --service-counters --conntrack-max-per-core=0 --conntrack-min=7 --conntrack-udp-timeout=10s --conntrack-tcp-be-liberal \
         --conntrack-tcp-timeout-established=0 --oom-score-adj=-500 --config-sync-period=1h --logging-format=json -v4",
    )
    .unwrap();
    let source = Source::ApiServer { kubeconfig: Some("/k".into()), master: Some("https://api:6443".into()) };
    assert_eq!(config.source, source);
    assert_eq!(config.node_name, "other");
    assert_eq!(config.node_ip, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(config.serving.healthz, Some("192.0.2.1:10256".parse().unwrap()));
    assert_eq!((config.serving.metrics, config.serving.on_bind_failure), (None, OnBindFailure::Exit));
    assert_eq!((config.masquerade.mark, config.masquerade.all), (0x8000, true));
    assert!(!config.localhost_node_ports);
    assert_eq!(config.periods.sync, Duration::from_secs(60));
    assert_eq!(config.periods.min_sync, Some(Duration::ZERO));
    assert_eq!(config.detect_local, DetectLocal::ClusterCidr(networks(&["10.244.0.0/16", "fd00:244::/48"])));
    assert_eq!(config.node_port_addresses, NodePortSetting::In(networks(&["172.18.0.0/16"])));
    assert_eq!(config.allowed_external_ips, AllowedExternalIps::In(networks(&["203.0.113.0/24"])));
    assert_eq!(config.scheduler, Some(Scheduler::RoundRobin));
    assert_eq!(config.iptables_flavour, IptablesFlavour::Nft);
    assert!(config.service_counters);
    assert_eq!(config.periods.audit, Duration::from_secs(5));
    assert_eq!((config.conntrack.max_per_core, config.conntrack.min), (0, 7));
    assert_eq!(config.conntrack.udp_timeout, Some(Duration::from_secs(10)));
    assert_eq!(config.conntrack.tcp_established_timeout, None);
    assert!(config.conntrack.tcp_be_liberal);
    assert_eq!(config.oom_score_adj, -500);
    assert_eq!(config.periods.config_sync, Duration::from_secs(3600));
    assert_eq!(config.logging, Logging { format: LogFormat::Json, verbosity: 4 });
}

/// A flag or field with an impossible value, and what must be said about it.
const REFUSED: [(&str, &str); 48] = [
    ("--iptables-masquerade-bit=32", FROM_TO),
    ("--iptables-masquerade-bit=-1", FROM_TO),
    ("--iptables-masquerade-bit=many", "must be a number"),
    ("--oom-score-adj=1001", FROM_TO),
    ("--iptables-sync-period=0", "longer than 0"),
    ("--iptables-sync-period=-5s", "negative"),
    ("--iptables-sync-period=30", "units"),
    ("--iptables-min-sync-period=31s", "not be longer than iptables.syncPeriod"),
    ("--config-sync-period=0s", "longer than 0"),
    ("--audit-period=0s", "longer than 0"),
    ("--ipvs-tcp-timeout=soon", "must be a duration"),
    ("--ipvs-tcpfin-timeout=-1s", "negative"),
    ("--ipvs-udp-timeout=5", "units"),
    ("--ipvs-scheduler=fastest", "unknown scheduler"),
    (
        "--ipvs-scheduler=random",
        "the ipvs mode does not have it; modes that do: iptables, nftables, userspace",
    ),
    ("--ipvs-strict-arp=perhaps", "true or false"),
    ("--ipvs-scheduler-flags=hashed", "unknown scheduler flag"),
    ("--ipvs-scheduler-flags=mh-port", "scheduler rr does not have mh-port, which is a flag of mh"),
    ("--ipvs-virtual-addresses=tunnel", "must be routes or device"),
    ("--ipvs-drain-timeout=-1s", "negative"),
    ("--userspace-max-connections=0", FROM_TO),
    ("--userspace-max-pipes=-1", FROM_TO),
    ("--userspace-max-udp-flows=some", "must be a number"),
    ("--ipvs-exclude-cidrs=10.0.0.0", "must be a network"),
    ("--bind-address=here", "must be an IP address"),
    ("--healthz-bind-address=localhost:10256", "must be an address and port"),
    ("--healthz-bind-address=[::]", "must be an address and port"),
    ("--metrics-bind-address=127.0.0.1:0", "within 1 to 65535"),
    ("--metrics-bind-address=127.0.0.1:99999", "must be an address and port"),
    ("--healthz-port=99999", "must be a number"),
    ("--nodeport-addresses=primary,10.0.0.0/8", "must stand alone"),
    ("--nodeport-addresses=10.0.0.1", "must be a network"),
    ("--cluster-cidr=10.0.0.0/33", "must be a network"),
    ("--cluster-cidr=10.0.0.0/8,172.16.0.0/12", "different families"),
    ("--cluster-cidr=10.0.0.0/8,fd00::/8,172.16.0.0/12", "one of each family"),
    ("--detect-local-mode=Guess", "ClusterCIDR, NodeCIDR"),
    ("--detect-local-mode=BridgeInterface", "interface name"),
    ("--detect-local-mode=InterfaceNamePrefix", "interface name"),
    ("--conntrack-max-per-core=-1", FROM_TO),
    ("--conntrack-min=-1", FROM_TO),
    ("--conntrack-udp-timeout=-1s", "negative"),
    ("--kube-api-burst=-1", "0 or more"),
    ("--proxy-mode=magic", "must be userspace, iptables, ipvs or nftables"),
    ("--scheduler=fastest", "unknown scheduler"),
    ("--iptables-flavour=ebpf", "auto, legacy or nft"),
    ("--logging-format=xml", "text or json"),
    ("--feature-gates=A", "Name=true"),
    ("--masquerade-all=perhaps", "true or false"),
];

#[test]
fn what_cannot_be_is_refused_with_flag_and_value() {
    for (typed, reason) in REFUSED {
        let problems = from_flags(typed).expect_err(typed).to_string();
        assert!(problems.contains(reason), "{typed}: {problems}");
        let needs_another_flag =
            ["--detect-local-mode=BridgeInterface", "--detect-local-mode=InterfaceNamePrefix"];
        let named = typed.split(',').next().unwrap_or(typed);
        assert!(problems.contains(named) || needs_another_flag.contains(&typed), "{typed}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn all_problems_are_reported_together() {
    let problems =
        from_flags("--oom-score-adj=9999 --proxy-mode=usrspace --conntrack-min=x --audit-period=-1s")
            .unwrap_err();
    let expected = "--conntrack-min=x: must be a number in range\n\
                    --proxy-mode=usrspace: must be userspace, iptables, ipvs or nftables\n\
                    --audit-period=-1s: must not be negative\n\
                    --oom-score-adj=9999: must be within -1000 to 1000";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn problems_of_a_file_name_its_fields() {
    let text = "iptables:\n  masqueradeBit: 32\nconntrack:\n  udpTimeout: 1\u{2d}2s\nmode: usrspace\n";
    let problems = from_file(text, "-v=x").unwrap_err();
    let expected = "--v=x: must be a number in range\n\
                    mode: \"usrspace\": must be userspace, iptables, ipvs or nftables\n\
                    iptables.masqueradeBit: \"32\": must be within 0 to 31\n\
                    conntrack.udpTimeout: \"1-2s\": must have units: ns, us, ms, s, m or h";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn a_file_replaces_most_flags_and_says_so() {
    let line = "--oom-score-adj=1 --masquerade-all --hostname-override=by-flag --v=6 --master=https://m --cleanup \
                --audit-period=2s --proxy-mode=nonsense";
    let config =
        from_file("oomScoreAdj: 5\nhostnameOverride: by-file\nlogging: {verbosity: 1}", line).unwrap();
    assert_eq!((config.oom_score_adj, config.masquerade.all), (5, false));
    assert_eq!((config.node_name.as_str(), config.logging.verbosity), ("by-flag", 6));
    assert_eq!(config.source, Source::ApiServer { kubeconfig: None, master: Some("https://m".into()) });
    assert_eq!(config.action, Action::Cleanup);
    assert_eq!(config.periods.audit, Duration::from_secs(2));
    let ignored: Vec<_> =
        config.warnings.iter().filter(|warning| warning.contains("takes the place")).collect();
    let [ignored] = ignored[..] else { panic!("{:?}", config.warnings) };
    assert!(ignored.ends_with(": --oom-score-adj, --proxy-mode, --masquerade-all"), "{ignored}");
}

#[test]
fn zeros_of_a_file_mean_the_defaults() {
    let text = "configSyncPeriod: 0s\niptables: {syncPeriod: 0s, minSyncPeriod: 0s}\nhealthzBindAddress: \"\"\n\
                metricsBindAddress: \"\"\nclientConnection: {qps: 0, burst: 0}\nmode: \"\"\nbindAddress: \"\"\n";
    let (zeros, nothing) = (from_file(text, "").unwrap(), from_file("", "").unwrap());
    assert_eq!(zeros, nothing);
}

#[test]
fn a_minimum_sync_period_is_known_to_be_given() {
    assert_eq!(
        from_file("iptables: {minSyncPeriod: 1s}", "").unwrap().periods.min_sync,
        Some(Duration::from_secs(1))
    );
    assert_eq!(
        from_flags("--iptables-min-sync-period=1s").unwrap().periods.min_sync,
        Some(Duration::from_secs(1))
    );
    assert_eq!(from_flags("--ipvs-min-sync-period=1s").unwrap().periods.min_sync, None);
}

#[test]
fn deprecated_ports_still_count() {
    let serving = |line| from_flags(line).unwrap().serving;
    let address = |text: &str| Some(text.parse().unwrap());
    assert_eq!(serving("--healthz-port=0 --metrics-port=0").healthz, None);
    assert_eq!(serving("--healthz-port=0 --metrics-port=0").metrics, None);
    assert_eq!(serving("--healthz-port=1234").healthz, address("0.0.0.0:1234"));
    assert_eq!(serving("--metrics-port=1234 --metrics-bind-address=::").metrics, address("[::]:1234"));
    assert_eq!(serving("--metrics-port=1234 --metrics-bind-address=[::]:1").metrics, address("[::]:1"));
    assert!(
        from_flags("--healthz-port=1").unwrap().warnings.iter().any(|w| w.contains("--healthz-bind-address"))
    );
}

#[test]
fn servers_follow_the_family_of_the_bind_address() {
    let serving = from_flags("--bind-address=::").unwrap().serving;
    assert_eq!(serving.healthz, Some("[::]:10256".parse().unwrap()));
    assert_eq!(serving.metrics, Some("[::1]:10249".parse().unwrap()));
}

#[test]
fn local_traffic_is_detected_in_four_ways_or_not_at_all() {
    let table = [
        ("", DetectLocal::None),
        ("--cluster-cidr=10.244.0.0/16", DetectLocal::ClusterCidr(networks(&["10.244.0.0/16"]))),
        ("--detect-local-mode=NodeCIDR --cluster-cidr=ignored", DetectLocal::NodeCidr),
        (
            "--detect-local-mode=BridgeInterface --pod-bridge-interface=cni0",
            DetectLocal::BridgeInterface("cni0".to_owned()),
        ),
        (
            "--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=veth",
            DetectLocal::InterfaceNamePrefix("veth".to_owned()),
        ),
    ];
    for (line, expected) in table {
        assert_eq!(from_flags(line).unwrap().detect_local, expected, "{line}");
    }
}

#[test]
fn external_ips_need_an_explicit_word() {
    let allowed = |line| from_flags(line).map(|config| config.allowed_external_ips);
    assert_eq!(allowed("--feature-gates=AllowServiceExternalIPs=true"), Ok(AllowedExternalIps::All));
    let none = AllowedExternalIps::In(vec![]);
    assert_eq!(allowed("--feature-gates=AllowServiceExternalIPs=false"), Ok(none));
    assert!(
        allowed("--feature-gates=AllowServiceExternalIPs=true --allowed-external-ips=10.0.0.0/8").is_err()
    );
    let warnings = from_flags("--feature-gates=SomethingElse=true").unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("SomethingElse")), "{warnings:?}");
}

#[test]
fn node_port_addresses_may_be_the_primary_ones() {
    let setting = from_flags("--nodeport-addresses=primary").unwrap().node_port_addresses;
    assert_eq!(setting, NodePortSetting::Primary);
}

#[test]
fn one_action_at_a_time() {
    let action = |line| from_flags(line).unwrap().action;
    assert_eq!(action("--cleanup=false"), Action::Run);
    assert_eq!(action("--init-only"), Action::InitOnly);
    assert_eq!(action("--cleanup --init-only"), Action::Cleanup);
    assert_eq!(action("--cleanup --write-config-to=/tmp/x"), Action::WriteConfig("/tmp/x".into()));
}

#[test]
fn manifests_take_the_place_of_an_api_server() {
    assert_eq!(from_flags("--manifests=/m --kubeconfig=/k").unwrap().source, Source::Manifests("/m".into()));
}

#[test]
fn the_default_file_is_that_of_kube_proxy() {
    assert_eq!(to_yaml(&from_flags("").unwrap().written), include_str!("default.yaml"));
}

/// Whatever is written must mean the same when it is read.
#[test]
fn what_is_written_reads_back() {
    for line in [
        "",
        "--iptables-min-sync-period=2s --masquerade-all --cluster-cidr=10.0.0.0/8 --nodeport-addresses=primary",
        "--iptables-sync-period=90s --allowed-external-ips=192.0.2.0/24 --audit-period=7s --scheduler=rr",
        "--feature-gates=AllowServiceExternalIPs=true --logging-format=json -v=5 --hostname-override=n",
        "--proxy-mode=ipvs --ipvs-scheduler=mh --ipvs-scheduler-flags=mh-fallback --ipvs-exclude-cidrs=10.9.0.0/16 \
         --ipvs-strict-arp --ipvs-udp-timeout=90s --ipvs-virtual-addresses=device --ipvs-drain-timeout=5m \
         --ipvs-sync-period=1m --ipvs-min-sync-period=2s --masquerade-all",
        "--ipvs-scheduler=mh --ipvs-scheduler-flags=",
        "--proxy-mode=userspace --scheduler=lc --preserve-source --userspace-capture=iptables \
         --userspace-drain-timeout=3m --userspace-max-connections=500 --userspace-max-pipes=0 \
         --userspace-max-udp-flows=9",
        "--oom-score-adj=0 --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0",
    ] {
        let config = from_flags(line).unwrap();
        let file = decode(&to_yaml(&config.written)).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(file.warnings, Vec::<String>::new(), "{line}");
        let again = resolve(&flags(""), Some(file), "Node-A ").unwrap();
        let without_text =
            |config: &Config| Config { warnings: vec![], written: again.written.clone(), ..config.clone() };
        assert_eq!(without_text(&again), without_text(&config), "{line}");
    }
}

/// In a file a zero reads as absent, so that an explicit one is written as the least duration there is.
#[test]
fn an_explicit_zero_does_not_become_a_default() {
    let yaml = to_yaml(&from_flags("--iptables-min-sync-period=0").unwrap().written);
    let again = resolve(&flags(""), Some(decode(&yaml).unwrap()), "n").unwrap();
    assert_eq!(again.periods.min_sync, Some(Duration::from_nanos(1)));
}

#[test]
fn configz_holds_the_public_form() {
    let text = config_z(&from_flags("--masquerade-all --audit-period=5s").unwrap().written);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["kubeproxy.config.k8s.io"]["kind"], "KubeProxyConfiguration");
    assert_eq!(value["kubeproxy.config.k8s.io"]["iptables"]["masqueradeAll"], true);
    assert_eq!(value["ferrovia.dev"]["auditPeriod"], "5s");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(&flags("--config=/nonexistent/config.conf")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/config.conf"), "{error}");
}

#[test]
fn a_file_is_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    crate::config::write_config(&path, &from_flags("--masquerade-all").unwrap().written).unwrap();
    assert!(load(&flags(&format!("--config={}", path.display()))).unwrap().masquerade.all);
}

#[test]
fn what_has_no_effect_is_said() {
    let has = |warnings: &[String], word: &str| warnings.iter().any(|warning| warning.contains(word));
    let flags = from_flags("--profiling --vmodule=a=1 --log-text-split-stream").unwrap().warnings;
    for word in ["profiling", "--vmodule", "--log-text-split-stream"] {
        assert!(has(&flags, word), "{word}: {flags:?}");
    }
    let text = "enableProfiling: true\nlogging: {vmodule: [{filePattern: a, verbosity: 1}]}";
    let file = from_file(text, "").unwrap().warnings;
    assert!(has(&file, "profiling") && has(&file, "vmodule"), "{file:?}");
}

#[test]
fn the_machine_is_asked_for_a_mode_only_where_it_counts() {
    let mode = |text: &str| {
        let asked = std::cell::Cell::new(false);
        let default = || {
            asked.set(true);
            ModeName::Nftables
        };
        let config = resolve_with_default(&flags(text), None, "node", default).unwrap();
        (config.mode, asked.get())
    };
    assert_eq!(mode(""), (ModeName::Nftables, true));
    assert_eq!(mode("--proxy-mode="), (ModeName::Nftables, true));
    assert_eq!(mode("--proxy-mode=iptables"), (ModeName::Iptables, false));
    assert_eq!(mode("--write-config-to=/tmp/x"), (ModeName::Iptables, false), "the same on every machine");
}
