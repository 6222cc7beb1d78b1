//! What goes wrong around the program: rights, lost notifications, a ruleset that others flush, a cluster that is large.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::common::rig::{SOON, address, ip};

/// What an earlier process wrote stays in force, and the reason is told.
#[test]
fn without_cap_net_admin_it_says_so_and_nothing_is_lost() {
    let mut rig = start(&[("web.yaml", &web("type: NodePort", &PODS))]);
    let before = rig.run("nft list ruleset");
    rig.kill_proxy();
    let own = rig.command();
    let mut command = rig.lab.here().command("setpriv").unwrap();
    command
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(own.get_program())
        .args(own.get_args());
    rig.spawn(command);
    let says_why =
        || rig.log().contains("CAP_NET_ADMIN is missing") && rig.log().contains("Operation not permitted");
    assert!(eventually(SOON, says_why), "{}", rig.log());
    thread::sleep(Duration::from_secs(1));
    let log = rig.log();
    assert!(log.lines().count() < 60 && !log.contains("panicked"), "{log}");
    assert_eq!(rig.run("nft list ruleset"), before);
    rig.expect(SERVED);
}

/// How many notifications of nf_tables the sockets of this namespace have lost.
fn lost_notifications(rig: &Rig) -> u64 {
    const GROUP_OF_NFTABLES: u32 = 1 << 6;
    let sockets = rig.run("cat /proc/net/netlink");
    let drops = sockets.lines().skip(1).filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let groups = u32::from_str_radix(columns[3], 16).ok()?;
        (groups & GROUP_OF_NFTABLES != 0).then(|| columns[8].parse::<u64>().ok())?
    });
    drops.sum()
}

/// ENOBUFS: more is told than the socket can hold. Then everything is read.
#[test]
fn lost_notifications_are_made_up_for_by_reading_everything() {
    let rig = start(&[("web.yaml", &web("type: NodePort", &PODS))]);
    let whole = rig.run("nft list table ip ferrovia");
    assert_eq!(lost_notifications(&rig), 0);
    let addresses: Vec<_> =
        (0..60_000_u32).map(|n| format!("11.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)).collect();
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("many.nft");
    let elements = addresses.join(", ");
    let deleted = "delete element ip ferrovia services { 10.96.0.10 . tcp . 80 }";
    std::fs::write(&script, format!("add element ip ferrovia virtual-ips {{ {elements} }}\n{deleted}\n"))
        .unwrap();
    rig.run(&format!("nft -f {}", script.display()));
    assert!(lost_notifications(&rig) > 0, "that was not enough to lose any");
    let repairs = || metric(&rig, "ferrovia_drift_repairs_total");
    assert!(eventually(PATIENCE, || repairs() > 0), "{}", rig.log());
    assert_eq!(rig.run("nft list table ip ferrovia"), whole);
    rig.expect(SERVED);
}

/// `nft flush ruleset`, as a distribution's firewall service does when it is restarted.
#[test]
fn a_flushed_ruleset_under_load_costs_only_the_connections_of_that_moment() {
    const FLUSHES: usize = 6;
    let rig = start(&[("web.yaml", &web("type: NodePort", &PODS))]);
    let mut old = Echo::connect(&rig, "10.244.1.9", WEB);
    let (stop, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let mut flushes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                let observed = rig.lab.probe(ip("10.244.1.9"), Protocol::Tcp, address(WEB), SOON).unwrap();
                seen.lock().unwrap().push((started, matches!(observed, Observed::Answered { .. })));
                thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..FLUSHES {
            thread::sleep(Duration::from_millis(700));
            flushes.push(Instant::now());
            shell(&rig, "nft flush ruleset");
        }
        thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::Relaxed);
    });
    let seen = seen.into_inner().unwrap();
    assert!(
        seen.iter().filter(|(_, answered)| *answered).count() > 50,
        "too few to prove anything: {}",
        seen.len()
    );
    let gaps: Vec<Duration> = flushes
        .iter()
        .map(|flush| {
            let soon = |at: &Instant| *at >= *flush && *at < *flush + Duration::from_millis(700);
            let failed =
                seen.iter().filter(|(at, answered)| soon(at) && !answered).map(|(at, _)| *at - *flush);
            failed.max().unwrap_or_default()
        })
        .collect();
    let fastest = gaps.iter().min().unwrap();
    assert!(*fastest < Duration::from_millis(100), "{gaps:?}");
    old.assert_alive();
    rig.expect(SERVED);
    assert!(metric(&rig, "ferrovia_drift_repairs_total") >= FLUSHES as u64, "{}", rig.log());
}

/// kube-proxy's default in this mode: elsewhere NodePorts are at all addresses of the node.
#[test]
fn s4_node_ports_are_at_the_primary_address_alone_unless_told_otherwise() {
    for (flags, elsewhere) in [
        (&[][..], "untouched"),
        (&["--nodeport-addresses=0.0.0.0/0"][..], "to 10.244.1.5:8080 10.244.2.5:8080 masqueraded"),
    ] {
        let web = web("type: NodePort", &PODS);
        let rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web)], &[]);
        let mut rig = rig.with_flags(flags);
        rig.run("ip address add 172.18.0.201/16 dev eth0");
        rig.start_proxy();
        rig.expect(SERVED);
        let seen = rig.ask("172.18.0.100", Protocol::Tcp, "172.18.0.201:30080");
        let is_forwarded = matches!(seen, Observed::Answered { .. });
        assert_eq!(is_forwarded, elsewhere.starts_with("to "), "{flags:?}: {seen}");
    }
}
