//! Starts, restarts, switches of mode, and what others do meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ferrovia::lab::Observed;
use ferrovia::model::Protocol;

use super::lab::{
    WEB, metric, real_servers, repaired, shell, start, steady, virtual_servers, wait_for_weight, web,
    without_proxy,
};
use crate::common::clients::Echo;
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, PROGRAM, Rig, address, eventually, ip};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const SERVED: &str = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080
                      172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded";

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i3_i4_a_restart_takes_over_and_puts_right() {
    let mut rig = start(&[("web.yaml", &web("", &PODS))], &["--ipvs-exclude-cidrs=198.51.100.0/24"]);
    let mut connection = Echo::connect(&rig, "10.244.1.9", WEB);
    rig.kill_proxy();
    shell(&rig, "ipvsadm -e -t 10.96.0.10:80 -r 10.244.2.5:8080 -m -w 0");
    shell(&rig, "ipvsadm -A -t 192.0.2.7:80 -s wlc; ipvsadm -a -t 192.0.2.7:80 -r 10.244.2.6:80 -m");
    shell(&rig, "ipvsadm -A -t 198.51.100.7:80 -s wlc; ipvsadm -A -f 99 -s rr");
    rig.start_proxy();
    wait_for_weight(&rig, PODS[1], Some(1));
    let listed = virtual_servers(&rig);
    for foreign in ["192.0.2.7:80 wlc", "10.244.2.6:80", "198.51.100.7:80 wlc", "FWM  99 rr"] {
        assert!(listed.contains(foreign), "{foreign}\n{listed}");
    }
    connection.assert_alive();
}

/// Somebody else's hand in each of the places that the mode writes to.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn l5_whatever_is_taken_away_comes_back() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    rig.expect(SERVED);
    let state = || {
        let rules =
            shell(&rig, "iptables-legacy-save | grep -e '^-A' -e '^:FERRO' | sed 's/ \\[.*//' | sort");
        let sets = shell(&rig, "ipset save | grep ^add | sort");
        let servers = steady(|| shell(&rig, "ipvsadm-save -n | sort"));
        [rules, sets, servers, rig.run("ip route show table local proto 102")]
    };
    let whole = state();
    for meddling in [
        "ipvsadm -d -t 10.96.0.10:80 -r 10.244.1.5:8080",
        "ipvsadm -e -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 7",
        "ipvsadm -D -t 172.18.0.2:30080",
        "ipvsadm -E -t 10.96.0.10:80 -s wlc -p 60",
        "ipvsadm -C",
        "ipset del FERRO-4-SERVED 10.96.0.10,tcp:80",
        "ipset flush FERRO-4-VIRTUAL-IPS",
        "ip route del local 10.96.0.10 dev lo table local",
        "iptables-legacy -t nat -F FERRO-SERVICES",
        "iptables-legacy -t mangle -D PREROUTING 1",
    ] {
        shell(&rig, meddling);
        // Reading back takes a twentieth of the time at most, which a guest kernel makes long.
        assert!(eventually(PATIENCE, || state() == whole), "{meddling}:\n{:#?}\n{}", state(), rig.log());
    }
    rig.expect(SERVED);
    assert!(metric(&rig, "ferrovia_drift_repairs_total") >= 9, "{}", rig.log());
    for kind in ["virtual server", "destination", "set", "address", "rule"] {
        assert!(repaired(&rig, kind) > 0, "no {kind} was counted\n{}", rig.log());
    }
}

/// What is on no packet's way, and still what connections depend on.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn l5_sysctls_that_others_change_are_put_right_by_the_audit() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &["--audit-period=1s"]);
    let sysctls = "net.ipv4.vs.conntrack net.ipv4.vs.expire_nodest_conn net.ipv4.ip_forward
                   net.ipv4.conf.eth0.arp_ignore";
    let read = || rig.run(&format!("sysctl -n {sysctls}"));
    let settings = || rig.log().matches("\"Set\" knob=").count();
    let (whole, before) = (read(), settings());
    for sysctl in sysctls.split_whitespace() {
        shell(&rig, &format!("sysctl -w {sysctl}=0"));
    }
    // The first may be right again before the last is wrong.
    let is_right_again = || read() == whole && settings() >= before + sysctls.split_whitespace().count();
    assert!(eventually(PATIENCE, is_right_again), "{}\n{}", read(), rig.log());
}

/// Fewer connections prove nothing.
const ENOUGH: usize = 50;

