//! IPVS without the program: that the kernel at hand and the lab can tell whether the program is right.

use std::time::Instant;

use ferrovia::kernel::netns::Namespace;
use ferrovia::lab::{Lab, Observed};
use ferrovia::model::Protocol;

use crate::common::rig::{PATIENCE, address, eventually, ip};

fn run(namespace: &Namespace, script: &str) -> String {
    let output = namespace.command("sh").unwrap().args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs root, IPVS and ipvsadm: {script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The server that answers, and whom it sees.
fn ask(lab: &Lab, from: &str, protocol: Protocol, to: &str) -> (String, String) {
    match lab.probe(ip(from), protocol, address(to), PATIENCE).unwrap() {
        Observed::Answered { server, client } => (server.to_string(), client.ip().to_string()),
        other => panic!("{from} {} {to}: {other}", protocol.lowercase()),
    }
}

fn kept(server: &str, client: &str) -> (String, String) {
    (server.to_owned(), client.to_owned())
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a_virtual_server_is_listed_in_its_namespace_alone() {
    let (namespace, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    // Linux 6.1 takes every real server for a broadcast address where no interface has ever been up.
    run(
        &namespace,
        "ip link set lo up; ipvsadm -A -t 10.96.0.10:80 -s rr; ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m",
    );
    let is_listed = || {
        let listed = run(&namespace, "ipvsadm -Ln");
        listed.contains("TCP  10.96.0.10:80 rr") && listed.contains("-> 10.244.1.5:8080")
    };
    assert!(eventually(PATIENCE, is_listed), "{}", run(&namespace, "ipvsadm -Ln"));
    assert!(!run(&other, "ipvsadm -Ln").contains("10.96.0.10"));
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn every_protocol_and_family_is_forwarded_through_the_lab() {
    let started = Instant::now();
    let lab = Lab::new().unwrap();
    println!("a lab in {:?}", started.elapsed());
    lab.listen(address("10.244.1.5:8080"), Protocol::Sctp).unwrap();
    lab.listen(address("[fd00:244:1::5]:8080"), Protocol::Sctp).unwrap();
    run(
        lab.here(),
        "sysctl -qw net.ipv4.vs.conntrack=1
         ip route add local 10.96.0.10 dev lo; ip -6 route add local fd00:96::10 dev lo
         for protocol in -t -u --sctp-service; do
             ipvsadm -A $protocol 10.96.0.10:80 -s rr
             ipvsadm -a $protocol 10.96.0.10:80 -r 10.244.1.5:8080 -m
             ipvsadm -A $protocol [fd00:96::10]:80 -s rr
             ipvsadm -a $protocol [fd00:96::10]:80 -r [fd00:244:1::5]:8080 -m
         done",
    );
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for client in ["10.244.1.9", "172.18.0.100", "10.244.2.5"] {
            assert_eq!(ask(&lab, client, protocol, "10.96.0.10:80"), kept("10.244.1.5:8080", client));
        }
        for client in ["fd00:244:1::9", "fd00:18::100", "fd00:244:2::5"] {
            assert_eq!(ask(&lab, client, protocol, "[fd00:96::10]:80"), kept("[fd00:244:1::5]:8080", client));
        }
    }
    println!("all in {:?}", started.elapsed());
}

/// What the node itself sends has a source already when IPVS sends it elsewhere: that of the route to the ClusterIP.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn what_iptables_masquerades_and_sets_match_comes_back() {
    let lab = Lab::new().unwrap();
    run(
        lab.here(),
        "sysctl -qw net.ipv4.vs.conntrack=1
         ip route add local 10.96.0.10 dev lo src 172.18.0.2
         ipvsadm -A -t 10.96.0.10:80 -s rr; ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m
         ipset create hairpin hash:net,net; ipset add hairpin 10.244.1.5,10.244.1.5
         iptables-legacy -t nat -A POSTROUTING -m set --match-set hairpin src,dst -j MASQUERADE
         iptables-legacy -t nat -A POSTROUTING -s 172.18.0.100 -m ipvs --ipvs -j MASQUERADE",
    );
    for (client, seen) in [
        ("10.244.1.9", "10.244.1.9"),
        ("10.244.1.5", "172.18.0.2"),
        ("172.18.0.100", "172.18.0.2"),
        ("172.18.0.2", "172.18.0.2"),
    ] {
        assert_eq!(ask(&lab, client, Protocol::Tcp, "10.96.0.10:80"), kept("10.244.1.5:8080", seen));
    }
}
