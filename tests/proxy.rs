//! The whole program in a lab: fed by an API server, under kube-proxy's name, beside others' rules, with what it needs
//! missing.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::lab::Observed;
use ferrovia::lab::proxy::{Proxy, get};
use ferrovia::model::Protocol;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::apiserver::{ApiServer, Fault, Verb, What};
use crate::common::data_plane::DataPlane;
use crate::common::rig::{NODES, PATIENCE, PROGRAM, Rig, SOON, address, endpoints, eventually, service};

const TO_5: &str = "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080";
const TO_6: &str = "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.6:8080";
const TO_NOBODY: &str = "10.244.1.9 tcp 10.96.0.10:80 -> untouched";

fn web(pods: &[&str]) -> String {
    let spec = "type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]";
    service("web", spec) + &endpoints("web", "TCP", 8080, pods)
}

/// Creates or replaces the objects of YAML documents.
fn apply(server: &ApiServer, documents: &str) {
    for document in documents.split("---\n").filter(|document| !document.trim().is_empty()) {
        server.apply(serde_saphyr::from_str::<Value>(document).unwrap());
    }
}

/// A lab without a proxy, and an API server on the node's loopback.
fn cluster(documents: &str) -> (Rig, ApiServer) {
    let rig = Rig::without_proxy(DataPlane::IptablesLegacy, &[], &[]);
    let server = rig.lab.here().run(ApiServer::start).unwrap();
    apply(&server, documents);
    (rig, server)
}

fn start(rig: &mut Rig, server: &ApiServer) {
    rig.spawn(rig.command_for(&server.kubeconfig()));
    rig.wait_until_healthy();
}

/// The traffic of a client that connects again and again while something else happens.
fn while_connecting(rig: &Rig, work: impl FnOnce()) -> Vec<Observed> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.push(rig.ask("10.244.1.9", Protocol::Tcp, "10.96.0.10:80"));
            }
            seen
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        let seen = client.join().unwrap();
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    })
}

/// A run with hardly any load proves nothing.
fn assert_all_answered(seen: &[Observed]) {
    let failed: Vec<_> = seen.iter().filter(|seen| !matches!(seen, Observed::Answered { .. })).collect();
    assert!(failed.is_empty() && seen.len() > 10, "{failed:?} of {}", seen.len());
}

/// A directory that, put before the PATH, stands in for one program and fails while told to.
struct Sabotage {
    directory: TempDir,
}

impl Sabotage {
    fn of(program: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let script = format!(
            "#!/bin/sh\nif [ -e {0}/broken ]; then echo 'no such feature in this kernel' >&2; exit 3; fi\n\
             PATH=${{PATH#*:}} exec {program} \"$@\"\n",
            directory.path().display()
        );
        let path = directory.path().join(program);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("broken"), "").unwrap();
        Sabotage { directory }
    }

    fn befall(&self, mut command: Command) -> Command {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.directory.path().display()));
        command
    }

    fn end(&self) {
        fs::remove_file(self.directory.path().join("broken")).unwrap();
    }
}

#[test]
fn from_the_api_server_to_rules_also_while_it_is_away() {
    let (mut rig, mut server) = cluster(&format!("{NODES}{}", web(&["10.244.1.5"])));
    start(&mut rig, &server);
    rig.expect_soon(TO_5);
    apply(&server, &web(&["10.244.1.6"]));
    rig.expect_soon(TO_6);

    server.stop();
    rig.expect(TO_6);
    apply(&server, &web(&["10.244.1.5"]));
    rig.lab.here().run(|| server.start_again()).unwrap();
    rig.expect_soon(TO_5);
    assert_eq!(rig.healthz().0, 200);

    server.delete("services", "default/web");
    rig.expect_soon(TO_NOBODY);
}

