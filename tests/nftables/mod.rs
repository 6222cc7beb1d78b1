//! What is particular to the nftables mode, with the real program, judged by `nft` and by packets.

mod counters;
mod faults;
mod scale;
mod service_cidrs;

use std::path::Path;
use std::time::{Duration, Instant};

use ferrovia::kernel::nftables::table::Activity;
use ferrovia::kernel::nftables::{KernelNftables, Nftables as _, TableFamily};
use ferrovia::lab::Observed;
use ferrovia::lab::proxy::Proxy;
use ferrovia::model::Protocol;

use crate::common::clients::Echo;
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, PROGRAM, Rig, endpoints, eventually, service, web};
use crate::ipvs::lab::{metric, shell};
use crate::ipvs::life::while_connecting;

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const WEB: &str = "10.96.0.10:80";
const SERVED: &str = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080
                      172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded";

fn start(manifests: &[(&str, &str)]) -> Rig {
    Rig::start(DataPlane::Nftables, manifests)
}

/// Somebody else's hand in each of the places that the mode writes to.
#[test]
fn l5_whatever_others_do_to_the_table_is_undone() {
    let rig = start(&[("web.yaml", &web("type: NodePort", &PODS))]);
    rig.expect(SERVED);
    // A table that comes back is listed last.
    let state = || shell(&rig, "nft list table ip ferrovia || true; nft list table ip6 ferrovia || true");
    let whole = state();
    for meddling in [
        "nft delete element ip ferrovia services '{ 10.96.0.10 . tcp . 80 }'",
        "nft delete element ip ferrovia cluster-2 '{ 10.96.0.10 . tcp . 80 . 1 }'",
        "nft add element ip ferrovia virtual-ips '{ 10.1.2.3 }'",
        "nft flush chain ip ferrovia pick-cluster-random-2",
        "nft flush chain ip ferrovia prerouting",
        "nft flush map ip ferrovia node-ports",
        "nft insert rule ip ferrovia filter-forward drop",
        "nft add chain ip ferrovia filter-forward '{ policy drop ; }'",
        "nft add table ip ferrovia '{ flags dormant ; }'",
        "echo 'add table ip ferrovia { flags dormant ; }\ndelete chain ip ferrovia filter-input' | nft -f -",
        "nft flush table ip ferrovia",
        "nft delete table ip ferrovia",
        "nft flush ruleset",
    ] {
        shell(&rig, meddling);
        assert!(eventually(PATIENCE, || state() == whole), "{meddling}:\n{}\n{}", state(), rig.log());
        // Reading back takes a twentieth of the time at most.
        std::thread::sleep(Duration::from_millis(500));
    }
    rig.expect(SERVED);
    assert!(metric(&rig, "ferrovia_drift_repairs_total") >= 13, "{}", rig.log());
}

/// As the kernel says: a program that lists it takes longer than a repair.
fn is_active(rig: &Rig) -> bool {
    let tables = || KernelNftables::open().unwrap().tables(TableFamily::Ip).unwrap();
    let tables = rig.lab.here().run(tables).unwrap();
    tables.iter().any(|found| &*found.table.name == "ferrovia" && found.activity == Activity::Active)
}

