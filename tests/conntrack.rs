//! Stale flows in the kernel's own connection tracking table, read back with conntrack-tools.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use ferrovia::kernel::conntrack::{Conntrack, KernelConntrack};
use ferrovia::kernel::netns::Namespace;
use ferrovia::model::{
    Endpoint, Family, Frontend, Locality, NodePolicy, Protocol, Scheduler, ServicePort, ServicePortName,
    ServiceTable, TrafficPolicy, Verdict,
};
use ferrovia::sync::conntrack::Reconciler;

use crate::common::rig::ip;

fn run(namespace: &Namespace, script: &str) -> String {
    let output = namespace.command("sh").unwrap().args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs root and the conntrack program: {script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// `destination -> endpoint` of every tracked flow, sorted, as an independent reader sees them.
fn tracked(namespace: &Namespace, family: &str) -> Vec<String> {
    let text = run(namespace, &format!("conntrack -L -f {family}"));
    let mut flows: Vec<_> = text
        .lines()
        .map(|line| {
            let values = |key: &str| -> Vec<&str> {
                line.split_whitespace().filter_map(|word| word.strip_prefix(key)).collect()
            };
            let protocol = line.split_whitespace().next().unwrap();
            let port = values("dport=")[0];
            format!("{protocol} {}:{port} -> {}", values("dst=")[0], values("src=")[1])
        })
        .collect();
    flows.sort();
    flows
}

fn port(name: &str, frontends: &[Frontend], endpoints: &[&str]) -> ServicePort {
    let forward = Verdict::Forward(TrafficPolicy::Cluster);
    let cluster = endpoints
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap())
        .map(|at| Endpoint { address: at.ip(), port: at.port(), locality: Locality::Unknown, weight: 1 })
        .collect();
    ServicePort {
        name: ServicePortName {
            namespace: "default".into(),
            service: name.into(),
            port: "".into(),
            protocol: Protocol::Udp,
        },
        port: 53,
        frontends: frontends.into(),
        load_balancer_sources: None,
        internal: if endpoints.is_empty() { Verdict::Reject } else { forward },
        external: if endpoints.is_empty() { Verdict::Reject } else { forward },
        cluster,
        local: Box::default(),
        draining: Box::default(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn table(family: Family, port: ServicePort) -> ServiceTable {
    let mut table = ServiceTable::new(family);
    table.set_node(NodePolicy {
        addresses: vec![ip("172.18.0.2"), ip("fd00:18::2")],
        ..NodePolicy::default()
    });
    table.set(port);
    table
}

fn reconcile(namespace: &Namespace, table: &ServiceTable) -> usize {
    let mut reconciler = Reconciler::new();
    reconciler.note(table);
    let reconcile = || {
        let mut conntrack = KernelConntrack::open().unwrap();
        reconciler.reconcile(table, &mut conntrack).unwrap().deleted
    };
    namespace.run(reconcile).unwrap()
}

#[test]
fn c1_stale_flows_of_ipv4_are_deleted_and_no_others() {
    let namespace = Namespace::new().unwrap();
    run(
        &namespace,
        "insert() { conntrack -I -p $2 -s 10.244.1.9 --sport $1 -d $3 --dport $4 --dst-nat $5 --timeout 600 $6 $7; }
         insert 1001 udp 10.96.0.10 53    10.244.1.5:53
         insert 1002 udp 10.96.0.10 53    10.244.1.6:53
         insert 1003 udp 172.18.0.2 30053 10.244.1.6:53
         insert 1004 udp 172.18.0.3 30053 10.244.1.6:53
         insert 1005 udp 10.96.0.11 53    10.244.1.6:53
         insert 1006 tcp 10.96.0.10 53    10.244.1.6:53 --state ESTABLISHED
         insert 1007 udp 10.96.0.10 53    10.244.1.6:53 -w 9
         conntrack -I -p udp -s 10.244.1.9 --sport 1008 -d 10.96.0.10 --dport 53 --timeout 600",
    );
    let frontends = [Frontend::ClusterIp(ip("10.96.0.10")), Frontend::NodePort(30053)];
    let table = table(Family::V4, port("dns", &frontends, &["10.244.1.5:53"]));
    assert_eq!(
        reconcile(&namespace, &table),
        4,
        "two of the ClusterIP, in two zones, one NodePort, one untranslated"
    );
    assert_eq!(
        tracked(&namespace, "ipv4"),
        [
            "tcp 10.96.0.10:53 -> 10.244.1.6",
            "udp 10.96.0.10:53 -> 10.244.1.5",
            "udp 10.96.0.11:53 -> 10.244.1.6",
            "udp 172.18.0.3:30053 -> 10.244.1.6",
        ]
    );
    assert_eq!(reconcile(&namespace, &table), 0, "once is enough");
}

#[test]
fn c1_stale_flows_of_ipv6_are_deleted_and_those_of_ipv4_are_not() {
    let namespace = Namespace::new().unwrap();
    run(
        &namespace,
        "insert() { conntrack -I -p udp -s $1 --sport 1001 -d $2 --dport 53 --dst-nat $3 --timeout 600; }
         insert fd00:244:1::9 fd00:96::10 [fd00:244:1::5]:53
         insert fd00:244:1::8 fd00:96::10 [fd00:244:1::6]:53
         insert 10.244.1.9    10.96.0.10  10.244.1.6:53",
    );
    let frontends = [Frontend::ClusterIp(ip("fd00:96::10")), Frontend::ClusterIp(ip("10.96.0.10"))];
    let table = table(Family::V6, port("dns", &frontends, &["[fd00:244:1::5]:53"]));
    assert_eq!(reconcile(&namespace, &table), 1);
    assert_eq!(tracked(&namespace, "ipv6"), ["udp fd00:96::10:53 -> fd00:244:1::5"]);
    assert_eq!(tracked(&namespace, "ipv4"), ["udp 10.96.0.10:53 -> 10.244.1.6"]);
}

/// L2.
#[test]
fn c2_without_endpoints_every_flow_is_stale() {
    let namespace = Namespace::new().unwrap();
    run(
        &namespace,
        "conntrack -I -p udp -s 10.244.1.9 --sport 1001 -d 10.96.0.10 --dport 53 --dst-nat 10.244.1.5:53 --timeout 600",
    );
    let table = table(Family::V4, port("dns", &[Frontend::ClusterIp(ip("10.96.0.10"))], &[]));
    assert_eq!(reconcile(&namespace, &table), 1);
    assert_eq!(tracked(&namespace, "ipv4"), [] as [&str; 0]);
}

/// k8s#129982: 12 GB for 7.5 million entries. What listing takes must not depend on how many there are. Memory is only
/// told of a whole process, so the test runs itself once more, alone.
#[test]
fn c5_a_long_table_is_read_without_being_kept() {
    const ALONE: &str = "FERROVIA_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return list_a_long_table();
    }
    let own_name = "conntrack::c5_a_long_table_is_read_without_being_kept";
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args(["--exact", own_name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn list_a_long_table() {
    const FLOWS: usize = 50_000;
    let namespace = Namespace::new().unwrap();
    run(
        &namespace,
        &format!(
            "for i in $(seq 0 {}); do echo \"-I -p udp -s 10.1.$((i / 250)).$((i % 250)) --sport 1024 -d 192.0.2.1 \
             --dport 53 --timeout 600\"; done | conntrack --load-file -",
            FLOWS - 1
        ),
    );
    let (count, grown) = namespace
        .run(|| {
            let mut conntrack = KernelConntrack::open().unwrap();
            let mut count = 0;
            conntrack.flows(Family::V6, Protocol::Udp, &mut |_| count += 1).unwrap();
            let before = peak_resident_kib();
            conntrack.flows(Family::V4, Protocol::Udp, &mut |_| count += 1).unwrap();
            (count, peak_resident_kib() - before)
        })
        .unwrap();
    assert_eq!(count, FLOWS);
    // The kernel sends some 9 MiB.
    assert!(grown < 1024, "{grown} KiB");
}

fn peak_resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
