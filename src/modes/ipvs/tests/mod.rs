//! The mode against a kernel in memory.

mod adoption;
mod departing;
mod draining;
mod incremental;
mod kernel;
mod marks;
mod packets;
mod planning;
mod recovery;

use std::sync::Arc;

use self::kernel::Shared;
use super::*;
use crate::kernel::ipvs::{Connections, Destination, Service};
use crate::model::{
    Endpoint, Frontend, HealthCheck, LocalTraffic, Locality, NodePolicy, Protocol, ServiceName, ServicePort,
    ServicePortName, TrafficPolicy, Verdict,
};
use crate::modes::ModeError;

const CLUSTER: Verdict = Verdict::Forward(TrafficPolicy::Cluster);
const LOCAL: Verdict = Verdict::Forward(TrafficPolicy::Local);

fn name_of(service: &str, protocol: Protocol) -> ServicePortName {
    ServicePortName { namespace: "ns".into(), service: service.into(), port: "".into(), protocol }
}

fn name(service: &str) -> ServicePortName {
    name_of(service, Protocol::Tcp)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The same bits in the other family: its first and its last ones.
fn in_family(family: Family, v4: [u8; 4]) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => IpAddr::from((0xfd_u128 << 120 | u128::from(u32::from_be_bytes(v4))).to_be_bytes()),
    }
}

fn endpoint_in(family: Family, last: u8, locality: Locality) -> Endpoint {
    Endpoint { address: in_family(family, [10, 244, 1, last]), port: 8080, locality, weight: 1 }
}

fn endpoint(last: u8) -> Endpoint {
    endpoint_in(Family::V4, last, Locality::Remote)
}

/// A Service in IPv4 with two remote endpoints.
fn service(of: &str, frontends: &[Frontend]) -> ServicePort {
    service_of(name(of), frontends)
}