/// The command line and the file of kubeadm's DaemonSet, which run this program where `/usr/local/bin/kube-proxy` is it.
#[test]
fn under_the_name_of_kube_proxy_with_the_file_of_kubeadm() {
    let (mut rig, server) = cluster(&format!("{NODES}{}", web(&["10.244.1.5"])));
    let directory = TempDir::new().unwrap();
    let (program, file) = (directory.path().join("kube-proxy"), directory.path().join("config.conf"));
    symlink(PROGRAM, &program).unwrap();
    fs::write(&file, kubeadm_config(&server.kubeconfig())).unwrap();
    let mut command = rig.lab.here().command(&program).unwrap();
    command.arg(format!("--config={}", file.display())).arg("--hostname-override=here");
    rig.spawn(command);
    rig.wait_until_healthy();
    rig.expect_soon(&format!("{TO_5}\n172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded"));
    rig.kill_proxy();
    for _ in 0..2 {
        let mut cleanup = rig.lab.here().command(&program).unwrap();
        let output = cleanup.arg("--cleanup").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        rig.expect(TO_NOBODY);
    }
}

fn kubeadm_config(kubeconfig: &Path) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nbindAddress: 0.0.0.0\n\
         bindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  contentType: \"\"\n  \
         kubeconfig: {}\n  qps: 0\nclusterCIDR: 10.244.0.0/16,fd00:244::/32\nconfigSyncPeriod: 0s\nconntrack:\n  \
         maxPerCore: null\n  min: null\n  tcpCloseWaitTimeout: null\n  tcpEstablishedTimeout: null\ndetectLocal:\n  \
         bridgeInterface: \"\"\n  interfaceNamePrefix: \"\"\ndetectLocalMode: \"\"\nenableProfiling: false\n\
         healthzBindAddress: \"\"\nhostnameOverride: \"\"\niptables:\n  localhostNodePorts: null\n  masqueradeAll: false\n  \
         masqueradeBit: null\n  minSyncPeriod: 0s\n  syncPeriod: 0s\nlogging:\n  flushFrequency: 0\n  verbosity: 0\n\
         metricsBindAddress: \"\"\nmode: \"\"\nnodePortAddresses: null\noomScoreAdj: null\nportRange: \"\"\n\
         showHiddenMetricsForVersion: \"\"\n",
        kubeconfig.display()
    )
}

/// k8s#126468: on a new node, and after a restart, when the rules of the process before are still at work.
#[test]
fn a1_nothing_is_written_before_all_lists_are_complete() {
    for missing in ["services", "endpointslices", "nodes"] {
        let (mut rig, server) = cluster(&format!("{NODES}{}", web(&["10.244.1.5"])));
        let untouched = rig.rules("legacy");
        for (first, then) in [("10.244.1.5", TO_5), ("10.244.1.6", TO_6)] {
            apply(&server, &web(&[first]));
            let before = rig.rules("legacy");
            let tries = |server: &ApiServer| {
                [Verb::StreamingList, Verb::List]
                    .map(|verb| server.count(verb, missing))
                    .iter()
                    .sum::<usize>()
            };
            let already = tries(&server);
            for verb in [Verb::StreamingList, Verb::List] {
                let what = What::Status(503);
                server.fault(Fault { verb, resource: Some(missing), times: usize::MAX, what });
            }
            rig.spawn(rig.command_for(&server.kubeconfig()));
            server.until("attempts to list", |server| tries(server) >= already + 3);
            assert_eq!(rig.rules("legacy"), before, "without {missing}");
            if before != untouched {
                rig.expect(TO_5);
            }
            server.mend();
            assert!(eventually(PATIENCE, || rig.rules("legacy") != before), "{}", rig.log());
            rig.expect_soon(then);
            rig.kill_proxy();
        }
    }
}

/// k8s#37414: what has to do with the Node follows when it comes; the rest works before.
#[test]
fn e14_a_node_that_registers_later_is_waited_for() {
    let (mut rig, server) = cluster(&web(&["10.244.1.5"]));
    let mut command = rig.command_for(&server.kubeconfig());
    command.arg("--nodeport-addresses=primary");
    rig.spawn(command);
    rig.expect_soon(&format!("{TO_5}\n172.18.0.100 tcp 172.18.0.2:30080 -> untouched"));
    let (status, body) = rig.healthz();
    assert!(status == 503 && body.contains("not known to the API server"), "{status} {body}");
    apply(&server, NODES);
    rig.expect_soon("172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded");
    assert!(eventually(SOON, || rig.healthz().0 == 200), "{:?}", rig.healthz());
}

