//! What the kernel refuses, and what becomes of everything else.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use ferrovia::kernel::netns::Namespace;

use super::lab::{WEB, at, distribution, shell, start, steady, web, without_proxy};
use crate::common::rig::{PATIENCE, PROGRAM, Rig, eventually};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];

/// kube-router#674: a set that a rule of somebody else asks cannot be destroyed. It is, once that rule has gone.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i8_a_set_that_others_use_harms_nothing() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    shell(
        &rig,
        "ipset create FERRO-4-SERVED hash:ip,port maxelem 10
         iptables-legacy -A INPUT -m set --match-set FERRO-4-SERVED dst,dst
         ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create KUBE-SOURCE hash:ip
         iptables-legacy -A INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst",
    );
    rig.start_proxy();
    rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
    rig.write("more.yaml", &at("more", "10.96.0.11", &PODS[..1]));
    rig.expect_soon("10.244.1.9 tcp 10.96.0.11:80 -> to 10.244.1.5:8080");
    assert!(eventually(PATIENCE, || rig.healthz().0 == 200), "{}", rig.log());
    rig.remove("more.yaml");
    rig.expect_soon("10.244.1.9 tcp 10.96.0.11:80 -> untouched");
    for part in ["cannot destroy KUBE-CLUSTER-IP", "in use by a rule"] {
        assert!(rig.log().contains(part), "{part} is not in\n{}", rig.log());
    }
    let has = |set: &str| rig.run("ipset list -n").lines().any(|name| name == set);
    assert!(has("KUBE-CLUSTER-IP") && !has("KUBE-SOURCE"), "the others go");
    shell(&rig, "iptables-legacy -D INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst");
    assert!(eventually(PATIENCE, || !has("KUBE-CLUSTER-IP")), "{}", rig.log());
    let told = || rig.log().contains("What an earlier proxy left is gone");
    assert!(eventually(PATIENCE, told), "{}", rig.log());
    assert_eq!(rig.log().matches("cannot destroy KUBE-CLUSTER-IP").count(), 1, "{}", rig.log());
}

/// I4: the counters are those of before.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i4_a_restart_creates_nothing_again() {
    let mut rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    distribution(&rig, "10.244.1.9", WEB, 20);
    let connections = |rig: &Rig| {
        let listed = steady(|| rig.run("ipvsadm -Ln --stats --exact"));
        let line = listed.lines().find(|line| line.contains(WEB)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    // The kernel adds them up every two seconds.
    assert!(eventually(PATIENCE, || connections(&rig) == "20"), "{}", rig.run("ipvsadm -Ln --stats"));
    rig.kill_proxy();
    rig.start_proxy();
    assert_eq!(connections(&rig), "20");
}

/// The messages of a program that may not do what it is for.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn without_cap_net_admin_it_says_so_and_no_more() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    let own = rig.command();
    let mut command = rig.lab.here().command("setpriv").unwrap();
    command
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(own.get_program())
        .args(own.get_args());
    rig.spawn(command);
    let says_why = || rig.log().contains("Operation not permitted") || rig.log().contains("CAP_NET_ADMIN");
    assert!(eventually(PATIENCE, says_why), "{}", rig.log());
    thread::sleep(Duration::from_secs(5));
    let log = rig.log();
    assert!(log.lines().count() < 60 && !log.contains("panicked"), "{log}");
    assert_eq!(rig.run("ipvsadm -Ln").lines().count(), 3);
}

fn wait_for_end(command: &mut Command) -> Option<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = eventually(PATIENCE, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    ended.then_some(output)
}

/// On the kernel of this machine. One that has IPVS has to be believed instead.
#[test]
fn a_kernel_without_ipvs_is_told_at_once() {
    let namespace = Namespace::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = namespace.command(PROGRAM).unwrap();
    command
        .args(["proxy", "--proxy-mode=ipvs", "--hostname-override=here", "--manifests"])
        .arg(directory.path());
    let output = wait_for_end(&mut command);
    if Path::new("/proc/net/ip_vs").exists() {
        assert!(output.is_none(), "{output:?}");
        return;
    }
    let output = output.expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in ["this kernel has no IPVS", "load the module ip_vs", "another --proxy-mode"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