/// New connections of a pod and from outside while something happens.
pub fn while_connecting(rig: &mut Rig, work: impl FnOnce(&mut Rig)) {
    let (stop, count, failures) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let lab = Arc::clone(&rig.lab);
    thread::scope(|scope| {
        for (from, to) in [("10.244.1.9", WEB), ("172.18.0.100", "172.18.0.2:30080")] {
            let (stop, count, failures, lab) = (&stop, &count, &failures, &lab);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seen = lab.probe(ip(from), Protocol::Tcp, address(to), PATIENCE).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    if !matches!(seen, Observed::Answered { .. }) {
                        failures.lock().unwrap().push(format!("{from}: {seen}"));
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(rig)));
        eventually(PATIENCE, || count.load(Ordering::Relaxed) > ENOUGH);
        stop.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(failures.into_inner().unwrap(), [] as [String; 0], "{}", rig.evidence());
    assert!(count.into_inner() > ENOUGH, "too few connections to prove anything");
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn l9_a5_a_switch_of_mode_fails_no_connection_and_leaves_nothing() {
    let web = web("", &PODS);
    let rig = Rig::start(DataPlane::IptablesLegacy, &[("web.yaml", &web)]);
    // The kernel remembers ended connections for two minutes.
    let mut rig = rig.with_flags(&["--ipvs-drain-timeout=3s"]);
    let mut old = Echo::connect(&rig, "10.244.1.9", WEB);
    while_connecting(&mut rig, |rig| {
        rig.switch_to(DataPlane::Ipvs);
        thread::sleep(Duration::from_secs(1));
    });
    old.assert_alive();
    let rules = rig.run("iptables-legacy-save");
    assert!(!rules.contains("-j DNAT") && !rules.contains("FERRO-SVC-"), "{rules}");
    rig.expect(SERVED);
    while_connecting(&mut rig, |rig| {
        rig.switch_to(DataPlane::IptablesLegacy);
        thread::sleep(Duration::from_secs(1));
    });
    let is_gone = || {
        !virtual_servers(&rig).contains("rr")
            && rig.run("ipset list -n").is_empty()
            && rig.run("ip route show table local proto 102").is_empty()
            && !rig.run("iptables-legacy-save -t mangle").contains("FERRO")
    };
    assert!(eventually(PATIENCE, is_gone), "{}\n{}", rig.run("ipset list -n"), rig.evidence());
    rig.expect(SERVED);
}

/// A device, sets, chains and virtual servers as kube-proxy's IPVS mode leaves them.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a5_what_kube_proxys_ipvs_mode_left_is_adopted_or_removed() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    shell(
        &rig,
        "ip link add kube-ipvs0 type dummy
         ip address add 10.96.0.10/32 dev kube-ipvs0; ip address add 10.96.0.99/32 dev kube-ipvs0
         for at in 10.96.0.10:80 10.96.0.99:80 172.18.0.2:30080 172.18.0.2:30099 192.0.2.8:30099; do
             ipvsadm -A -t $at -s rr; ipvsadm -a -t $at -r 10.244.1.5:8080 -m; done
         ipvsadm -A -t 192.0.2.7:80 -s rr
         ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
         ipset add KUBE-NODE-PORT-TCP 30080; ipset add KUBE-NODE-PORT-TCP 30099
         ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create THEIRS hash:ip
         iptables-legacy -t nat -N KUBE-SERVICES; iptables-legacy -t nat -N KUBE-NODE-PORT
         iptables-legacy -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
         iptables-legacy -t nat -A PREROUTING -j KUBE-SERVICES",
    );
    rig.start_proxy();
    let is_tidy = || {
        let listed = virtual_servers(&rig);
        !listed.contains("10.96.0.99")
            && !listed.contains("172.18.0.2:30099")
            && rig.run("ipset list -n").lines().all(|name| !name.starts_with("KUBE-"))
            && !rig.run("iptables-legacy-save").contains("KUBE-NODE-PORT")
            && !rig.run("ip link").contains("kube-ipvs0")
    };
    let seen = |rig: &Rig| shell(rig, "ipset list -n; ip link; iptables-legacy-save -t nat");
    assert!(eventually(PATIENCE, is_tidy), "{}\n{}", seen(&rig), rig.evidence());
    let listed = virtual_servers(&rig);
    for others in ["192.0.2.7:80", "192.0.2.8:30099"] {
        assert!(listed.contains(others), "{others} is at no address of the node\n{listed}");
    }
    assert!(rig.run("ipset list -n").contains("THEIRS"));
    rig.expect(SERVED);
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a5_cleanup_twice_leaves_nothing_of_ours() {
    let mut rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    shell(&rig, "ipvsadm -A -t 192.0.2.7:80 -s wlc; ipset create THEIRS hash:ip");
    rig.kill_proxy();
    for _ in 0..2 {
        rig.run(&format!("{PROGRAM} cleanup"));
        assert_eq!(steady(|| rig.run("ipvsadm-save -n")), "-A -t 192.0.2.7:80 -s wlc\n");
        assert_eq!(rig.run("ipset list -n").trim(), "THEIRS");
        assert_eq!(rig.run("ip route show table local proto 102"), "");
        assert!(!rig.run("iptables-legacy-save").contains("FERRO"));
    }
}

/// The number of netlink messages for one changed endpoint, as the program logs it. Where both are on this node it is most.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn one_changed_endpoint_is_three_messages_at_most() {
    let many: String =
        (1..100).map(|n| super::lab::at(&format!("s{n}"), &format!("10.96.2.{n}"), &PODS)).collect();
    let rig =
        start(&[("many.yaml", &many), ("one.yaml", &super::lab::at("one", "10.96.0.10", &PODS[..1]))], &[]);
    rig.write("one.yaml", &super::lab::at("one", "10.96.0.10", &["10.244.1.6"]));
    wait_for_weight(&rig, "10.244.1.6", Some(1));
    let is_alone = || real_servers(&rig, WEB).len() == 1;
    assert!(eventually(PATIENCE, is_alone), "the first one had no connections: {}", rig.evidence());
    let log = rig.log();
    let of_sync = |line: &str| line.split("operations=").nth(1)?.split(' ').next()?.parse::<u32>().ok();
    let last: Vec<_> = log.lines().filter(|line| line.contains("IPv4")).filter_map(of_sync).collect();
    assert!(last.len() > 1 && last[1..].iter().all(|operations| *operations <= 3), "{last:?}\n{log}");
}
