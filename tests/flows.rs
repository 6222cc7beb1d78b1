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

use crate::common::clients::UdpClient;
use crate::common::data_plane::{DataPlane, in_every_mode};
use crate::common::rig::{PATIENCE, Rig, SOON, address, dns, endpoints, eventually, ip, service, web};

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

/// Runs the case of this name and returns what went otherwise.
pub fn golden_problems(name: &str, plane: DataPlane) -> Vec<String> {
    run_golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name), plane)
}

/// Runs one case and returns what went otherwise. That a case cannot be run at all is no reason not to run the others.
fn run_golden(case: &Path, plane: DataPlane) -> Vec<String> {
    let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let problems = panic::catch_unwind(|| play_golden(case, plane)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        vec![text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()]
    });
    problems.into_iter().map(|problem| format!("{name}: {problem}")).collect()
}

fn play_golden(case: &Path, plane: DataPlane) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(case.join(file)).unwrap();
    let table = flows::parse(&read("flows.txt")).unwrap_or_else(|error| panic!("{error}"));
    let flags: Vec<_> = table.settings.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
    let cluster = read("cluster.yaml");
    let spread = if cluster.contains("sessionAffinity: ClientIP") { Spread::AllOrOne } else { Spread::All };
    let mut rig = Rig::without_proxy(plane, &[("cluster.yaml", &cluster)], &flags);
    rig.start_proxy();
    let mut problems = rig.mismatches(&table, spread);
    if !problems.is_empty() {
        problems.push(rig.evidence());
    }
    problems
}

