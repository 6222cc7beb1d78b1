//! The options of the IPVS mode.

use super::*;

fn ipvs(line: &str) -> Ipvs {
    from_flags(line).unwrap().ipvs
}

#[test]
fn says_nothing_unless_asked() {
    let expected = Ipvs {
        scheduler: None,
        hashing: None,
        exclude: vec![],
        strict_arp: false,
        timeouts: IpvsTimeouts::default(),
        virtual_addresses: VirtualAddressing::Routes,
        drain_timeout: None,
    };
    assert_eq!(ipvs("--proxy-mode=ipvs"), expected);
    assert_eq!(from_file("mode: ipvs\nipvs: {scheduler: '', tcpTimeout: 0s}", "").unwrap().ipvs, expected);
}

#[test]
fn every_flag_has_its_effect() {
    let line = "--proxy-mode=ipvs --ipvs-scheduler=sh --ipvs-scheduler-flags=sh-port,sh-fallback --ipvs-strict-arp \
                --ipvs-exclude-cidrs=10.9.1.1/16,fd09::/16 --ipvs-tcp-timeout=1h --ipvs-tcpfin-timeout=2m \
                --ipvs-udp-timeout=3s --ipvs-virtual-addresses=device --ipvs-drain-timeout=5m \
                --ipvs-sync-period=1m --ipvs-min-sync-period=2s --masquerade-all --iptables-masquerade-bit=3";
    let config = from_flags(line).unwrap();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let expected = Ipvs {
        scheduler: Some(Scheduler::SourceHash),
        hashing: Some(Hashing { port: true, fallback: true }),
        exclude: networks(&["10.9.0.0/16", "fd09::/16"]),
        strict_arp: true,
        timeouts: IpvsTimeouts { tcp: seconds(3600), tcp_fin: seconds(120), udp: seconds(3) },
        virtual_addresses: VirtualAddressing::Device,
        drain_timeout: seconds(300),
    };
    assert_eq!(config.ipvs, expected);
    assert_eq!((config.mode, config.scheduler), (ModeName::Ipvs, None));
    assert_eq!((config.periods.sync, config.periods.min_sync), (Duration::from_secs(60), seconds(2)));
    assert_eq!((config.masquerade.mark, config.masquerade.all), (8, true));
    assert!(!config.warnings.iter().any(|warning| warning.contains("ipvs")), "{:?}", config.warnings);
}

/// kube-proxy hands the kernel whole seconds.
#[test]
fn fractions_of_seconds_are_cut_off() {
    let timeouts = ipvs("--ipvs-tcp-timeout=1900ms --ipvs-udp-timeout=900ms").timeouts;
    assert_eq!(timeouts, IpvsTimeouts { tcp: Some(Duration::from_secs(1)), tcp_fin: None, udp: None });
}

#[test]
fn flags_of_the_scheduler_may_be_none_at_all() {
    assert_eq!(ipvs("--ipvs-scheduler=mh").hashing, None);
    assert_eq!(ipvs("--ipvs-scheduler=mh --ipvs-scheduler-flags=").hashing, Some(Hashing::default()));
    let problems = from_flags("--ipvs-scheduler=hm --ipvs-scheduler-flags=mh-port").unwrap_err();
    assert_eq!(problems.0.len(), 1, "{problems}");
}

#[test]
fn our_flags_hold_beside_a_file() {
    let line = "--ipvs-scheduler-flags=mh-fallback --ipvs-drain-timeout=9s --ipvs-scheduler=sh";
    let ipvs = from_file("mode: ipvs\nipvs: {scheduler: mh}", line).unwrap().ipvs;
    assert_eq!(ipvs.scheduler, Some(Scheduler::Maglev), "kube-proxy's flag gives way to the file");
    assert_eq!(ipvs.hashing, Some(Hashing { port: false, fallback: true }));
    assert_eq!(ipvs.drain_timeout, Some(Duration::from_secs(9)));
}

#[test]
fn our_fields_stand_in_our_document() {
    let text = "mode: ipvs\nipvs: {scheduler: mh}\n---\napiVersion: ferrovia.dev/v1alpha1\n\
                kind: FerroviaConfiguration\nipvsSchedulerFlags: [mh-port]\nipvsVirtualAddresses: device\n\
                ipvsDrainTimeout: 1m\n";
    let ipvs = from_file(text, "").unwrap().ipvs;
    assert_eq!(ipvs.hashing, Some(Hashing { port: true, fallback: false }));
    assert_eq!(ipvs.virtual_addresses, VirtualAddressing::Device);
    assert_eq!(ipvs.drain_timeout, Some(Duration::from_secs(60)));
    let problems = from_file(&text.replace("device", "both"), "").unwrap_err().to_string();
    assert_eq!(problems, "ipvsVirtualAddresses: \"both\": must be routes or device");
}

/// As kube-proxy has it. The scheduler of the other modes is none of IPVS'.
#[test]
fn periods_and_scheduler_are_checked_for_this_mode() {
    for (line, words) in [
        ("--ipvs-min-sync-period=31s", "--ipvs-min-sync-period=31s: must not be longer than ipvs.syncPeriod"),
        ("--ipvs-sync-period=0", "--ipvs-sync-period=0: must be longer than 0"),
        ("--scheduler=rr", "--scheduler=rr: the ipvs mode takes --ipvs-scheduler"),
    ] {
        let problems = from_flags(&format!("--proxy-mode=ipvs {line}")).unwrap_err().to_string();
        assert_eq!(problems, words);
    }
}