/// k8s#75360: killed and started again while clients connect.
#[test]
fn a4_restarts_fail_no_new_connection() {
    let mut rig = Rig::start(DataPlane::IptablesNft, &[("web.yaml", &web(&["10.244.1.5", "10.244.2.5"]))]);
    rig.kill_proxy();
    let seen = while_connecting(&rig, || {
        for _ in 0..5 {
            let mut proxy = Proxy::spawn(rig.command()).unwrap();
            proxy.wait_until_healthy(&rig.lab, PATIENCE).unwrap();
        }
    });
    assert_all_answered(&seen);
}

/// k8s#109286, k8s#102314: kube-proxy's rules, and our own in the other flavour. Connections go on all the while.
#[test]
fn a5_y6_earlier_rules_go_when_new_ones_are_in() {
    let [legacy, nft] = DataPlane::IPTABLES;
    for (before, after) in [(legacy, legacy), (legacy, nft), (nft, legacy)] {
        let (old, new) = (before.flavour(), after.flavour());
        let mut rig = Rig::without_proxy(before, &[("web.yaml", &web(&["10.244.1.5"]))], &[]);
        rig.start_proxy();
        rig.kill_proxy();
        leave_as_kube_proxy(&rig, old);
        rig.write("web.yaml", &web(&["10.244.1.6"]));
        let seen = while_connecting(&rig, || {
            let mut command = rig.command();
            command.args(["--iptables-flavour", new]);
            let proxy = Proxy::spawn(command).unwrap();
            let is_gone = || {
                let rules = rig.rules(old);
                let ours = new != old && rules.iter().any(|line| line.contains("FERRO"));
                !ours && !rules.iter().any(|line| line.contains("KUBE-S"))
            };
            assert!(eventually(PATIENCE, is_gone), "{:#?}\n{}", rig.rules(old), proxy.log());
            rig.expect_soon(TO_6);
        });
        assert_all_answered(&seen);
    }
}

