//! The program in a cluster of network namespaces, judged by what becomes of real packets.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use ferrovia::lab::Observed;
use ferrovia::lab::flows;
use ferrovia::lab::runner::Spread;
use ferrovia::model::Protocol;

use crate::common::clients::{Echo, UdpClient, send_out_of_window};
use crate::common::rig::{PATIENCE, Rig, SOON, address, endpoints, eventually, service};

/// Makes two tests of each case, one for each flavour of iptables.
macro_rules! in_both_flavours {
    ($($(#[$attribute:meta])* fn $name:ident($flavour:ident: &str) $body:block)*) => {
        $($(#[$attribute])* fn $name($flavour: &str) $body)*
        mod legacy {
            $(#[test] fn $name() { super::$name("legacy") })*
        }
        mod nft {
            $(#[test] fn $name() { super::$name("nft") })*
        }
    };
}

/// Every directory of `tests/golden` with a flow table.
fn golden_cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut cases: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|case| case.join("flows.txt").exists()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case in {}", root.display());
    cases
}

/// Runs one case and returns what went otherwise. That a case cannot be run at all is no reason not to run the others.
fn run_golden(case: &Path, flavour: &str) -> Vec<String> {
    let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let problems = panic::catch_unwind(|| play_golden(case, flavour)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        vec![text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()]
    });
    problems.into_iter().map(|problem| format!("{name}: {problem}")).collect()
}

fn play_golden(case: &Path, flavour: &str) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(case.join(file)).unwrap();
    let table = flows::parse(&read("flows.txt")).unwrap_or_else(|error| panic!("{error}"));
    let flags: Vec<_> = table.settings.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
    let cluster = read("cluster.yaml");
    let spread = if cluster.contains("sessionAffinity: ClientIP") { Spread::AllOrOne } else { Spread::All };
    let mut rig = Rig::without_proxy(flavour, &[("cluster.yaml", &cluster)], &flags);
    rig.start_proxy();
    let mut problems = rig.mismatches(&table, spread);
    if !problems.is_empty() {
        problems.push(rig.log());
    }
    problems
}

/// A port of 10.96.0.10 over TCP, in front of port 8080 of some pods.
fn web(spec: &str, pods: &[&str]) -> String {
    let spec = format!("clusterIP: 10.96.0.10, ports: [{{port: 80, nodePort: 30080}}], {spec}");
    service("web", &spec) + &endpoints("web", "TCP", 8080, pods)
}

/// The same over UDP, on 10.96.0.53.
fn dns(pods: &[&str]) -> String {
    let spec = "type: NodePort, clusterIP: 10.96.0.53, ports: [{protocol: UDP, port: 53, nodePort: 30053}]";
    service("dns", spec) + &endpoints("dns", "UDP", 8080, pods)
}

fn refused() -> Result<String, std::io::ErrorKind> {
    Err(std::io::ErrorKind::ConnectionRefused)
}

in_both_flavours! {
    fn golden_cases_hold_for_real_packets(flavour: &str) {
        let (cases, problems) = (Mutex::new(golden_cases()), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let Some(case) = cases.lock().unwrap().pop() else { return };
                        let found = run_golden(&case, flavour);
                        problems.lock().unwrap().extend(found);
                    }
                });
            }
        });
        let problems = problems.into_inner().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// KEP-1669: a node whose endpoints all terminate goes on serving while they can.
    fn e5_terminating_endpoints_serve_when_there_are_no_others(flavour: &str) {
        let spec = "type: NodePort, externalTrafficPolicy: Local";
        let rig = Rig::start(flavour, &[("web.yaml", &web(spec, &["10.244.1.5", "10.244.2.5"]))]);
        rig.expect("172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080");
        let leaving = "10.244.1.5 ready: false, serving: true, terminating: true";
        rig.write("web.yaml", &web(spec, &[leaving, "10.244.2.5"]));
        rig.expect_soon(
            "172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080
             10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.2.5:8080",
        );
        rig.write("web.yaml", &web(spec, &["10.244.2.5"]));
        rig.expect_soon("172.18.0.100 tcp 172.18.0.2:30080 -> drop");
    }

    /// Clients inside the cluster may have any endpoint, and the node needs its own address to hear of the answer.
    fn e7_e8_external_policy_local_keeps_the_source(flavour: &str) {
        let spec = "type: NodePort, externalTrafficPolicy: Local";
        let rig = Rig::start(flavour, &[("web.yaml", &web(spec, &["10.244.1.5", "10.244.2.5"]))]);
        rig.expect(
            "172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080
             10.244.1.9   tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080
             172.18.0.2   tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded",
        );
    }

    /// E4 too: the last endpoint leaves.
    fn e4_e10_without_endpoints_clients_are_refused_at_once(flavour: &str) {
        let rig = Rig::start(flavour, &[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080");
        rig.write("web.yaml", &web("type: NodePort", &[]));
        rig.expect_soon(
            "10.244.1.9   tcp 10.96.0.10:80    -> reject
             172.18.0.2   tcp 10.96.0.10:80    -> reject
             172.18.0.100 tcp 172.18.0.2:30080 -> reject",
        );
    }

    /// KEP-1860: what has nowhere to go ends here, and is not sent back to the load balancer that it came from.
    fn e12_a_load_balancers_address_is_never_passed_on(flavour: &str) {
        let spec = "type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
                    ports: [{port: 80, nodePort: 30080}]";
        let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}\n";
        let web = |pods: &[&str]| service("web", spec) + status + &endpoints("web", "TCP", 8080, pods);
        let rig = Rig::start(flavour, &[("web.yaml", &web(&[]))]);
        rig.expect("172.18.0.100 tcp 203.0.113.10:80 -> reject");
        rig.write("web.yaml", &web(&["10.244.2.5"]));
        rig.expect_soon("172.18.0.100 tcp 203.0.113.10:80 -> drop");
        rig.write("web.yaml", &web(&["10.244.1.5"]));
        rig.expect_soon("172.18.0.100 tcp 203.0.113.10:80 -> to 10.244.1.5:8080");
    }

    fn e11_a_pod_reaches_itself_through_its_service(flavour: &str) {
        let rig = Rig::start(flavour, &[("web.yaml", &web("", &["10.244.1.5"]))]);
        rig.expect("10.244.1.5 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 masqueraded");
    }

    fn l2_udp_entry_cleared_when_endpoints_go(flavour: &str) {
        let rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let clients = [("10.244.1.9", "10.96.0.53:53"), ("172.18.0.100", "172.18.0.2:30053")]
            .map(|(from, to)| UdpClient::new(&rig, from, to));
        for client in &clients {
            assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        }
        rig.write("dns.yaml", &dns(&[]));
        for client in &clients {
            assert!(eventually(SOON, || client.ask() == refused()), "{:?}\n{}", client.ask(), rig.log());
        }
    }

    /// C1: the flow of a client that never stops sending goes over to an endpoint that is left.
    fn c1_udp_client_moves_to_the_endpoint_that_is_left(flavour: &str) {
        let rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        rig.write("dns.yaml", &dns(&["10.244.2.6"]));
        assert!(eventually(SOON, || client.ask().as_deref() == Ok("10.244.2.6:8080")), "{}", rig.log());
    }

    fn l3_udp_entry_cleared_when_service_deleted(flavour: &str) {
        let rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        rig.remove("dns.yaml");
        let is_gone = || {
            let _ = client.ask();
            !client.tracked(&rig).is_some_and(|line| line.contains("src=10.244.1.5"))
        };
        assert!(eventually(SOON, is_gone), "{:?}\n{}", client.tracked(&rig), rig.log());
        assert!(client.ask().is_err());
    }

    /// k8s#49881: a client outside whose server has the number of a NodePort.
    fn l4_foreign_udp_flow_untouched(flavour: &str) {
        let rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        rig.lab.listen(address("172.18.0.100:30053"), Protocol::Udp).unwrap();
        let foreign = UdpClient::new(&rig, "10.244.1.9", "172.18.0.100:30053");
        let ours = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(foreign.ask().as_deref(), Ok("172.18.0.100:30053"));
        assert_eq!(ours.ask().as_deref(), Ok("10.244.1.5:8080"));
        let before = foreign.tracked(&rig).expect("its flow is tracked");
        rig.write("dns.yaml", &dns(&["10.244.1.6"]));
        assert!(eventually(SOON, || ours.ask().as_deref() == Ok("10.244.1.6:8080")), "{}", rig.log());
        assert_eq!(foreign.tracked(&rig), Some(before));
    }

    fn c3_restart_keeps_udp_flows(flavour: &str) {
        let mut rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5", "10.244.2.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        let server = client.ask().unwrap();
        let before = client.tracked(&rig).expect("its flow is tracked");
        rig.kill_proxy();
        assert_eq!(client.ask().as_ref(), Ok(&server), "while no proxy runs");
        rig.start_proxy();
        // Something to reconcile, so that it has certainly been done.
        let witness = UdpClient::new(&rig, "10.244.1.8", "10.96.0.53:53");
        let first = witness.ask().unwrap();
        let left = if first.starts_with("10.244.1.5") { "10.244.2.5" } else { "10.244.1.5" };
        let draining = format!("{} ready: false, serving: true, terminating: true", first.trim_end_matches(":8080"));
        rig.write("dns.yaml", &dns(&[left, &draining]));
        rig.expect_soon(&format!("10.244.1.7 udp 10.96.0.53:53 -> to {left}:8080"));
        assert_eq!(witness.ask(), Ok(first), "C11: it serves until it has ended");
        assert_eq!(client.tracked(&rig), Some(before));
        assert_eq!(client.ask(), Ok(server));
    }

    /// k8s#48719: a client that was there before the rules.
    fn c9_udp_sent_before_the_rules_does_not_stick(flavour: &str) {
        let mut rig = Rig::without_proxy(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))], &[]);
        rig.run(&format!("iptables-{flavour} -A FORWARD -m conntrack --ctstate NEW"));
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        let _ = client.ask();
        assert!(client.tracked(&rig).is_some(), "it is tracked as it was sent");
        rig.start_proxy();
        assert!(eventually(SOON, || client.ask().as_deref() == Ok("10.244.1.5:8080")), "{}", rig.log());
    }

    fn a4_restart_keeps_established_connections(flavour: &str) {
        let mut rig = Rig::start(flavour, &[("web.yaml", &web("type: NodePort", &["10.244.1.5", "10.244.2.5"]))]);
        let mut connections = [
            ("10.244.1.9", "10.96.0.10:80"),
            ("172.18.0.2", "10.96.0.10:80"),
            ("172.18.0.100", "172.18.0.2:30080"),
            ("10.244.1.5", "10.96.0.10:80"),
        ]
        .map(|(from, to)| Echo::connect(&rig, from, to));
        for _ in 0..3 {
            rig.kill_proxy();
            connections.iter_mut().for_each(Echo::assert_alive);
            rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
            rig.start_proxy();
            connections.iter_mut().for_each(Echo::assert_alive);
        }
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
    }

    /// C11: connections end when their endpoint ends, not when it is taken out.
    fn c11_connections_outlive_their_endpoint_in_the_service(flavour: &str) {
        let rig = Rig::start(flavour, &[("web.yaml", &web("", &["10.244.1.5"]))]);
        let mut connection = Echo::connect(&rig, "10.244.1.9", "10.96.0.10:80");
        assert_eq!(connection.server, "10.244.1.5:8080");
        rig.write("web.yaml", &web("", &["10.244.2.5"]));
        rig.expect_soon("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.2.5:8080");
        connection.assert_alive();
        rig.remove("web.yaml");
        rig.expect_soon("10.244.1.9 tcp 10.96.0.10:80 -> untouched");
        connection.assert_alive();
    }

    /// k8s#74839: a reply that conntrack does not take for one is not translated back, and a client that sees it resets the
    /// connection.
    fn c7_invalid_replies_do_not_reach_the_client(flavour: &str) {
        let rig = Rig::start(flavour, &[("web.yaml", &web("", &["10.244.2.5"]))]);
        let mut connection = Echo::connect(&rig, "10.244.1.9", "10.96.0.10:80");
        let client = connection.address();
        send_out_of_window(&rig, "10.244.2.5:8080", client);
        let is_dropped = || {
            let rules = rig.run(&format!("iptables-{flavour}-save -c -t filter"));
            let invalid = |line: &&str| line.contains("INVALID") && line.ends_with("-j DROP");
            rules.lines().filter(invalid).any(|line| !line.starts_with("[0:0]"))
        };
        assert!(eventually(SOON, is_dropped), "{}", rig.run(&format!("iptables-{flavour}-save -c -t filter")));
        connection.assert_alive();
    }

    /// k8s#111682: a connection from the node itself whose own port is a NodePort's number.
    fn e15_a_node_port_takes_no_replies_away(flavour: &str) {
        let rig = Rig::start(flavour, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        rig.lab.listen(address("172.18.0.100:7000"), Protocol::Udp).unwrap();
        let open = || std::net::UdpSocket::bind("172.18.0.2:30053").unwrap();
        let socket = rig.lab.here().run(open).unwrap();
        socket.connect(address("172.18.0.100:7000")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(UdpClient::from(socket).ask().as_deref(), Ok("172.18.0.100:7000"));
        let seen = rig.ask("172.18.0.100", Protocol::Udp, "172.18.0.2:30053");
        assert!(matches!(seen, Observed::Answered { server, .. } if server == address("10.244.1.5:8080")), "{seen}");
    }

    /// L5: whatever somebody else takes away comes back.
    fn l5_rules_that_were_taken_away_come_back(flavour: &str) {
        let rig = Rig::start(flavour, &[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
        let nat = || {
            let rules = rig.run(&format!("iptables-{flavour}-save -t nat"));
            let mut rules: Vec<_> =
                rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect();
            rules.sort();
            rules
        };
        let whole = nat();
        let dnat = whole.iter().find(|rule| rule.contains("-j DNAT")).expect("a rule for the endpoint");
        let jump = whole.iter().find(|rule| rule.starts_with("-A PREROUTING")).expect("a jump from PREROUTING");
        for rule in [dnat, jump] {
            let rule = rule.replacen("-A", "-D", 1);
            delete(&rig, flavour, &rule);
            assert!(eventually(SOON, || nat() == whole), "{rule}:\n{}\n{}", nat().join("\n"), rig.log());
        }
        rig.run(&format!("iptables-{flavour} -t nat -F"));
        assert!(eventually(SOON, || nat() == whole), "flushed:\n{}\n{}", nat().join("\n"), rig.log());
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080");
    }
}

/// Deletes a rule as `iptables-save` printed it, by the one program that reads its quotes.
fn delete(rig: &Rig, flavour: &str, rule: &str) {
    let script = format!("printf '*nat\\n%s\\nCOMMIT\\n' \"$0\" | iptables-{flavour}-restore --noflush");
    let output = rig.lab.here().command("sh").unwrap().args(["-c", &script, rule]).output().unwrap();
    assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
}

/// S1: a NodePort is not on the node's loopback addresses, and what is there is not opened to neighbours.
#[test]
fn s1_loopback_stays_closed() {
    let rig = Rig::start("legacy", &[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
    let forwarding = rig.run("cat /proc/sys/net/ipv4/conf/all/route_localnet");
    assert_eq!(forwarding.trim(), "0");
    rig.expect("10.244.1.9 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded");
    assert_eq!(rig.ask("172.18.0.2", Protocol::Tcp, "127.0.0.1:30080"), Observed::Refused);
}