/// No packet meets a dormant table. How slow a busy machine is says nothing, so that the fastest repair of each kind counts.
#[test]
fn l5_a_table_that_was_made_dormant_or_deleted_is_back_within_100_ms() {
    let rig = start(&[("web.yaml", &web("type: NodePort", &PODS))]);
    let kinds = ["nft add table ip ferrovia '{ flags dormant ; }'", "nft delete table ip ferrovia"];
    let mut fastest = [Duration::MAX; 2];
    for repairs in 1..=10 {
        let kind = repairs % 2;
        shell(&rig, kinds[kind]);
        let started = Instant::now();
        assert!(eventually(PATIENCE, || is_active(&rig)), "{}", rig.log());
        fastest[kind] = fastest[kind].min(started.elapsed());
        let counted = || metric(&rig, "ferrovia_drift_repairs_total") == repairs as u64;
        assert!(eventually(PATIENCE, counted), "{}", rig.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(fastest.iter().max() < Some(&Duration::from_millis(100)), "{fastest:?}");
    rig.expect(SERVED);
}

#[test]
fn own_changes_are_no_drift() {
    let rig = start(&[("web.yaml", &web("", &PODS))]);
    rig.write("web.yaml", &web("", &["10.244.1.6", "10.244.2.6"]));
    rig.expect_soon("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.6:8080 10.244.2.6:8080");
    shell(&rig, "nft add table ip other; nft add chain ip other x");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(metric(&rig, "ferrovia_drift_repairs_total"), 0, "{}", rig.log());
}

/// What an operator sees who knows nft and not this program.
#[test]
fn what_is_written_reads_well() {
    let sticky = web("type: NodePort, sessionAffinity: ClientIP", &PODS);
    let rig = start(&[("web.yaml", &sticky)]);
    let seen = rig.ask("10.244.1.9", Protocol::Tcp, WEB);
    assert!(matches!(seen, Observed::Answered { .. }), "{seen}");
    let listed = rig.run("nft list ruleset");
    for line in [
        "10.96.0.10 . tcp . 80 comment \"default/web/TCP\" : 0:1",
        "0:1 : goto pick-cluster-random-2-sticky",
        "tcp . 30080 comment \"default/web/TCP\" : 0:2",
        "0:2 : goto masquerade-node-cluster-random-2-sticky",
        "meta priority set ip daddr . meta l4proto . th dport map @services meta priority vmap @classes",
        "meta priority set none dnat ip to",
        "10.96.0.10 . tcp . 80 . 0 : 10.244.1.5 . 8080",
        "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @cluster-2",
        "dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity",
        "update @affinity { ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 3h : ip daddr . th dport }",
        "10.244.1.9 . 10.96.0.10 . tcp . 80",
    ] {
        assert!(listed.contains(line), "{line}\n{listed}");
    }
    let found = shell(&rig, "nft get element ip ferrovia services '{ 10.96.0.10 . tcp . 80 }'");
    assert!(found.contains(": 0:1"), "{found}");
    rig.run("nft list table ip6 ferrovia");
}

/// Beside an iptables mode and back. Connections that are there go on.
#[test]
fn l9_a5_a_switch_of_mode_fails_no_connection_and_leaves_nothing() {
    for other in DataPlane::IPTABLES {
        let web = web("type: NodePort", &PODS);
        let mut rig = Rig::start(other, &[("web.yaml", &web)]);
        let mut old = Echo::connect(&rig, "10.244.1.9", WEB);
        while_connecting(&mut rig, |rig| {
            rig.switch_to(DataPlane::Nftables);
            std::thread::sleep(Duration::from_secs(1));
        });
        old.assert_alive();
        let rules = rig.run(&format!("iptables-{}-save", other.flavour()));
        assert!(!rules.contains("FERRO"), "{rules}");
        rig.expect(SERVED);
        while_connecting(&mut rig, |rig| {
            rig.switch_to(other);
            std::thread::sleep(Duration::from_secs(1));
        });
        let is_gone = || !rig.run("nft list tables").contains("ferrovia");
        assert!(eventually(PATIENCE, is_gone), "{}", rig.log());
        old.assert_alive();
        rig.expect(SERVED);
    }
}

/// kube-proxy's own table goes when ours is in.
#[test]
fn a5_what_kube_proxys_nftables_mode_left_goes() {
    let mut rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web("", &PODS))], &[]);
    shell(&rig, "nft add table ip kube-proxy; nft add table ip6 kube-proxy; nft add table ip other");
    rig.start_proxy();
    let is_gone = || !rig.run("nft list tables").contains("kube-proxy");
    assert!(eventually(PATIENCE, is_gone), "{}", rig.log());
    assert!(rig.run("nft list tables").contains("table ip other"));
}

/// Told by its comment. It is not touched, and `/healthz` says what is wrong until it has gone.
#[test]
fn l6_a_table_of_somebody_else_is_named_and_left_alone() {
    let mut rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web("", &PODS))], &[]);
    shell(&rig, "nft add table ip ferrovia '{ comment \"mine\" ; }'");
    rig.spawn(rig.command());
    let says = || rig.log().contains("table ip ferrovia is somebody else's: its comment is");
    assert!(eventually(PATIENCE, says), "{}", rig.log());
    assert_eq!(rig.healthz().0, 503);
    assert_eq!(rig.run("nft list table ip ferrovia").lines().count(), 3);
    shell(&rig, "nft delete table ip ferrovia");
    let served = || rig.run("nft list ruleset").contains("10.96.0.10 . tcp . 80");
    assert!(eventually(PATIENCE, served), "{}", rig.log());
}

/// k8s#139515: of a legal length, and longer than nft's comments.
#[test]
fn l1_a_long_name_harms_nobody() {
    let name = "s".repeat(63);
    let ports = "clusterIP: 10.96.0.11, ports: [{name: http, port: 80}]";
    let namespace = "n".repeat(62);
    let long = (service(&name, ports) + &endpoints(&name, "TCP", 8080, &PODS))
        .replace("namespace: default", &format!("namespace: {namespace}"))
        .replace("ports: [{protocol: TCP,", "ports: [{name: http, protocol: TCP,");
    let rig = start(&[("long.yaml", &long), ("web.yaml", &web("", &PODS))]);
    rig.expect(
        "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080
         10.244.1.9 tcp 10.96.0.11:80 -> to 10.244.1.5:8080 10.244.2.5:8080",
    );
}

/// k8s#136786: there may be no `nft`, or one that cannot read what is there.
#[test]
fn y7_no_program_is_started() {
    let mut rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web("", &PODS))], &[]);
    let mut command = rig.command();
    command.env("PATH", "/nowhere");
    rig.spawn(command);
    rig.wait_until_healthy();
    rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
}

#[test]
fn without_a_mode_it_is_nftables_where_the_kernel_can() {
    let mut rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web("", &PODS))], &[]);
    rig.spawn(Proxy::command(&rig.lab, Path::new(PROGRAM)).unwrap());
    rig.wait_until_healthy();
    let log = rig.log();
    assert!(log.contains("\"Chose a mode, as none was asked for\" mode=\"nftables\" reason="), "{log}");
    assert!(rig.run("nft list ruleset").contains("10.96.0.10 . tcp . 80"));
}

#[test]
fn cleanup_takes_out_everything() {
    let mut rig = start(&[("web.yaml", &web("", &PODS))]);
    rig.kill_proxy();
    assert!(rig.run("nft list tables").contains("table ip ferrovia"), "rules outlive the process");
    rig.run(&format!("{PROGRAM} cleanup"));
    assert_eq!(rig.run("nft list tables").matches("ferrovia").count(), 0);
}
