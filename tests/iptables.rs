//! The iptables mode on the real kernel: both flavours, both families, each case in a network namespace of its own.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::kernel::iptables::{Door, Flavour, Programs, Table};
use ferrovia::model::{
    Affinity, Endpoint, Family, Frontend, HealthCheck, LocalTraffic, Locality, NodePolicy, NodePortAddresses,
    Protocol, Scheduler, ServiceName, ServicePort, ServicePortName, ServiceTable, TrafficPolicy, Verdict,
};
use ferrovia::modes::iptables::{Iptables, Settings, remove_kube_proxy};
use ferrovia::modes::{Drift, Mode, ModeError};

/// Runs a case in a network namespace that goes when the case ends, however it ends: it has no name, only this thread.
fn alone<T: Send + 'static>(case: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        // SAFETY: this thread has not opened anything that depends on its namespace.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a new network namespace: these tests need root (CAP_SYS_ADMIN)");
        run("ip", &["link", "set", "lo", "up"]);
        case()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

const EACH: [(Flavour, Family); 4] = [
    (Flavour::Legacy, Family::V4),
    (Flavour::Legacy, Family::V6),
    (Flavour::Nft, Family::V4),
    (Flavour::Nft, Family::V6),
];

fn each(case: fn(Node)) {
    for (flavour, family) in EACH {
        println!("{flavour}, {family}");
        alone(move || case(Node::new(flavour, family)));
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}: these tests need the packages iproute2 and iptables")
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The mode with its table, and the other hand that meddles.
struct Node {
    flavour: Flavour,
    family: Family,
    mode: Iptables<Programs>,
    table: ServiceTable,
}

impl Node {
    fn new(flavour: Flavour, family: Family) -> Self {
        let door = Programs::find(family, Some(flavour)).unwrap();
        let mut mode = Iptables::new(door, Settings::default());
        mode.observe().unwrap();
        Node { flavour, family, mode, table: ServiceTable::new(family) }
    }

    fn sync(&mut self) -> String {
        let plan = self.mode.plan(&self.table, Instant::now());
        let text = plan.to_string();
        self.mode.apply(plan).unwrap_or_else(|error| panic!("{error}"));
        self.table.settle();
        text
    }

    fn iptables(&self, arguments: &str) -> String {
        let family = if self.family == Family::V4 { "" } else { "6" };
        let program = format!("ip{family}tables-{}", self.flavour);
        run(&program, &arguments.split(' ').collect::<Vec<_>>())
    }

    fn save(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in Table::ALL {
            self.mode
                .door()
                .save(table, &mut |line| {
                    if line.starts_with(':') || line.starts_with("-A") {
                        // Counters of built-in chains count.
                        lines.push(format!("{table} {}", line.split(" [").next().unwrap()));
                    }
                })
                .unwrap();
        }
        // The order of chains is the kernel's affair, that of the rules in each is not.
        lines.sort_by_key(|line| line.split(' ').nth(2).map(str::to_owned));
        lines
    }

    /// An address of this family, by its last two bytes.
    fn at(&self, kind: Kind, index: u16) -> IpAddr {
        let prefix = match (self.family, kind) {
            (Family::V4, Kind::Pod) => "10.244",
            (Family::V4, Kind::Cluster) => "10.96",
            (Family::V4, Kind::External) => "203.113",
            (Family::V6, Kind::Pod) => "fd00:244::",
            (Family::V6, Kind::Cluster) => "fd00:96::",
            (Family::V6, Kind::External) => "2001:db8::",
        };
        match self.family {
            Family::V4 => format!("{prefix}.{}.{}", index >> 8, index & 0xff),
            Family::V6 => format!("{prefix}{index:x}"),
        }
        .parse()
        .unwrap()
    }

    fn endpoints(&self, n: u16) -> Box<[Endpoint]> {
        (1..=n)
            .map(|index| Endpoint {
                address: self.at(Kind::Pod, index),
                port: 8080,
                locality: if index == 1 { Locality::Local } else { Locality::Remote },
            })
            .collect()
    }

    fn service(&self, index: u16, endpoints: u16) -> ServicePort {
        let cluster = Verdict::Forward(TrafficPolicy::Cluster);
        ServicePort {
            name: name(index),
            port: 80,
            frontends: [Frontend::ClusterIp(self.at(Kind::Cluster, index))].into(),
            load_balancer_sources: None,
            internal: cluster,
            external: cluster,
            cluster: self.endpoints(endpoints),
            local: [].into(),
            draining: [].into(),
            affinity: None,
            scheduler: Scheduler::Random,
        }
    }

    /// A table in which every kind of rule occurs.
    fn fill(&mut self) {
        let pods = if self.family == Family::V4 { "10.244.0.0/16" } else { "fd00:244::/48" };
        let nodes = if self.family == Family::V4 { "172.18.0.0/16" } else { "fd00:18::/64" };
        self.table.set_node(NodePolicy {
            local_traffic: LocalTraffic::Sources(vec![pods.parse().unwrap()]),
            node_ports: NodePortAddresses::In(vec![nodes.parse().unwrap(), pods.parse().unwrap()]),
            ..NodePolicy::default()
        });
        for index in 0..100 {
            self.table.set(self.service(index, index % 4 + 1));
        }
        for (index, scheduler) in Iptables::<Programs>::SCHEDULERS.iter().enumerate() {
            let index = index as u16;
            let affinity = Some(Affinity { timeout_seconds: 10_800.try_into().unwrap() });
            let large = ServicePort { scheduler: *scheduler, ..self.service(200 + index, 100) };
            self.table.set(ServicePort { affinity, scheduler: *scheduler, ..self.service(210 + index, 100) });
            self.table.set(ServicePort { name: name(220 + index), port: 81, ..large.clone() });
            self.table.set(large);
        }
        for (protocol, index) in [(Protocol::Udp, 300), (Protocol::Sctp, 301)] {
            let mut port = self.service(index, 2);
            port.name.protocol = protocol;
            self.table.set(port);
        }
        for index in 310..400 {
            self.table.set(self.external(index));
        }
        for node_port in 31_000..31_020 {
            let service = ServiceName { namespace: "ns".into(), name: node_port.to_string().into() };
            self.table.set_health_check(service, Some(HealthCheck { node_port, local_endpoints: 1 }));
        }
    }

    fn external(&self, index: u16) -> ServicePort {
        let mut port = self.service(index, 2);
        let external = [
            Frontend::ExternalIp(self.at(Kind::External, index)),
            Frontend::LoadBalancer(self.at(Kind::External, 1000 + index)),
            Frontend::NodePort(30_000 + index * 3),
        ];
        port.frontends = port.frontends.iter().copied().chain(external).collect();
        match index % 5 {
            0 => {
                (port.internal, port.external) = (Verdict::Reject, Verdict::Reject);
                port.cluster = [].into();
            }
            1 => port.external = Verdict::Drop,
            2 => {
                port.external = Verdict::Forward(TrafficPolicy::Local);
                port.local = self.endpoints(1);
            }
            3 => {
                let ranges = if self.family == Family::V4 {
                    ["0.0.0.0/0", "198.51.100.7/24"]
                } else {
                    ["::/0", "2001:db8:7::1/48"]
                };
                port.load_balancer_sources = Some(Arc::from(ranges.map(|range| range.parse().unwrap())));
            }
            _ => {}
        }
        port
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Pod,
    Cluster,
    External,
}

fn name(index: u16) -> ServicePortName {
    ServicePortName {
        namespace: "ns".into(),
        service: format!("s{index}").into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    }
}

#[test]
fn what_is_written_is_read_back_as_the_same() {
    each(|mut node| {
        node.fill();
        assert_ne!(node.sync(), "");
        assert_eq!(node.mode.drift().unwrap(), Drift::None);
        node.mode.observe().unwrap();
        assert_eq!(node.sync(), "", "another start over the same rules");
        node.table.unsettle();
        assert_eq!(node.sync(), "", "a full look at what was written");
        assert_eq!(node.mode.drift().unwrap(), Drift::None);
    });
}

#[test]
fn many_small_changes_end_as_one_large_one() {
    each(|mut node| {
        node.sync();
        node.fill();
        node.sync();
        for index in 0..100 {
            match index % 3 {
                0 => node.table.remove(&name(index)),
                1 => node.table.set(node.service(index, 40)),
                _ => node.table.set(node.external(index)),
            }
            if index % 10 == 0 {
                node.sync();
            }
        }
        node.sync();
        let (flavour, family) = (node.flavour, node.family);
        let ports: Vec<_> = node.table.ports().map(|port| (**port).clone()).collect();
        let policy = node.table.node().clone();
        let checks: Vec<_> = node.table.health_checks().iter().map(|(k, v)| (k.clone(), *v)).collect();
        let fresh = alone(move || {
            let mut node = Node::new(flavour, family);
            node.table.set_node(policy);
            ports.into_iter().for_each(|port| node.table.set(port));
            checks.into_iter().for_each(|(service, check)| node.table.set_health_check(service, Some(check)));
            node.sync();
            node.save()
        });
        assert_eq!(node.save(), fresh);
    });
}

#[test]
fn what_others_take_away_is_noticed_and_put_back() {
    each(|mut node| {
        node.fill();
        node.sync();
        let wanted = node.save();
        let chain = |lines: &[String], kind: &str| {
            let line = lines.iter().find(|line| line.contains(&format!(":FERRO-{kind}"))).unwrap();
            line.split(' ').nth(1).unwrap()[1..].to_owned()
        };
        let service = chain(&wanted, "SVC");
        let meddle = [
            format!("-t nat -D {service} 1"),
            format!("-t nat -F {service}"),
            "-t nat -D PREROUTING 1".to_owned(),
            "-t filter -D FORWARD 1".to_owned(),
            "-t filter -F".to_owned(),
            "-t nat -F".to_owned(),
            "-t mangle -X KUBE-PROXY-CANARY".to_owned(),
        ];
        for arguments in meddle {
            assert_eq!(node.mode.drift().unwrap(), Drift::None);
            node.iptables(&arguments);
            assert_eq!(node.mode.drift().unwrap(), Drift::Suspected, "{arguments}");
            node.mode.observe().unwrap();
            node.sync();
            assert_eq!(node.save(), wanted, "{arguments}");
        }
    });
}

#[test]
fn a_foreign_rule_stays_where_it_is() {
    each(|mut node| {
        node.fill();
        node.sync();
        node.iptables("-t nat -I PREROUTING -j ACCEPT");
        node.mode.observe().unwrap();
        assert_eq!(node.sync(), "");
        node.iptables("-t nat -D OUTPUT 1");
        node.mode.observe().unwrap();
        node.sync();
        assert!(node.iptables("-t nat -S PREROUTING 1").contains("-j ACCEPT"));
        assert!(node.iptables("-t nat -S OUTPUT 1").contains("FERRO-SERVICES"));
    });
}

#[test]
fn a_chain_that_others_lead_to_does_not_stop_the_rest() {
    each(|mut node| {
        node.table.set(node.service(1, 1));
        node.sync();
        let ours = node.save().iter().find_map(|line| line.strip_prefix("nat :FERRO-SVC").map(str::to_owned));
        let chain = format!("FERRO-SVC{}", ours.unwrap().split(' ').next().unwrap());
        node.iptables("-t nat -N THEIRS");
        node.iptables(&format!("-t nat -A THEIRS -j {chain}"));
        node.table.remove(&name(1));
        node.table.set(node.service(2, 1));
        let plan = node.mode.plan(&node.table, Instant::now());
        node.mode.apply(plan).unwrap_err();
        node.mode.observe().unwrap();
        node.sync();
        assert!(node.save().iter().any(|line| line.contains(&node.at(Kind::Cluster, 2).to_string())));
    });
}

#[test]
fn a_line_that_is_refused_names_its_service_port() {
    each(|mut node| {
        node.fill();
        let mut bad = node.service(500, 3);
        bad.cluster = match node.family {
            Family::V4 => [("fd00::1", 1)],
            Family::V6 => [("10.244.0.1", 1)],
        }
        .map(|(address, port)| Endpoint {
            address: address.parse().unwrap(),
            port,
            locality: Locality::Remote,
        })
        .into();
        node.table.set(bad);
        let error = node.mode.apply(node.mode.plan(&node.table, Instant::now())).unwrap_err();
        assert_eq!(error.culprit(), Some(&name(500)), "{error}");
        node.table.remove(&name(500));
        node.mode.observe().unwrap();
        node.sync();
    });
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_all_else_twice() {
    each(|mut node| {
        node.iptables("-t nat -N KUBE-KUBELET-CANARY");
        node.iptables("-t filter -A INPUT -j ACCEPT");
        let without = |lines: Vec<String>| -> Vec<String> {
            // Legacy has the mangle table from the canary on.
            lines
                .into_iter()
                .filter(|line| !line.starts_with("mangle :") || !line.ends_with("ACCEPT"))
                .collect()
        };
        let before = without(node.save());
        node.fill();
        node.sync();
        for _ in 0..2 {
            node.mode.cleanup().unwrap();
            assert_eq!(without(node.save()), before);
        }
    });
}

#[test]
fn what_kube_proxy_left_is_removed() {
    each(|mut node| {
        node.sync();
        let ours = node.save();
        for arguments in [
            "-t nat -N KUBE-SERVICES",
            "-t nat -N KUBE-SVC-ERIFXISQEP7F7OF4",
            "-t nat -A KUBE-SERVICES -p tcp -m comment --comment a -j KUBE-SVC-ERIFXISQEP7F7OF4",
            "-t nat -A PREROUTING -m comment --comment portals -j KUBE-SERVICES",
            "-t filter -N KUBE-FORWARD",
            "-t filter -I FORWARD -j KUBE-FORWARD",
        ] {
            node.iptables(arguments);
        }
        for _ in 0..2 {
            remove_kube_proxy(node.mode.door()).unwrap();
            assert_eq!(node.save(), ours);
        }
    });
}

#[test]
fn the_flavour_is_that_of_kubelets_hint_and_looking_leaves_no_trace() {
    for (hint, flavour) in
        [(None, Flavour::Nft), (Some("legacy"), Flavour::Legacy), (Some("nft"), Flavour::Nft)]
    {
        alone(move || {
            if let Some(hint) = hint {
                run(&format!("ip6tables-{hint}"), &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
            }
            assert_eq!(Flavour::detect().unwrap(), flavour);
            let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
            assert_eq!(tables, "");
            let mut legacy = Programs::find(Family::V4, Some(Flavour::Legacy)).unwrap();
            for table in Table::ALL {
                legacy.save(table, &mut |line| panic!("{line}")).unwrap();
            }
            legacy.stamp().unwrap();
            let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
            assert_eq!(tables, "");
        });
    }
}

/// Answers every connection with the address that it came to.
fn serve(node: &Node, n: u16) {
    let prefix = node.family.bits().to_string();
    for index in 1..=n {
        let address = node.at(Kind::Pod, index);
        run("ip", &["address", "add", &format!("{address}/{prefix}"), "dev", "lo", "nodad"]);
        let listener = TcpListener::bind((address, 8080)).unwrap();
        thread::spawn(move || while listener.accept().is_ok_and(|(stream, _)| answer(stream, address)) {});
    }
    let (own, gateway) = match node.family {
        Family::V4 => ("172.18.0.2/16", "172.18.0.1"),
        Family::V6 => ("fd00:18::2/64", "fd00:18::1"),
    };
    run("ip", &["link", "add", "uplink", "type", "veth", "peer", "far"]);
    run("ip", &["link", "set", "far", "up"]);
    run("ip", &["link", "set", "uplink", "up"]);
    run("ip", &["address", "add", own, "dev", "uplink", "nodad"]);
    let family = if node.family == Family::V4 { "-4" } else { "-6" };
    run("ip", &[family, "route", "add", "default", "via", gateway, "dev", "uplink"]);
}

fn answer(mut stream: TcpStream, address: IpAddr) -> bool {
    std::io::Write::write_all(&mut stream, address.to_string().as_bytes()).is_ok()
}

fn ask(to: SocketAddr) -> std::io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text)?;
    Ok(text.parse().unwrap())
}

/// How many of `n` connections each endpoint got.
fn spread(node: &Node, index: u16, n: usize) -> Vec<usize> {
    let to = SocketAddr::new(node.at(Kind::Cluster, index), 80);
    let answers: Vec<_> = (0..n).map(|_| ask(to).unwrap()).collect();
    (1..=4).map(|pod| answers.iter().filter(|answer| **answer == node.at(Kind::Pod, pod)).count()).collect()
}

#[test]
fn connections_are_spread_as_the_scheduler_says() {
    each(|mut node| {
        serve(&node, 4);
        let affinity = Some(Affinity { timeout_seconds: 60.try_into().unwrap() });
        node.table.set(ServicePort { scheduler: Scheduler::RoundRobin, ..node.service(1, 4) });
        node.table.set(ServicePort { scheduler: Scheduler::SourceHash, ..node.service(2, 4) });
        node.table.set(ServicePort { affinity, ..node.service(3, 4) });
        node.table.set(node.service(4, 4));
        node.sync();
        assert_eq!(spread(&node, 1, 40), [10, 10, 10, 10]);
        for sticky in [2, 3] {
            let counts = spread(&node, sticky, 40);
            assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1, "{counts:?}");
        }
        // Binomial: 100 of 400, the chance to be outside of 50..150 is below 1 in 10 million.
        assert!(spread(&node, 4, 400).iter().all(|count| (50..150).contains(count)));
    });
}

#[test]
fn affinity_ends_with_its_endpoint_and_outlives_other_changes() {
    each(|mut node| {
        serve(&node, 4);
        let affinity = Some(Affinity { timeout_seconds: 60.try_into().unwrap() });
        let mut port = ServicePort { affinity, ..node.service(3, 3) };
        node.table.set(port.clone());
        node.sync();
        let to = SocketAddr::new(node.at(Kind::Cluster, 3), 80);
        let first = ask(to).unwrap();
        port.cluster = node.endpoints(4);
        node.table.set(port.clone());
        node.sync();
        assert!((0..10).all(|_| ask(to).unwrap() == first), "after another endpoint came");
        port.cluster = port.cluster.iter().copied().filter(|endpoint| endpoint.address != first).collect();
        node.table.set(port);
        node.sync();
        let second = ask(to).unwrap();
        assert_ne!(second, first);
        assert!((0..10).all(|_| ask(to).unwrap() == second));
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    each(|mut node| {
        serve(&node, 1);
        node.table.set(node.service(1, 1));
        node.sync();
        let to = SocketAddr::new(node.at(Kind::Cluster, 1), 80);
        assert_eq!(ask(to).unwrap(), node.at(Kind::Pod, 1));
        let reject =
            ServicePort { internal: Verdict::Reject, external: Verdict::Reject, ..node.service(1, 0) };
        node.table.set(reject);
        node.sync();
        let start = Instant::now();
        let error = ask(to).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < Duration::from_secs(1));
    });
}
