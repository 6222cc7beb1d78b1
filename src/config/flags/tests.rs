use clap::{CommandFactory, Parser};

use super::*;

/// What the program is about.
#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: Flags,
}

fn parse(arguments: &[&str]) -> Flags {
    let arguments = ["kube-proxy"].iter().chain(arguments).map(OsString::from);
    Command::try_parse_from(normalize(arguments)).unwrap_or_else(|error| panic!("{error}")).flags
}

#[test]
fn the_definition_holds_together() {
    Command::command().debug_assert();
    let about = Command::command().get_about().map(ToString::to_string);
    assert_eq!(about.as_deref(), Some("What the program is about"), "a group of flags has taken its place");
}

/// Every flag of kube-proxy 1.36 on Linux, and its Windows flags.
const KUBE_PROXY_FLAGS: &str = "
    config write-config-to cleanup init-only feature-gates kubeconfig master kube-api-content-type kube-api-burst
    kube-api-qps hostname-override bind-address healthz-bind-address metrics-bind-address bind-address-hard-fail
    profiling show-hidden-metrics-for-version proxy-mode oom-score-adj config-sync-period healthz-port metrics-port
    masquerade-all iptables-masquerade-bit iptables-localhost-nodeports iptables-sync-period iptables-min-sync-period
    ipvs-sync-period ipvs-min-sync-period ipvs-scheduler ipvs-exclude-cidrs ipvs-strict-arp ipvs-tcp-timeout
    ipvs-tcpfin-timeout ipvs-udp-timeout detect-local-mode pod-bridge-interface pod-interface-name-prefix cluster-cidr
    nodeport-addresses conntrack-max-per-core conntrack-min conntrack-tcp-timeout-established
    conntrack-tcp-timeout-close-wait conntrack-tcp-be-liberal conntrack-udp-timeout conntrack-udp-timeout-stream
    logging-format log-flush-frequency v vmodule log-text-split-stream log-text-info-buffer-size log-json-split-stream
    log-json-info-buffer-size machine-id-file boot-id-file windows-service source-vip network-name enable-dsr
    root-hnsendpoint-name forward-healthcheck-vip";

#[test]
fn every_flag_of_kube_proxy_is_taken() {
    for name in KUBE_PROXY_FLAGS.split_whitespace() {
        let typed = format!("--{name}=1");
        assert!(Command::try_parse_from(["kube-proxy", &typed]).is_ok(), "{typed}");
    }
}

#[test]
fn an_unknown_flag_is_refused_by_name() {
    let error = Command::try_parse_from(["kube-proxy", "--no-such-flag"]).err().unwrap();
    assert!(error.to_string().contains("--no-such-flag"));
}

#[test]
fn booleans_are_those_of_go() {
    assert_eq!(parse(&["--cleanup"]).general.cleanup.as_deref(), Some("true"));
    assert_eq!(parse(&["--cleanup=false"]).general.cleanup.as_deref(), Some("false"));
    assert_eq!(parse(&[]).general.cleanup, None);
    // Without an equals sign, what follows is the next argument.
    assert!(Command::try_parse_from(["kube-proxy", "--cleanup", "false"]).is_err());
}

#[test]
fn verbosity_has_all_its_spellings() {
    for arguments in [&["-v4"][..], &["-v", "4"], &["-v=4"], &["--v=4"], &["--v", "4"]] {
        assert_eq!(parse(arguments).logging.v.as_deref(), Some("4"), "{arguments:?}");
    }
}

#[test]
fn lists_are_separated_by_commas_or_repeated() {
    let flags = parse(&["--nodeport-addresses=10.0.0.0/8,fd00::/8", "--nodeport-addresses", "192.0.2.0/24"]);
    let expected = ["10.0.0.0/8", "fd00::/8", "192.0.2.0/24"].map(str::to_owned);
    assert_eq!(flags.data_plane.nodeport_addresses, Some(expected.to_vec()));
}

#[test]
fn our_flags_are_separated_like_those_of_kube_proxy() {
    let own = parse(&["--ipvs_scheduler_flags=mh-port,mh-fallback", "--ipvs-drain-timeout", "-1s"]).own;
    assert_eq!(own.ipvs_scheduler_flags, Some(["mh-port", "mh-fallback"].map(str::to_owned).to_vec()));
    assert_eq!(own.ipvs_drain_timeout.as_deref(), Some("-1s"));
}

#[test]
fn of_a_repeated_scalar_the_last_counts() {
    assert_eq!(parse(&["-v=1", "--v=2"]).logging.v.as_deref(), Some("2"));
    assert_eq!(parse(&["--cleanup", "--cleanup=false"]).general.cleanup.as_deref(), Some("false"));
}

#[test]
fn negative_numbers_need_no_equals_sign() {
    assert_eq!(parse(&["--oom-score-adj", "-998"]).general.oom_score_adj.as_deref(), Some("-998"));
    assert_eq!(
        parse(&["--conntrack-udp-timeout=-1s"]).conntrack.conntrack_udp_timeout.as_deref(),
        Some("-1s")
    );
}

#[test]
fn an_address_may_be_empty() {
    assert_eq!(parse(&["--metrics-bind-address="]).general.metrics_bind_address.as_deref(), Some(""));
    assert_eq!(parse(&["--metrics-bind-address", ""]).general.metrics_bind_address.as_deref(), Some(""));
}

#[test]
fn names_may_have_underscores() {
    let flags = parse(&["--cluster_cidr=10.244.0.0/16", "--hostname_override", "a_b"]);
    assert_eq!(flags.data_plane.cluster_cidr.as_deref(), Some("10.244.0.0/16"));
    assert_eq!(flags.general.hostname_override.as_deref(), Some("a_b"));
}

#[test]
fn the_name_of_the_program_decides() {
    for (argv0, expected) in [
        ("kube-proxy", true),
        ("/usr/local/bin/kube-proxy", true),
        ("ferrovia", false),
        ("kube-proxy-ferrovia", false),
        ("", false),
    ] {
        assert_eq!(is_kube_proxy(OsStr::new(argv0)), expected, "{argv0:?}");
    }
}
