//! What is particular to the userspace mode, with the real program and real packets.

mod load;
mod older_kernel;
mod relay;
mod restart;
mod sessions;

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use ferrovia::kernel::scheduling;
use ferrovia::lab::Observed;
use ferrovia::model::Protocol;

use crate::common::data_plane::DataPlane;
use crate::common::rig::{Rig, SOON, address, dns, eventually, web};
use crate::ipvs::lab::annotated;

const WEB: &str = "10.96.0.10:80";

fn start(manifests: &[(&str, &str)]) -> Rig {
    Rig::start(DataPlane::Userspace, manifests)
}

/// A server of a pod instead of the lab's.
fn listen(rig: &Rig, at: &str) -> TcpListener {
    let at = address(at);
    rig.lab.stop_listening(at, Protocol::Tcp);
    let namespace = &rig.lab.host_of(at.ip()).unwrap().namespace;
    let mut listener = None;
    // The lab's own may be busy with the end of a connection.
    let is_free = || {
        listener = namespace.run(|| TcpListener::bind(at)).unwrap().ok();
        listener.is_some()
    };
    assert!(eventually(SOON, is_free), "{at} is in use");
    let listener = listener.unwrap();
    // The queue of the standard library has room for 128: a test that is slow to accept would have connects time out.
    rustix::net::listen(&listener, 4096).unwrap();
    listener
}

