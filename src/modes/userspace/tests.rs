//! The mode against nf_tables in memory, and against the kernel.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::kernel::alarm::Ring;
use crate::kernel::netns::Namespace;
use crate::kernel::nftables::events::SubscriptionError;
use crate::kernel::nftables::fake::FakeNftables;
use crate::kernel::nftables::{self as door, KernelNftables};
use crate::model::{
    Endpoint, Frontend, LocalTraffic, Locality, NodePolicy, Protocol, ServicePort, ServicePortName,
    TrafficPolicy, Verdict,
};
use crate::modes::nftables::Watch;
use crate::modes::nftables::names::table as table_of;

#[derive(Debug, Default)]
struct Nobody;

impl Watch for Nobody {
    fn disturbed(&mut self) -> Result<bool, SubscriptionError> {
        Ok(false)
    }

    fn told(&self) -> u32 {
        0
    }

    fn alert(&mut self, _ring: Ring) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct FakeDelivery {
    is_set_up: bool,
}

impl LocalDelivery for FakeDelivery {
    fn is_set_up(&mut self) -> Result<bool, DeliveryError> {
        Ok(self.is_set_up)
    }

    fn set_up(&mut self) -> Result<(), DeliveryError> {
        self.is_set_up = true;
        Ok(())
    }

