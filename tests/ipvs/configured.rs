//! Flags and the configuration file of kube-proxy, as far as they are about IPVS.

use std::fs;

use ferrovia::lab::proxy::get;

use super::lab::{WEB, options, shell, start, web, without_proxy};
use crate::common::rig::{PATIENCE, PROGRAM, Rig, address, eventually};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const SERVED: &str = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080
                      172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded";

fn timeouts(rig: &Rig) -> String {
    rig.run("ipvsadm -Ln --timeout").trim().to_owned()
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn each_timeout_is_set_and_the_others_stay() {
    for (flag, told) in [
        ("--ipvs-tcp-timeout=20m", "1200 120 300"),
        ("--ipvs-tcpfin-timeout=90s", "900 90 300"),
        ("--ipvs-udp-timeout=77s", "900 120 77"),
    ] {
        let rig = start(&[("web.yaml", &web("", &PODS))], &[flag]);
        assert_eq!(timeouts(&rig), format!("Timeout (tcp tcpfin udp): {told}"), "{flag}");
        assert_eq!(options(&rig, WEB), "rr");
    }
}

/// As `kubeadm config print` writes it, with a section for IPVS.
fn file(section: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nbindAddress: 0.0.0.0\n\
         clusterCIDR: 10.244.0.0/16,fd00:244::/32\ndetectLocalMode: \"\"\nhealthzBindAddress: \"\"\n\
         hostnameOverride: here\niptables:\n  masqueradeAll: false\n  masqueradeBit: null\n  minSyncPeriod: 0s\n  \
         syncPeriod: 0s\nmetricsBindAddress: \"\"\nmode: ipvs\nnodePortAddresses: null\noomScoreAdj: null\n{section}"
    )
}

/// The program on a file, beside which it is told only what is not in kube-proxy's.
fn start_with_file(rig: &mut Rig, file: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.conf");
    fs::write(&path, file).unwrap();
    let mut command = rig.lab.here().command(PROGRAM).unwrap();
    command.arg("proxy").arg(format!("--config={}", path.display()));
    command.args(["--manifests=/run/manifests", "--iptables-flavour=legacy"]);
    rig.spawn(command);
    rig.wait_until_healthy();
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn every_field_of_the_file_is_in_force() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    shell(&rig, "ipvsadm -A -t 198.51.100.7:80 -s nq; ip link add kube-ipvs0 type dummy");
    let section = "ipvs:\n  excludeCIDRs: [198.51.100.0/24]\n  minSyncPeriod: 10ms\n  scheduler: wlc\n  \
                   strictARP: true\n  syncPeriod: 40s\n  tcpFinTimeout: 90s\n  tcpTimeout: 20m0s\n  udpTimeout: 77s\n";
    start_with_file(&mut rig, &file(section));
    // Not from the lab's pods, whose gateway is on another interface: strict ARP is silent about it.
    rig.expect(
        "172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded
         172.18.0.2   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded",
    );
    assert_eq!(options(&rig, WEB), "wlc");
    assert_eq!(timeouts(&rig), "Timeout (tcp tcpfin udp): 1200 90 77");
    assert_eq!(options(&rig, "198.51.100.7:80"), "nq");
    let arp = rig.run("sysctl -n net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce");
    assert_eq!(arp, "1\n2\n");
    let (_, told) = get(&rig.lab, address("127.0.0.1:10249"), "/configz").unwrap();
    for part in
        ["\"minSyncPeriod\":\"10ms\"", "\"syncPeriod\":\"40s\"", "\"excludeCIDRs\":[\"198.51.100.0/24\"]"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

/// kubeadm writes `null` for what nobody chose.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn null_and_empty_fields_are_the_defaults() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    let section = "ipvs:\n  excludeCIDRs: null\n  minSyncPeriod: 0s\n  scheduler: \"\"\n  strictARP: false\n  \
                   syncPeriod: 0s\n  tcpFinTimeout: 0s\n  tcpTimeout: 0s\n  udpTimeout: 0s\n";
    start_with_file(&mut rig, &file(section));
    rig.expect(SERVED);
    assert_eq!(options(&rig, WEB), "rr");
    assert_eq!(timeouts(&rig), "Timeout (tcp tcpfin udp): 900 120 300");
}

/// What needs privileges, for a container that runs before the one that stays, and nothing else.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn init_only_sets_the_node_up_and_ends() {
    let rig = without_proxy(&[("web.yaml", &web("", &PODS))], &["--init-only", "--ipvs-tcp-timeout=20m"]);
    let sysctls = "sysctl -n net.ipv4.vs.conntrack net.ipv4.vs.conn_reuse_mode net.ipv4.vs.expire_nodest_conn \
                   net.ipv4.vs.expire_quiescent_template";
    assert_eq!(rig.run(sysctls), "0\n1\n0\n0\n");
    let mut child = rig.command().spawn().unwrap();
    let mut ended = None;
    assert!(eventually(PATIENCE, || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    }));
    assert!(ended.unwrap().success());
    assert_eq!(rig.run(sysctls), "1\n1\n1\n1\n");
    assert_eq!(timeouts(&rig), "Timeout (tcp tcpfin udp): 1200 120 300");
    assert_eq!(rig.run("ipvsadm-save -n") + &rig.run("ipset list -n"), "");
    assert_eq!(rig.rules("legacy"), [] as [&str; 0]);
    assert_eq!(rig.run("ip route show table local proto 102"), "");
}
