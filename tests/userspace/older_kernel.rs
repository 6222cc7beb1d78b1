//! Linux 6.1, without nf_tables for IPv4 and IPv6: there, iptables and sets capture. It runs in the guest, and has no limits
//! that this process could not lift.

use crate::common::data_plane::DataPlane;
use crate::common::rig::{Rig, dns, web};
use crate::flows::golden_problems;

use super::load::check_connections_at_once;
use super::restart::check_take_over;

const PLANE: DataPlane = DataPlane::UserspaceByIptables;

/// TCP and UDP, IPv4 and IPv6, pods, the node and clients outside; what is refused, and what is dropped.
#[test]
#[ignore = "for another kernel: the guest kernel runs it"]
fn connections_are_captured_by_iptables() {
    let cases = ["dual-stack", "udp", "external-policy-local"];
    let problems: Vec<String> = cases.iter().flat_map(|case| golden_problems(case, PLANE)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
#[ignore = "for another kernel: the guest kernel runs it"]
fn l10_a_new_process_takes_over_and_refuses_no_connection() {
    check_take_over(PLANE);
}

#[test]
#[ignore = "for another kernel: the guest kernel runs it"]
fn l10_a_process_that_was_killed_finds_its_rules_and_sets() {
    let manifests =
        [("web.yaml", &*web("type: NodePort", &["10.244.1.5"])), ("dns.yaml", &dns(&["10.244.1.6"]))];
    let mut rig = Rig::start(PLANE, &manifests);
    rig.kill_proxy();
    rig.start_proxy();
    rig.expect(
        "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080
         172.18.0.2   udp 10.96.0.53:53    -> to 10.244.1.6:8080
         172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded",
    );
}

/// They take 64,256 file descriptors of the proxy, and 40,000 of this process.
#[test]
#[ignore = "for another kernel: the guest kernel runs it"]
fn p1_twenty_thousand_connections_are_held_at_once() {
    check_connections_at_once(PLANE, 20_000);
}