    fn remove(&mut self) -> Result<(), DeliveryError> {
        self.is_set_up = false;
        Ok(())
    }
}

const CLUSTER: Verdict = Verdict::Forward(TrafficPolicy::Cluster);

pub fn port(number: u8, endpoints: &[u8]) -> ServicePort {
    let endpoint = |last: &u8| Endpoint {
        address: [10, 244, 1, *last].into(),
        port: 8080,
        locality: Locality::Local,
        weight: 1,
    };
    let verdict = if endpoints.is_empty() { Verdict::Reject } else { CLUSTER };
    ServicePort {
        name: ServicePortName {
            namespace: "shop".into(),
            service: format!("web-{number}").into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        frontends: [
            Frontend::ClusterIp([10, 96, 0, number].into()),
            Frontend::NodePort(30_000 + u16::from(number)),
        ]
        .into(),
        load_balancer_sources: None,
        internal: verdict,
        external: verdict,
        cluster: endpoints.iter().map(endpoint).collect(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::RoundRobin,
        hashing: Default::default(),
    }
}

fn node() -> NodePolicy {
    NodePolicy {
        local_traffic: LocalTraffic::Sources(vec!["10.244.0.0/16".parse().unwrap()]),
        addresses: vec![[172, 18, 0, 2].into()],
        primary: vec![[172, 18, 0, 2].into()],
        ..NodePolicy::default()
    }
}

pub fn table(ports: impl IntoIterator<Item = ServicePort>) -> ServiceTable {
    let mut table = ServiceTable::new(Family::V4);
    table.set_node(node());
    ports.into_iter().for_each(|port| table.set(port));
    table
}

type OfKernel = Userspace<ByNftables<KernelNftables>>;

fn mode<D: door::Nftables>(door: D) -> Userspace<ByNftables<D>> {
    let capture = ByNftables::new(Family::V4, door, Box::new(Nobody), Settings::default());
    Userspace::new(Family::V4, capture, Box::new(FakeDelivery::default()), Arc::default())
}

/// Tells how many operations it took.
fn sync<C: Capture>(mode: &mut Userspace<C>, table: &mut ServiceTable) -> usize {
    let plan = mode.plan(table, Instant::now());
    let operations = Userspace::<C>::operations(&plan);
    mode.apply(plan).unwrap();
    table.settle();
    operations
}

fn endpoints<C: Capture>(mode: &Userspace<C>, number: u8) -> Vec<String> {
    let address = IpAddr::from([10, 96, 0, number]);
    let reached = mode.frontends.reached(address, Protocol::Tcp, 80);
    let endpoints = reached.iter().flat_map(|reached| &reached.service.port.cluster);
    endpoints.map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
}

#[test]
fn a_changed_endpoint_is_told_to_the_listeners_and_not_to_the_kernel() {
    let (mut mode, mut table) = (mode(FakeNftables::default()), table((1..100).map(|n| port(n, &[5, 6]))));
    sync(&mut mode, &mut table);
    let before = mode.capture.door.committed.len();
    table.set(port(7, &[6, 8]));
    assert_eq!(sync(&mut mode, &mut table), 1);
    assert_eq!(mode.capture.door.committed.len(), before, "nothing for the kernel");
    assert_eq!(endpoints(&mode, 7), ["10.244.1.6:8080", "10.244.1.8:8080"]);
}

#[test]
fn one_service_of_many_costs_its_own_elements() {
    let (mut mode, mut table) = (mode(FakeNftables::default()), table((1..100).map(|n| port(n, &[5]))));
    sync(&mut mode, &mut table);
    table.set(port(7, &[]));
    // The ServicePort, two captured frontends less, a rejected NodePort more.
    assert_eq!(sync(&mut mode, &mut table), 4);
    let name = port(7, &[]).name;
    table.remove(&name);
    assert_eq!(sync(&mut mode, &mut table), 3);
    assert!(mode.frontends.reached([10, 96, 0, 7].into(), Protocol::Tcp, 80).is_none());
    assert_eq!(endpoints(&mode, 8), ["10.244.1.5:8080"]);
}

/// What another process left, and whether it is gone.
#[derive(Debug)]
struct Left(Arc<AtomicBool>);

impl Leftovers for Left {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Of two processes that capture in different ways, one writes at a time.
#[test]
fn l9_the_new_process_waits_for_the_old_one_which_then_writes_no_more() {
    let (turn, gone) = (Arc::new(Turn::default()), Arc::new(AtomicBool::new(false)));
    let is_gone = || gone.load(Ordering::Relaxed);
    let left = Box::new(Left(Arc::clone(&gone)));
    turn.note_predecessor(true);
    let mode = mode(FakeNftables::default()).in_turn(Arc::clone(&turn)).in_place_of(vec![left]);
    let (mut mode, mut table) = (mode, table([port(1, &[5])]));
    sync(&mut mode, &mut table);
    let now = Instant::now();
    mode.retire_predecessors(now).unwrap();
    assert!(!is_gone(), "the old process would put it back");
    assert_eq!(mode.predecessors_wake(), Some(now + LOOK_AGAIN));
    turn.note_predecessor(false);
    mode.retire_predecessors(now + LOOK_AGAIN).unwrap();
    assert!(is_gone());
    assert_eq!(mode.predecessors_wake(), None);

    turn.end();
    let written = mode.capture.door.committed.len();
    mode.delivery.remove().unwrap();
    assert_eq!((mode.drift().unwrap(), mode.audit().unwrap()), (Drift::None, Drift::None));
    table.set(port(1, &[]));
    sync(&mut mode, &mut table);
    assert_eq!(mode.capture.door.committed.len(), written);
}

#[test]
fn reading_back_finds_nothing_to_do() {
    let (mut mode, mut table) = (mode(FakeNftables::default()), table((1..20).map(|n| port(n, &[5]))));
    sync(&mut mode, &mut table);
    table.unsettle();
    mode.observe().unwrap();
    assert_eq!(sync(&mut mode, &mut table), 0);
}

#[test]
fn y3_y10_any_sequence_ends_as_from_scratch() {
    let (mut stepwise, mut changing) = (mode(FakeNftables::default()), table([]));
    sync(&mut stepwise, &mut changing);
    for step in 0u32..300 {
        let number = (step * 7 % 13) as u8 + 1;
        match step % 5 {
            0 => changing.remove(&port(number, &[]).name),
            1 => changing.set(port(number, &[])),
            which => changing.set(port(number, &[(which + step % 3) as u8])),
        }
        if step % 3 == 0 {
            sync(&mut stepwise, &mut changing);
        }
    }
    sync(&mut stepwise, &mut changing);
    let mut scratch = mode(FakeNftables::default());
    let mut same = table(changing.ports().map(|port| (**port).clone()));
    sync(&mut scratch, &mut same);
    assert_eq!(stepwise.capture.held.members, scratch.capture.held.members);
    for number in 1..=13 {
        assert_eq!(endpoints(&stepwise, number), endpoints(&scratch, number), "{number}");
    }
}

/// A transaction that the kernel refuses is planned again, and so is what the listeners are told.
#[test]
fn a_refused_transaction_loses_nothing() {
    let (mut mode, mut table) = (mode(FakeNftables::default()), table([port(1, &[5])]));
    sync(&mut mode, &mut table);
    table.set(port(2, &[6]));
    let gone = port(1, &[5]).name;
    table.remove(&gone);
    mode.capture.door.refuse = Some("10.96.0.2".into());
    let plan = mode.plan(&table, Instant::now());
    assert!(mode.apply(plan).is_err());
    assert_eq!(endpoints(&mode, 1), ["10.244.1.5:8080"], "the kernel still sends its packets");
    mode.capture.door.refuse = None;
    table.unsettle();
    mode.observe().unwrap();
    sync(&mut mode, &mut table);
    assert_eq!((endpoints(&mode, 1).len(), endpoints(&mode, 2).len()), (0, 1));
}

fn in_kernel(namespace: &Namespace, work: impl FnOnce(&mut OfKernel) + Send) {
    namespace.run(|| work(&mut mode(KernelNftables::open().unwrap()))).unwrap();
}

/// What nft may do to it, and the mode sees when it reads back.
#[test]
fn the_kernel_keeps_what_is_written_and_any_change_is_found() {
    let namespace = Namespace::new().unwrap();
    in_kernel(&namespace, |mode| {
        let mut table = table((1..50).map(|n| port(n, &[5])).chain([port(60, &[])]));
        mode.observe().unwrap();
        sync(mode, &mut table);
        let mut look = |mode: &mut OfKernel| {
            table.unsettle();
            mode.observe().unwrap();
            sync(mode, &mut table)
        };
        assert_eq!(look(mode), 0);
        for meddling in [
            "delete element ip ferrovia captured { 10.96.0.10 . tcp . 80 }",
            "add element ip ferrovia virtual-ips { 10.1.2.3 }",
            "flush chain ip ferrovia prerouting",
            "add chain ip ferrovia another",
            "delete table ip ferrovia",
        ] {
            let mut words = std::process::Command::new("nft");
            assert!(words.arg(meddling).status().unwrap().success(), "{meddling}");
            assert_ne!(look(mode), 0, "{meddling}");
            assert_eq!(look(mode), 0, "{meddling}");
        }
        mode.cleanup().unwrap();
        mode.cleanup().unwrap();
        let tables = KernelNftables::open().unwrap();
        let tables = door::Nftables::tables(&mut { tables }, table_of(Family::V4).family).unwrap();
        assert_eq!(tables.len(), 0);
    });
}