fn service_of(name: ServicePortName, frontends: &[Frontend]) -> ServicePort {
    ServicePort {
        name,
        port: 80,
        frontends: frontends.into(),
        load_balancer_sources: None,
        internal: CLUSTER,
        external: CLUSTER,
        cluster: [endpoint(5), endpoint(6)].into(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::RoundRobin,
        hashing: Default::default(),
    }
}

fn cluster_ip(last: u8) -> Frontend {
    Frontend::ClusterIp(in_family(Family::V4, [10, 96, 0, last]))
}

fn at(text: &str) -> VirtualServer {
    VirtualServer::new(Protocol::Tcp, text.parse().unwrap())
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const NODE: [u8; 4] = [172, 18, 0, 2];

/// A node that tells its pods by their addresses, with one address on a network.
fn node() -> NodePolicy {
    let both = |v4| Family::ALL.map(|family| in_family(family, v4));
    let pods = ["10.244.0.0/16", "fd00::af4:0/112"].map(|network| network.parse().unwrap());
    let mut addresses = vec![address("127.0.0.1"), address("::1")];
    addresses.extend(both(NODE).into_iter().chain(both([172, 19, 0, 2])));
    addresses.sort();
    NodePolicy {
        local_traffic: LocalTraffic::Sources(pods.into()),
        addresses,
        primary: both(NODE).into(),
        ..NodePolicy::default()
    }
}

fn table_of(family: Family, ports: impl IntoIterator<Item = ServicePort>) -> ServiceTable {
    let mut table = ServiceTable::new(family);
    table.set_node(node());
    ports.into_iter().for_each(|port| table.set(port));
    table
}

/// A mode, the kernel that it writes to and a clock.
struct Bench {
    kernel: Shared,
    mode: Ipvs<Shared>,
    now: Instant,
}

impl Bench {
    fn new(family: Family) -> Self {
        Bench::on(Shared::new(family), Settings::default())
    }

    fn on(kernel: Shared, settings: Settings) -> Self {
        let mut mode = Ipvs::new(kernel.clone(), kernel.doors(), settings);
        mode.observe().unwrap();
        Bench { kernel, mode, now: Instant::now() }
    }

    /// With this in the kernel.
    fn with(ports: impl IntoIterator<Item = ServicePort>) -> (Self, ServiceTable) {
        let (mut bench, mut table) = (Bench::new(Family::V4), table_of(Family::V4, ports));
        bench.sync(&mut table);
        (bench, table)
    }

    /// A new process on the same kernel.
    fn restart(self) -> Self {
        let settings = self.mode.settings.clone();
        Bench { now: self.now, ..Bench::on(self.kernel, settings) }
    }

    fn plan(&self, table: &ServiceTable) -> Plan {
        self.mode.plan(table, self.now)
    }

    /// One turn of the loop; returns the plan's text.
    fn sync(&mut self, table: &mut ServiceTable) -> String {
        if self.mode.wake().is_some_and(|wake| wake <= self.now) {
            self.mode.refresh(self.now).unwrap();
        }
        let plan = self.plan(table);
        let text = plan.to_string();
        self.mode.apply(plan).unwrap_or_else(|error| panic!("{error}\n{text}"));
        table.settle();
        text
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn observe_and_sync(&mut self, table: &mut ServiceTable) -> String {
        self.mode.observe().unwrap();
        table.unsettle();
        self.sync(table)
    }

    fn assert_nothing_to_do(&mut self, table: &mut ServiceTable) {
        table.unsettle();
        assert_eq!(self.plan(table).to_string(), "", "from what was written");
        self.mode.observe().unwrap();
        assert_eq!(self.plan(table).to_string(), "", "from what was read");
        self.sync(table);
        assert_eq!(self.mode.drift().unwrap(), Drift::None);
    }

    fn connect(&self, server: VirtualServer, to: SocketAddr, active: u32) {
        self.kernel.get().ipvs.connect(&server, to, Connections { active, ..Connections::default() });
    }

    /// The weights of a virtual server's destinations, by the last byte of their addresses; `None` if it is not there.
    fn weights(&self, server: VirtualServer) -> Option<BTreeMap<u8, u32>> {
        let kernel = self.kernel.get();
        let destinations = kernel.ipvs.entries.get(&server)?.destinations.values();
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        Some(destinations.map(|(to, _)| (last(to.address), to.weight)).collect())
    }

    /// All but the one that leaves packets alone.
    fn servers_of_services(&self) -> usize {
        let bypass = self.mode.settings.marks().bypass();
        let kernel = self.kernel.get();
        let of_service =
            |at: &&VirtualServer| !matches!(at, VirtualServer::Mark { mark, .. } if *mark == bypass);
        kernel.ipvs.entries.keys().filter(of_service).count()
    }

    fn list(&self, set: names::Set) -> Vec<String> {
        self.kernel.get().sets.list(set.name(self.mode.family))
    }

    fn foreign(&self, server: VirtualServer, destinations: &[SocketAddr]) {
        use crate::kernel::ipvs::{Command, Ipvs as _};
        let add = |at: &SocketAddr| Command::AddDestination(server, Destination::new(*at, 1));
        let mut commands = vec![Command::AddService(Service::new(server, "wlc"))];
        commands.extend(destinations.iter().map(add));
        self.kernel.get().ipvs.execute(&commands).unwrap();
    }
}

fn from_scratch(table: &ServiceTable) -> Bench {
    let mut fresh = ServiceTable::new(table.family());
    fresh.set_node(table.node().clone());
    table.ports().for_each(|port| fresh.set((**port).clone()));
    for (service, check) in table.health_checks() {
        fresh.set_health_check(service.clone(), Some(*check));
    }
    let mut bench = Bench::new(table.family());
    bench.sync(&mut fresh);
    bench
}

/// What it does is in the kernel, and nothing else.
fn assert_as_from_scratch(bench: &Bench, table: &ServiceTable) {
    assert_eq!(bench.kernel.get().state(), from_scratch(table).kernel.get().state());
}

/// A table with everything that a node may have to do.
fn everything(family: Family) -> ServiceTable {
    let ip = |v4| in_family(family, v4);
    let (local, remote) = (Locality::Local, Locality::Remote);
    let all: Box<[Endpoint]> = [endpoint_in(family, 5, local), endpoint_in(family, 6, remote)].into();
    let here: Box<[Endpoint]> = [endpoint_in(family, 5, local)].into();
    let with = |name: ServicePortName, index: u8, change: &dyn Fn(&mut ServicePort)| {
        let frontends = [
            Frontend::ClusterIp(ip([10, 96, 0, index])),
            Frontend::ExternalIp(ip([192, 0, 2, index])),
            Frontend::LoadBalancer(ip([203, 0, 113, index])),
            Frontend::NodePort(30_000 + u16::from(index)),
        ];
        let mut port = ServicePort { cluster: all.clone(), ..service_of(name, &frontends) };
        change(&mut port);
        port
    };
    let ranges: Arc<[IpNet]> =
        ["0.0.0.0/0", "198.51.100.0/24", "::/0", "2001:db8::/32"].map(|net| net.parse().unwrap()).into();
    let mut ports = vec![
        with(name("plain"), 1, &|_| {}),
        with(name_of("udp", Protocol::Udp), 2, &|_| {}),
        with(name_of("sctp", Protocol::Sctp), 3, &|_| {}),
        with(name("local"), 4, &|port| {
            (port.internal, port.external, port.local) = (LOCAL, LOCAL, here.clone());
            port.load_balancer_sources = Some(ranges[1..].into());
        }),
        with(name("elsewhere"), 5, &|port| (port.internal, port.external) = (Verdict::Drop, Verdict::Drop)),
        with(name("empty"), 6, &|port| {
            (port.internal, port.external, port.cluster) = (Verdict::Reject, Verdict::Reject, [].into());
            port.load_balancer_sources = Some(Arc::clone(&ranges));
        }),
        with(name("guarded"), 7, &|port| port.load_balancer_sources = Some(Arc::clone(&ranges))),
        with(name("sticky"), 8, &|port| {
            port.affinity = Some(crate::model::Affinity { timeout_seconds: 10_800.try_into().unwrap() });
        }),
        with(name("weights"), 9, &|port| port.cluster[1].weight = 3),
    ];
    for (index, scheduler) in (20..).zip(Ipvs::<Shared>::SCHEDULERS) {
        ports.push(with(name(scheduler.name()), index, &|port| {
            port.scheduler = *scheduler;
            let hashes = matches!(scheduler, Scheduler::SourceHash | Scheduler::Maglev);
            port.hashing = crate::model::Hashing { port: hashes, fallback: hashes };
        }));
    }
    let mut table = table_of(family, ports);
    let service = ServiceName { namespace: "ns".into(), name: "local".into() };
    table.set_health_check(service, Some(HealthCheck { node_port: 32_000, local_endpoints: 1 }));
    table
}
