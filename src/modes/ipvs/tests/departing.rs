//! Connections that outlive a switch to another mode.

use super::super::departure::{Departure, Staying};
use super::*;
use crate::kernel::conntrack::fake::FakeConntrack;
use crate::kernel::conntrack::{Flow, Tuple};

const LIMIT: Duration = Duration::from_secs(60);

/// Another mode's process on a kernel that this one has left.
struct Leaving {
    bench: Bench,
    departure: Departure,
    conntrack: FakeConntrack,
}

impl Leaving {
    fn from(bench: Bench) -> Self {
        let departure = Departure::new(LIMIT, bench.now);
        Leaving { bench, departure, conntrack: FakeConntrack::default() }
    }

    fn step(&mut self) -> Staying {
        let (mut doors, family) = (self.bench.kernel.doors(), self.bench.mode.family);
        self.departure.set_next_look(self.bench.now);
        self.departure.step(&mut doors, &mut self.conntrack, family, self.bench.now).unwrap()
    }

    fn addresses(&self) -> Vec<String> {
        self.bench.kernel.get().addresses.addresses.keys().map(ToString::to_string).collect()
    }
}

fn two_services() -> Bench {
    Bench::with([service("web", &[cluster_ip(1)]), service("api", &[cluster_ip(2)])]).0
}

#[test]
fn l9_what_has_connections_stays_with_its_address_and_takes_no_more() {
    let bench = two_services();
    bench.connect(at("10.96.0.1:80"), to("10.244.1.5:8080"), 1);
    let mut leaving = Leaving::from(bench);
    assert!(!leaving.step().is_nothing());
    assert_eq!(leaving.bench.weights(at("10.96.0.1:80")), Some([(5, 0), (6, 0)].into()));
    assert_eq!(leaving.bench.weights(at("10.96.0.2:80")), None);
    assert_eq!(leaving.addresses(), ["10.96.0.1"]);
    leaving.bench.kernel.get().ipvs.take_executed();
    leaving.bench.wait(5);
    assert!(!leaving.step().is_nothing());
    assert!(leaving.bench.kernel.get().ipvs.take_executed().is_empty(), "nothing is written twice");
    leaving.bench.connect(at("10.96.0.1:80"), to("10.244.1.5:8080"), 0);
    leaving.bench.wait(5);
    assert!(leaving.step().is_nothing());
    assert_eq!(leaving.bench.kernel.get().ipvs.entries.len(), 0, "the bypass too");
    assert!(leaving.addresses().is_empty());
}

#[test]
fn connections_are_not_waited_for_beyond_the_limit() {
    let bench = two_services();
    bench.connect(at("10.96.0.1:80"), to("10.244.1.5:8080"), 1);
    let mut leaving = Leaving::from(bench);
    let mut looks = Vec::new();
    let start = leaving.bench.now;
    while !leaving.step().is_nothing() {
        looks.push((leaving.departure.look() - start).as_secs());
        leaving.bench.now = leaving.departure.look();
    }
    assert_eq!(looks, [1, 3, 7, 15, 31, 60]);
    assert_eq!(leaving.bench.kernel.get().ipvs.entries.len(), 0);
}

/// Whose address connections through a mark use is not known.
#[test]
fn while_a_short_circuit_has_connections_all_addresses_stay() {
    let mut port = service("web", &[cluster_ip(1), Frontend::ExternalIp(address("192.0.2.1"))]);
    (port.external, port.local) = (LOCAL, [endpoint_in(Family::V4, 5, Locality::Local)].into());
    let (bench, _) = Bench::with([port]);
    let marked =
        |at: &&VirtualServer| matches!(at, VirtualServer::Mark { mark, .. } if mark & 0xff_ffff != 0);
    let by_mark = bench.kernel.get().ipvs.entries.keys().find(marked).copied().expect("a short-circuit");
    bench.connect(by_mark, to("10.244.1.6:8080"), 1);
    let mut leaving = Leaving::from(bench);
    assert_eq!(leaving.step().servers.len(), 1);
    assert_eq!(leaving.addresses(), ["10.96.0.1", "192.0.2.1"]);
    leaving.bench.connect(by_mark, to("10.244.1.6:8080"), 0);
    assert!(leaving.step().is_nothing());
    assert!(leaving.addresses().is_empty());
}

/// Or its next datagram would belong to a flow that nobody translates.
#[test]
fn a_udp_flow_that_is_cut_off_is_forgotten() {
    let port = service_of(name_of("dns", Protocol::Udp), &[cluster_ip(1)]);
    let (bench, _) = Bench::with([port]);
    let server = VirtualServer::new(Protocol::Udp, to("10.96.0.1:80"));
    bench.connect(server, to("10.244.1.5:8080"), 1);
    let mut leaving = Leaving::from(bench);
    let flow = |destination: &str, id| Flow {
        protocol: Protocol::Udp,
        original: Tuple { source: to("10.244.1.9:4000"), destination: to(destination) },
        reply: Tuple { source: to("10.244.1.5:8080"), destination: to("10.244.1.9:4000") },
        zone: 0,
        id: [0, 0, 0, id],
    };
    leaving.conntrack.flows = vec![flow("10.96.0.1:80", 1), flow("10.96.0.7:80", 2)];
    leaving.step();
    assert_eq!(leaving.conntrack.flows.len(), 2);
    leaving.bench.now += LIMIT;
    assert!(leaving.step().is_nothing());
    assert_eq!(leaving.conntrack.flows, [flow("10.96.0.7:80", 2)]);
}

#[test]
fn virtual_servers_of_others_stay_where_they_are() {
    let bench = two_services();
    bench.foreign(at("192.0.2.7:80"), &[to("192.0.2.8:80")]);
    let mut leaving = Leaving::from(bench);
    assert!(leaving.step().is_nothing());
    assert_eq!(leaving.bench.weights(at("192.0.2.7:80")), Some([(8, 1)].into()));
}
