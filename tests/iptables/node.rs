//! A node of one flavour and family in a network namespace of its own.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use ferrovia::kernel::iptables::{Door, Flavour, Programs, Table};
use ferrovia::model::{
    Affinity, Endpoint, Family, Frontend, HealthCheck, LocalTraffic, Locality, NodePolicy, NodePortAddresses,
    Protocol, Scheduler, ServiceName, ServicePort, ServicePortName, ServiceTable, TrafficPolicy, Verdict,
};
use ferrovia::modes::Mode;
use ferrovia::modes::iptables::{Iptables, Settings};

/// Runs a case in a network namespace that goes when the case ends, however it ends: it has no name, only this thread.
pub fn alone<T: Send + 'static>(case: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        // SAFETY: this thread has not opened anything that depends on its namespace.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a new network namespace: these tests need root (CAP_SYS_ADMIN)");
        run("ip", &["link", "set", "lo", "up"]);
        case()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub const EACH: [(Flavour, Family); 4] = [
    (Flavour::Legacy, Family::V4),
    (Flavour::Legacy, Family::V6),
    (Flavour::Nft, Family::V4),
    (Flavour::Nft, Family::V6),
];

pub fn each(case: fn(Node)) {
    for (flavour, family) in EACH {
        println!("{flavour}, {family}");
        alone(move || case(Node::new(flavour, family)));
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}: these tests need the packages iproute2 and iptables")
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The mode with its table, and the other hand that meddles.
pub struct Node {
    pub flavour: Flavour,
    pub family: Family,
    pub mode: Iptables<Programs>,
    pub table: ServiceTable,
}

impl Node {
    pub fn new(flavour: Flavour, family: Family) -> Self {
        let door = Programs::find(family, Some(flavour)).unwrap();
        let mut mode = Iptables::new(door, Settings::default());
        mode.observe().unwrap();
        Node { flavour, family, mode, table: ServiceTable::new(family) }
    }

    pub fn sync(&mut self) -> String {
        let plan = self.mode.plan(&self.table, Instant::now());
        let text = plan.to_string();
        self.mode.apply(plan).unwrap_or_else(|error| panic!("{error}"));
        self.table.settle();
        text
    }

    pub fn iptables(&self, arguments: &str) -> String {
        let family = if self.family == Family::V4 { "" } else { "6" };
        let program = format!("ip{family}tables-{}", self.flavour);
        run(&program, &arguments.split(' ').collect::<Vec<_>>())
    }

    pub fn save(&mut self) -> Vec<String> {
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
    pub fn at(&self, kind: Kind, index: u16) -> IpAddr {
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

    pub fn endpoints(&self, n: u16) -> Box<[Endpoint]> {
        (1..=n)
            .map(|index| Endpoint {
                address: self.at(Kind::Pod, index),
                port: 8080,
                locality: if index == 1 { Locality::Local } else { Locality::Remote },
                weight: 1,
            })
            .collect()
    }

    pub fn service(&self, index: u16, endpoints: u16) -> ServicePort {
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
            hashing: Default::default(),
        }
    }

    /// A table in which every kind of rule occurs.
    pub fn fill(&mut self) {
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

    pub fn external(&self, index: u16) -> ServicePort {
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
pub enum Kind {
    Pod,
    Cluster,
    External,
}

pub fn name(index: u16) -> ServicePortName {
    ServicePortName {
        namespace: "ns".into(),
        service: format!("s{index}").into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    }
}