fn leave_as_kube_proxy(rig: &Rig, flavour: &str) {
    let rules = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-OLD - [0:0]\n:KUBE-SEP-OLD - [0:0]\n\
        -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
        -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-OLD\n-A KUBE-SVC-OLD -j KUBE-SEP-OLD\n\
        -A KUBE-SEP-OLD -p tcp -j DNAT --to-destination 10.244.2.5:8080\nCOMMIT\n";
    let script = format!("printf '{rules}' | iptables-{flavour}-restore --noflush");
    let output = rig.lab.here().command("sh").unwrap().args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a5_cleanup_twice_leaves_nothing_of_either_flavour() {
    for plane in DataPlane::IPTABLES {
        let rig = Rig::start(plane, &[("web.yaml", &web(&["10.244.1.5"]))]);
        leave_as_kube_proxy(&rig, plane.flavour());
        let mut rig = rig;
        rig.kill_proxy();
        for _ in 0..2 {
            rig.run(&format!("{PROGRAM} cleanup"));
            for left in DataPlane::IPTABLES {
                let rules = rig.rules(left.flavour());
                let left: Vec<_> =
                    rules.iter().filter(|line| line.contains("FERRO") || line.contains("KUBE-")).collect();
                assert!(left.is_empty(), "{left:?}");
            }
        }
    }
}

/// k8s#134648, k8s#133694: it is told, and the other family does not notice.
#[test]
fn l6_y14_a_family_that_fails_is_unhealthy_and_holds_up_no_other() {
    for plane in DataPlane::IPTABLES {
        let sabotage = Sabotage::of(&format!("ip6tables-{}-restore", plane.flavour()));
        let mut rig = Rig::without_proxy(plane, &[("web.yaml", &web(&["10.244.1.5"]))], &[]);
        rig.spawn(sabotage.befall(rig.command()));
        rig.expect_soon(TO_5);
        let is_told = || {
            let (status, body) = rig.healthz();
            status == 503 && body.contains("IPv6: sync failed") && body.contains("no such feature")
        };
        assert!(eventually(SOON, is_told), "{:?}\n{}", rig.healthz(), rig.log());
        rig.write("web.yaml", &web(&["10.244.1.6"]));
        rig.expect_soon(TO_6);
        sabotage.end();
        assert!(eventually(PATIENCE, || rig.healthz().0 == 200), "{:?}\n{}", rig.healthz(), rig.log());
    }
}

/// k8s#99031: a kernel or image without one family is a healthy node of the other.
#[test]
fn y14_a_family_that_the_node_does_not_have_is_left_out() {
    for plane in DataPlane::IPTABLES {
        let sabotage = Sabotage::of(&format!("ip6tables-{}", plane.flavour()));
        let mut rig = Rig::without_proxy(plane, &[("web.yaml", &web(&["10.244.1.5"]))], &[]);
        rig.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        rig.spawn(sabotage.befall(rig.command()));
        rig.expect_soon(TO_5);
        let (status, body) = rig.healthz();
        assert!(status == 200 && body.contains("IPv4") && !body.contains("IPv6"), "{status} {body}");
    }
}

/// k8s#96468: IPv6 switched off on the interfaces.
#[test]
fn y14_ipv6_may_be_disabled() {
    let mut rig = Rig::without_proxy(DataPlane::IptablesLegacy, &[("web.yaml", &web(&["10.244.1.5"]))], &[]);
    rig.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    rig.start_proxy();
    rig.expect(TO_5);
    rig.write("web.yaml", &web(&["10.244.1.6"]));
    rig.expect_soon(TO_6);
}

/// k8s#7370: held for longer than iptables-restore waits. Afterwards the change is made at once, and no Service was
/// blamed for it.
#[test]
fn y5_a_held_lock_delays_only_while_it_is_held() {
    let rig = Rig::start(DataPlane::IptablesLegacy, &[("web.yaml", &web(&["10.244.1.5"]))]);
    let hold = || {
        let lock = File::create("/run/xtables.lock").unwrap();
        lock.lock().unwrap();
        lock
    };
    let lock = rig.lab.here().run(hold).unwrap();
    rig.write("web.yaml", &web(&["10.244.1.6"]));
    let is_told = || {
        let (status, body) = rig.healthz();
        status == 503 && body.contains("xtables")
    };
    assert!(eventually(PATIENCE, is_told), "{:?}\n{}", rig.healthz(), rig.log());
    rig.expect(TO_5);
    thread::sleep(Duration::from_secs(1));
    drop(lock);
    let released = Instant::now();
    rig.expect_soon(TO_6);
    assert!(released.elapsed() < Duration::from_secs(8), "{:?}", released.elapsed());
    assert!(!rig.log().contains("refused a ServicePort"), "{}", rig.log());
}

/// k8s#44311: what a load balancer asks, over endpoints that leave, and over a restart.
#[test]
fn e6_health_check_node_ports_tell_of_local_endpoints_and_come_back() {
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.10, externalTrafficPolicy: Local, healthCheckNodePort: 32100, \
                ports: [{port: 80, nodePort: 30080}]";
    let web = |pods: &[&str]| service("web", spec) + &endpoints("web", "TCP", 8080, pods);
    let mut rig = Rig::start(DataPlane::IptablesLegacy, &[("web.yaml", &web(&["10.244.1.5", "10.244.2.5"]))]);
    let answers = |rig: &Rig, status: u16| {
        let ask = || get(&rig.lab, address("172.18.0.2:32100"), "/").ok().map(|(status, _)| status);
        eventually(SOON, || ask() == Some(status))
    };
    assert!(answers(&rig, 200), "{}", rig.log());
    rig.kill_proxy();
    rig.start_proxy();
    assert!(answers(&rig, 200), "after a restart: {}", rig.log());
    let leaving = "10.244.1.5 ready: false, serving: true, terminating: true";
    rig.write("web.yaml", &web(&[leaving, "10.244.2.5"]));
    assert!(answers(&rig, 503), "the last one leaves: {}", rig.log());
    rig.write("web.yaml", &web(&["10.244.2.5"]));
    assert!(answers(&rig, 503), "{}", rig.log());
    rig.write("web.yaml", &web(&["10.244.1.6"]));
    assert!(answers(&rig, 200), "{}", rig.log());
}