/// The value of a metric, of all its series together.
pub fn metric(rig: &Rig, name: &str) -> f64 {
    let text = rig.metrics();
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(is_of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn server_of(rig: &Rig, from: &str) -> Option<IpAddr> {
    match rig.ask(from, Protocol::Tcp, WEB) {
        Observed::Answered { server, .. } => Some(server.ip()),
        _ => None,
    }
}

/// k8s#24648: an endpoint that refuses, and one that says nothing at all.
#[test]
fn p2_endpoints_that_do_not_answer_are_passed_over_and_left_out() {
    let pods = ["10.244.1.5", "10.244.1.6", "10.244.2.77"];
    let rig = start(&[("web.yaml", &web("", &pods))]);
    rig.lab.stop_listening(address("10.244.1.6:8080"), Protocol::Tcp);
    for attempt in 0..20 {
        let server = server_of(&rig, "10.244.1.9");
        assert_eq!(server, Some("10.244.1.5".parse().unwrap()), "attempt {attempt}\n{}", rig.log());
    }
    assert!(metric(&rig, "ferrovia_proxied_retries_total") >= 4.0);
    assert!(metric(&rig, "ferrovia_proxied_ejections_total") >= 1.0);
    rig.lab.listen(address("10.244.1.6:8080"), Protocol::Tcp).unwrap();
    let is_back = || server_of(&rig, "10.244.1.9") == Some("10.244.1.6".parse().unwrap());
    assert!(eventually(SOON * 2, is_back), "{}", rig.log());
}

/// Affinity goes with the connection to the endpoint that answers.
#[test]
fn p2_affinity_moves_away_from_an_endpoint_that_does_not_answer() {
    let rig = start(&[("web.yaml", &web("sessionAffinity: ClientIP", &["10.244.1.5", "10.244.1.6"]))]);
    let first = server_of(&rig, "10.244.1.9").unwrap();
    rig.lab.stop_listening(std::net::SocketAddr::new(first, 8080), Protocol::Tcp);
    let second = server_of(&rig, "10.244.1.9").unwrap();
    assert_ne!(first, second);
    rig.lab.listen(std::net::SocketAddr::new(first, 8080), Protocol::Tcp).unwrap();
    assert!((0..10).all(|_| server_of(&rig, "10.244.1.9") == Some(second)), "{}", rig.log());
}

/// Connections must not wait behind what else the node computes.
#[test]
fn threads_that_carry_connections_run_in_short_slices() {
    let rig = start(&[]);
    let threads = format!("/proc/{}/task", rig.process());
    let carries = |thread: &u32| {
        std::fs::read_to_string(format!("{threads}/{thread}/comm")).unwrap().starts_with("proxy-")
    };
    let all = std::fs::read_dir(&threads).unwrap();
    let all = all.filter_map(|thread| thread.unwrap().file_name().to_str()?.parse().ok());
    let slices: Vec<_> = all.filter(carries).map(|thread| scheduling::slice_of(thread).unwrap()).collect();
    // Not before Linux 6.12.
    let has_slices = scheduling::slice_of(0).unwrap().is_some();
    let expected = has_slices.then_some(Duration::from_micros(100));
    assert!(!slices.is_empty() && slices.iter().all(|slice| *slice == expected), "{slices:?}");
}

#[test]
fn least_connection_follows_the_connections_that_are_open() {
    let manifest = annotated(&web("", &["10.244.1.5", "10.244.1.6"]), "ferrovia.dev/scheduler: lc");
    let rig = start(&[("web.yaml", &manifest)]);
    let connect = || crate::common::clients::Echo::connect(&rig, "10.244.1.9", WEB);
    let held: Vec<_> = (0..6).map(|_| connect()).collect();
    let of_first = |held: &[crate::common::clients::Echo]| {
        held.iter().filter(|echo| echo.server == held[0].server).count()
    };
    assert_eq!(of_first(&held), 3, "{}", rig.log());
    let idle = held[0].server.clone();
    let kept: Vec<_> = held.into_iter().filter(|echo| echo.server != idle).collect();
    let ended = || metric(&rig, "ferrovia_proxied_active") == 3.0;
    assert!(eventually(SOON, ended), "{}", rig.log());
    let new: Vec<_> = (0..3).map(|_| connect()).collect();
    assert!(new.iter().all(|echo| echo.server == idle), "{}", rig.log());
    drop(kept);
}

/// The rule and the route are ours: whoever takes them away finds them back.
#[test]
fn l5_the_rule_and_the_table_come_back() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080");
    for meddling in ["ip rule del priority 102", "ip route flush table 102", "nft delete table ip ferrovia"] {
        crate::ipvs::lab::shell(&rig, meddling);
        rig.expect_soon(
            "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080
             172.18.0.2 tcp 10.96.0.10:80 -> to 10.244.1.5:8080",
        );
    }
}

/// Each of the two takes the other's table out with its own in.
#[test]
fn l9_a5_a_switch_to_nftables_and_back_leaves_nothing() {
    let mut rig = start(&[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
    let served = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080
                  172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded";
    rig.expect(served);
    rig.switch_to(DataPlane::Nftables);
    rig.expect(served);
    assert!(!rig.run("nft list ruleset").contains("tproxy"));
    let is_gone = || !rig.run("ip rule show").contains("fwmark");
    assert!(eventually(SOON, is_gone), "{}", rig.run("ip rule show"));
    rig.switch_to(DataPlane::Userspace);
    rig.expect(served);
    assert!(!rig.run("nft list ruleset").contains("dnat"));
    rig.kill_proxy();
    crate::ipvs::lab::shell(&rig, &format!("{} cleanup", crate::common::rig::PROGRAM));
    let left = rig.run("nft list ruleset") + &rig.run("ip rule show") + &rig.run("ip route show table all");
    assert!(!left.contains("ferrovia") && !left.contains("fwmark") && !left.contains("table 102"), "{left}");
}

/// By iptables and sets, from any other way to forward and to any other, and nothing is left behind.
#[test]
fn l9_a5_a_switch_to_capture_by_iptables_and_back_leaves_nothing() {
    let mut rig = start(&[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
    let served = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080
                  172.18.0.2   tcp 10.96.0.10:80    -> to 10.244.1.5:8080
                  172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded";
    let left = |rig: &Rig| {
        rig.run("nft list ruleset") + &rig.run("iptables-legacy-save") + &rig.run("ipset list -name")
    };
    for other in
        [DataPlane::Nftables, DataPlane::IptablesLegacy, DataPlane::IptablesNft, DataPlane::Userspace]
    {
        rig.switch_to(DataPlane::UserspaceByIptables);
        // For a moment both ways are in the kernel.
        rig.expect_soon(served);
        let is_alone = || !left(&rig).contains("table ip ferrovia") && !left(&rig).contains("FERRO-SERVICES");
        assert!(eventually(SOON, is_alone), "{}", left(&rig));
        rig.switch_to(other);
        rig.expect_soon(served);
        let is_gone = || !left(&rig).contains("TPROXY") && !left(&rig).contains("FERRO-U4");
        assert!(eventually(SOON, is_gone), "{other:?}: {}", left(&rig));
    }
    rig.switch_to(DataPlane::UserspaceByIptables);
    rig.kill_proxy();
    crate::ipvs::lab::shell(&rig, &format!("{} cleanup", crate::common::rig::PROGRAM));
    let left = left(&rig) + &rig.run("ip rule show") + &rig.run("ip route show table all");
    assert!(!left.contains("FERRO") && !left.contains("fwmark") && !left.contains("table 102"), "{left}");
}

/// What others do to the rules and the sets is changed back, in the flavour that is nf_tables beneath too.
#[test]
fn l5_rules_and_sets_of_the_capture_by_iptables_come_back() {
    let flags = ["--userspace-capture=iptables".to_owned()];
    let mut rig =
        Rig::without_proxy(DataPlane::Userspace, &[("web.yaml", &web("", &["10.244.1.5"]))], &flags);
    rig.start_proxy();
    for meddling in [
        "ipset del FERRO-U4-CAPTURED 10.96.0.10,tcp:80",
        "iptables-nft -t mangle -F FERRO-CAPTURE",
        "iptables-nft -t mangle -F OUTPUT",
    ] {
        crate::ipvs::lab::shell(&rig, meddling);
        rig.expect_soon(
            "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080
             172.18.0.2 tcp 10.96.0.10:80 -> to 10.244.1.5:8080",
        );
    }
}

/// BridgeInterface and InterfaceNamePrefix: a listener of their own tells whose packets they are.
#[test]
fn pods_are_told_by_their_interface() {
    [DataPlane::Userspace, DataPlane::UserspaceByIptables].into_iter().for_each(check_pods_by_interface);
}

fn check_pods_by_interface(plane: DataPlane) {
    let spec = "type: NodePort, externalTrafficPolicy: Local";
    let flags =
        ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=pod"].map(str::to_owned);
    let manifest = web(spec, &["10.244.1.5", "10.244.2.5"]);
    let mut rig = Rig::without_proxy(plane, &[("web.yaml", &manifest)], &flags);
    rig.start_proxy();
    rig.expect(
        "172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080
         10.244.1.9   tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080",
    );
}

/// Where the policy keeps the client's address, endpoints here see it; all others see this node.
#[test]
fn e8_preserve_source_shows_clients_to_endpoints_on_this_node() {
    let spec = "type: NodePort, externalTrafficPolicy: Local";
    let manifests =
        [("web.yaml", &*web(spec, &["10.244.1.5", "10.244.2.5"])), ("dns.yaml", &dns(&["10.244.1.6"]))];
    let mut rig = Rig::without_proxy(DataPlane::Userspace, &manifests, &["--preserve-source".to_owned()]);
    rig.start_proxy();
    let client_of = |from: &str, protocol, to: &str| match rig.ask(from, protocol, to) {
        Observed::Answered { client, .. } => client.ip().to_string(),
        other => panic!("{other}\n{}", rig.evidence()),
    };
    for _ in 0..5 {
        assert_eq!(client_of("172.18.0.100", Protocol::Tcp, "172.18.0.2:30080"), "172.18.0.100");
        assert_eq!(client_of("10.244.1.9", Protocol::Udp, "10.96.0.53:53"), "10.244.1.9");
    }
    // Every node has this address.
    assert_ne!(client_of("172.18.0.2", Protocol::Tcp, "127.0.0.1:30080"), "127.0.0.1");
    // A pod that reaches itself must not see its own address.
    assert_ne!(client_of("10.244.1.6", Protocol::Udp, "10.96.0.53:53"), "10.244.1.6");
}