in_every_mode! {
    /// KEP-1860: what has nowhere to go ends here, and is not sent back to the load balancer that it came from.
    fn e12_a_load_balancers_address_is_never_passed_on(plane: DataPlane) {
        let spec = "type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
                    ports: [{port: 80, nodePort: 30080}]";
        let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}\n";
        let web = |pods: &[&str]| service("web", spec) + status + &endpoints("web", "TCP", 8080, pods);
        let rig = Rig::start(plane, &[("web.yaml", &web(&[]))]);
        rig.expect("172.18.0.100 tcp 203.0.113.10:80 -> reject");
        rig.write("web.yaml", &web(&["10.244.2.5"]));
        rig.expect_soon("172.18.0.100 tcp 203.0.113.10:80 -> drop");
        rig.write("web.yaml", &web(&["10.244.1.5"]));
        rig.expect_soon("172.18.0.100 tcp 203.0.113.10:80 -> to 10.244.1.5:8080");
    }

    /// k8s#111682: a connection from the node itself whose own port is a NodePort's number.
    fn e15_a_node_port_takes_no_replies_away(plane: DataPlane) {
        let rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        rig.lab.listen(address("172.18.0.100:7000"), Protocol::Udp).unwrap();
        let open = || std::net::UdpSocket::bind("172.18.0.2:30053").unwrap();
        let socket = rig.lab.here().run(open).unwrap();
        socket.connect(address("172.18.0.100:7000")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(UdpClient::from(socket).ask().as_deref(), Ok("172.18.0.100:7000"));
        let seen = rig.ask("172.18.0.100", Protocol::Udp, "172.18.0.2:30053");
        assert!(matches!(seen, Observed::Answered { server, .. } if server == address("10.244.1.5:8080")), "{seen}");
    }

    fn golden_cases_hold_for_real_packets(plane: DataPlane) {
        let (cases, problems) = (Mutex::new(golden_cases()), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let Some(case) = cases.lock().unwrap().pop() else { return };
                        let found = run_golden(&case, plane);
                        problems.lock().unwrap().extend(found);
                    }
                });
            }
        });
        let problems = problems.into_inner().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// KEP-1669: a node whose endpoints all terminate goes on serving while they can.
    fn e5_terminating_endpoints_serve_when_there_are_no_others(plane: DataPlane) {
        let spec = "type: NodePort, externalTrafficPolicy: Local";
        let rig = Rig::start(plane, &[("web.yaml", &web(spec, &["10.244.1.5", "10.244.2.5"]))]);
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

    /// k8s#111863: the number of a NodePort is nothing at the addresses that Services have.
    fn s4_node_ports_are_not_at_the_addresses_of_services(plane: DataPlane) {
        let spec = "type: LoadBalancer, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]";
        let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}\n";
        let web = service("web", spec) + status + &endpoints("web", "TCP", 8080, &["10.244.1.5"]);
        let rig = Rig::without_proxy(plane, &[("web.yaml", &web)], &[]);
        let mut rig = rig.with_flags(&["--nodeport-addresses=172.18.0.0/16"]);
        rig.start_proxy();
        rig.expect(
            "172.18.0.100 tcp 203.0.113.10:80    -> to 10.244.1.5:8080 masqueraded
             172.18.0.100 tcp 172.18.0.2:30080   -> to 10.244.1.5:8080 masqueraded
             172.18.0.100 tcp 203.0.113.10:30080 -> unused
             10.244.1.9   tcp 203.0.113.10:30080 -> unused
             10.244.1.9   tcp 10.96.0.10:30080   -> unused",
        );
    }

    /// k8s#131765, #71596: a pod of a node without endpoints, to the load balancer of a Service whose policy is Local.
    fn e7_pods_of_a_node_without_endpoints_reach_a_local_load_balancer(plane: DataPlane) {
        let spec = "type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.10, \
                    loadBalancerSourceRanges: [10.244.0.0/16, 172.18.0.0/16], ports: [{port: 80, nodePort: 30080}]";
        let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}\n";
        let web = service("web", spec) + status + &endpoints("web", "TCP", 8080, &["10.244.2.5", "10.244.2.6"]);
        let rig = Rig::start(plane, &[("web.yaml", &web)]);
        rig.expect(
            "10.244.1.9   tcp 203.0.113.10:80  -> to 10.244.2.5:8080 10.244.2.6:8080
             172.18.0.2   tcp 203.0.113.10:80  -> to 10.244.2.5:8080 10.244.2.6:8080 masqueraded
             172.18.0.100 tcp 203.0.113.10:80  -> drop
             172.18.0.100 tcp 172.18.0.2:30080 -> drop",
        );
    }

    /// As keepalived or kube-vip put it there: the node's own servers keep their ports, and no NodePort takes the Service's.
    fn an_external_ip_that_an_interface_has_is_shared_with_the_node(plane: DataPlane) {
        let outside = |name: &str, ip: &str, port: u16, pods: &[&str]| {
            let ports = format!("ports: [{{port: {port}}}]");
            service(name, &format!("clusterIP: {ip}, externalIPs: [172.18.0.200], {ports}"))
                + &endpoints(name, "TCP", 8080, pods)
        };
        let local = "type: NodePort, externalTrafficPolicy: Local";
        let manifests = [
            ("web.yaml", web(local, &["10.244.2.5"])),
            ("outside.yaml", outside("outside", "10.96.0.11", 30080, &["10.244.1.6"])),
            ("none.yaml", outside("none", "10.96.0.12", 81, &[])),
        ];
        let manifests = manifests.each_ref().map(|(file, text)| (*file, text.as_str()));
        let rig = Rig::without_proxy(plane, &manifests, &[]);
        let mut rig = rig.with_flags(&["--allowed-external-ips=172.18.0.200/32", "--nodeport-addresses=172.18.0.0/16"]);
        rig.run("ip address add 172.18.0.200/16 dev eth0");
        rig.start_proxy();
        rig.expect_soon(
            "172.18.0.100 tcp 172.18.0.200:30080 -> to 10.244.1.6:8080 masqueraded
             10.244.1.9   tcp 172.18.0.200:30080 -> to 10.244.1.6:8080 masqueraded
             172.18.0.100 tcp 172.18.0.200:81    -> reject
             172.18.0.100 tcp 172.18.0.2:30080   -> drop
             10.244.1.9   tcp 172.18.0.2:30080   -> to 10.244.2.5:8080",
        );
        let open = || std::net::TcpListener::bind("172.18.0.200:7000").unwrap();
        let server = rig.lab.here().run(open).unwrap();
        let client = || std::net::TcpStream::connect_timeout(&address("172.18.0.200:7000"), PATIENCE);
        rig.lab.host_of(ip("172.18.0.100")).unwrap().namespace.run(client).unwrap().expect("the node's own server");
        drop(server);
    }

    /// PR#134024: by name, so that it may come later.
    fn y8_a_bridge_that_is_not_there_yet_stops_nothing(plane: DataPlane) {
        let web = web("type: NodePort", &["10.244.1.5"]);
        let rig = Rig::without_proxy(plane, &[("web.yaml", &web)], &[]);
        let mut rig = rig.with_flags(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=nosuch0"]);
        rig.start_proxy();
        rig.expect(
            "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 masqueraded
             172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded",
        );
    }

    /// Clients inside the cluster may have any endpoint, and the node needs its own address to hear of the answer.
    fn e7_e8_external_policy_local_keeps_the_source(plane: DataPlane) {
        let spec = "type: NodePort, externalTrafficPolicy: Local";
        let rig = Rig::start(plane, &[("web.yaml", &web(spec, &["10.244.1.5", "10.244.2.5"]))]);
        rig.expect(
            "172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080
             10.244.1.9   tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080
             172.18.0.2   tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded",
        );
    }

    /// E4 too: the last endpoint leaves.
    fn e4_e10_without_endpoints_clients_are_refused_at_once(plane: DataPlane) {
        let rig = Rig::start(plane, &[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080");
        rig.write("web.yaml", &web("type: NodePort", &[]));
        rig.expect_soon(
            "10.244.1.9   tcp 10.96.0.10:80    -> reject
             172.18.0.2   tcp 10.96.0.10:80    -> reject
             172.18.0.100 tcp 172.18.0.2:30080 -> reject",
        );
    }

    fn e11_a_pod_reaches_itself_through_its_service(plane: DataPlane) {
        let rig = Rig::start(plane, &[("web.yaml", &web("", &["10.244.1.5"]))]);
        rig.expect("10.244.1.5 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 masqueraded");
    }

    /// A client keeps its endpoint while others come and go and over a restart, and gets another one when it leaves.
    fn e9_affinity_ends_only_with_its_endpoint(plane: DataPlane) {
        let web = |pods: &[&str]| web("sessionAffinity: ClientIP", pods);
        let mut rig = Rig::start(plane, &[("web.yaml", &web(&["10.244.1.5", "10.244.2.5"]))]);
        let server = |rig: &Rig| match rig.ask("10.244.1.7", Protocol::Tcp, "10.96.0.10:80") {
            Observed::Answered { server, .. } => server.ip().to_string(),
            other => panic!("{other}\n{}", rig.log()),
        };
        let first = server(&rig);
        let sticks = |rig: &Rig, to: &str| (0..20).all(|_| server(rig) == to);
        assert!(sticks(&rig, &first), "from the first request on");
        rig.write("web.yaml", &web(&[&first, "10.244.1.6", "10.244.2.6"]));
        assert!(eventually(SOON, || rig.forwards_to("10.244.2.6:8080") > 0), "{}", rig.log());
        assert!(sticks(&rig, &first), "whoever else comes and goes");
        // The userspace mode remembers in its process: its README says so.
        if !plane.is_userspace() {
            rig.kill_proxy();
            rig.start_proxy();
            assert!(sticks(&rig, &first), "over a restart");
        }
        rig.write("web.yaml", &web(&["10.244.1.6", "10.244.2.6"]));
        assert!(eventually(SOON, || server(&rig) != first), "{}", rig.log());
        let second = server(&rig);
        assert!(sticks(&rig, &second), "again");
    }
}

mod loopback {
    use super::*;

    in_every_mode! {
        /// CVE-2020-8558: NodePorts on loopback, and nothing that would open it to neighbours.
        fn s1_node_ports_are_on_loopback_and_loopback_stays_closed(plane: DataPlane) {
            let manifests = [("web.yaml", &*web("type: NodePort", &["10.244.1.5"])), ("dns.yaml", &dns(&["10.244.1.5"]))];
            // What `primary`, the nftables mode's default, does not have.
            let flags = ["--nodeport-addresses=127.0.0.0/8,172.18.0.0/16".to_owned()];
            let mut rig = Rig::without_proxy(plane, &manifests, &flags);
            rig.start_proxy();
            let forwarding = rig.run("cat /proc/sys/net/ipv4/conf/all/route_localnet");
            assert_eq!(forwarding.trim(), "0");
            rig.expect("10.244.1.9 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 masqueraded");
            let is_answered = |protocol, to: &str| {
                let seen = rig.ask("172.18.0.2", protocol, to);
                matches!(seen, Observed::Answered { server, .. } if server == address("10.244.1.5:8080"))
            };
            assert!(is_answered(Protocol::Tcp, "127.0.0.1:30080"), "{}", rig.log());
            assert!(is_answered(Protocol::Udp, "127.0.0.1:30053"), "{}", rig.log());
            rig.write("web.yaml", &web("type: ClusterIP", &["10.244.1.5"]).replace(", nodePort: 30080", ""));
            let is_refused = || rig.ask("172.18.0.2", Protocol::Tcp, "127.0.0.1:30080") == Observed::Refused;
            assert!(eventually(SOON, is_refused), "{}", rig.log());
        }

        /// The same over IPv6.
        fn s1_node_ports_are_on_the_loopback_address_of_ipv6(plane: DataPlane) {
            let spec = "type: NodePort, ipFamilies: [IPv6], clusterIP: 'fd00:96::10', \
                        ports: [{port: 80, nodePort: 30080}]";
            let manifest = service("web", spec) + &endpoints("web", "TCP", 8080, &["fd00:244:1::5"]);
            let manifests = [("web.yaml", &*manifest)];
            let flags = ["--nodeport-addresses=::1/128,fd00:18::/64".to_owned()];
            let mut rig = Rig::without_proxy(plane, &manifests, &flags);
            rig.start_proxy();
            let is_answered = || {
                let seen = rig.ask("fd00:18::2", Protocol::Tcp, "[::1]:30080");
                matches!(seen, Observed::Answered { server, .. } if server == address("[fd00:244:1::5]:8080"))
            };
            assert!(eventually(SOON, is_answered), "{}", rig.log());
        }
    }
}
