use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::kernel::conntrack::Tuple;
use crate::kernel::conntrack::fake::FakeConntrack;
use crate::model::{Endpoint, Family, Frontend, Locality, NodePolicy, Scheduler, TrafficPolicy, Verdict};

const NODE: &str = "172.18.0.2";
const DNS: &str = "10.96.0.10:53";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(service: &str, protocol: Protocol) -> ServicePortName {
    ServicePortName { namespace: "default".into(), service: service.into(), port: "".into(), protocol }
}

fn endpoints(texts: &[&str]) -> Box<[Endpoint]> {
    let mut endpoints: Vec<_> = texts
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap())
        .map(|at| Endpoint { address: at.ip(), port: at.port(), locality: Locality::Remote, weight: 1 })
        .collect();
    endpoints.sort();
    endpoints.into()
}

/// A UDP ServicePort with port 53.
fn udp(service: &str, frontends: &[Frontend], cluster: &[&str]) -> ServicePort {
    let verdict = match cluster {
        [] => Verdict::Reject,
        _ => Verdict::Forward(TrafficPolicy::Cluster),
    };
    ServicePort {
        name: name(service, Protocol::Udp),
        port: 53,
        frontends: frontends.into(),
        load_balancer_sources: None,
        internal: verdict,
        external: verdict,
        cluster: endpoints(cluster),
        local: Box::default(),
        draining: Box::default(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn dns(cluster: &[&str]) -> ServicePort {
    udp("dns", &[Frontend::ClusterIp(ip("10.96.0.10")), Frontend::NodePort(30053)], cluster)
}

/// A flow from a client of its own; `endpoint` is who answers.
fn flow(number: u16, destination: &str, endpoint: &str) -> Flow {
    let client = SocketAddr::new(ip("10.244.9.9"), 1024 + number);
    Flow {
        protocol: Protocol::Udp,
        original: Tuple { source: client, destination: destination.parse().unwrap() },
        reply: Tuple { source: endpoint.parse().unwrap(), destination: client },
        zone: 0,
        id: u32::from(number).to_be_bytes(),
    }
}

fn conntrack(flows: &[(&str, &str)]) -> FakeConntrack {
    let flows = flows.iter().zip(1..).map(|((to, by), number)| flow(number, to, by)).collect();
    FakeConntrack { flows, ..FakeConntrack::default() }
}

fn left(conntrack: &FakeConntrack) -> Vec<(String, String)> {
    let texts = |flow: &Flow| (flow.original.destination.to_string(), flow.endpoint().to_string());
    conntrack.flows.iter().map(texts).collect()
}

fn pairs(flows: &[(&str, &str)]) -> Vec<(String, String)> {
    flows.iter().map(|(to, by)| (to.to_string(), by.to_string())).collect()
}

/// A table as after its first sync.
fn table(ports: Vec<ServicePort>) -> (ServiceTable, Reconciler) {
    let mut table = ServiceTable::new(Family::V4);
    table.set_node(NodePolicy { addresses: vec![ip("127.0.0.1"), ip(NODE)], ..NodePolicy::default() });
    ports.into_iter().for_each(|port| table.set(port));
    let mut reconciler = Reconciler::new();
    reconciler.note(&table);
    table.settle();
    (table, reconciler)
}

/// One sync: the change, the apply, the cleaning.
fn sync(table: &mut ServiceTable, reconciler: &mut Reconciler, conntrack: &mut FakeConntrack) -> Outcome {
    reconciler.note(table);
    table.settle();
    assert!(reconciler.is_due());
    let outcome = reconciler.reconcile(table, conntrack).unwrap();
    assert!(reconciler.is_due(), "for a second look");
    assert_eq!(reconciler.reconcile(table, conntrack).unwrap().deleted, 0);
    assert!(!reconciler.is_due());
    outcome
}

/// A packet that passed the old rules as they were replaced: its flow is tracked after the first look.
#[test]
fn l3_a_flow_that_was_in_flight_is_found_by_the_second_look() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.remove(&name("dns", Protocol::Udp));
    reconciler.note(&table);
    table.settle();
    reconciler.reconcile(&table, &mut FakeConntrack::default()).unwrap();
    let mut late = conntrack(&[(DNS, "10.244.1.5:53")]);
    assert_eq!(reconciler.reconcile(&table, &mut late).unwrap().deleted, 1);
}

/// C1: through the ClusterIP and through a NodePort.
#[test]
fn c1_flows_to_endpoints_that_left_are_deleted() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53", "10.244.2.5:53"])]);
    table.set(dns(&["10.244.2.5:53"]));
    let mut conntrack = conntrack(&[
        (DNS, "10.244.1.5:53"),
        (DNS, "10.244.2.5:53"),
        ("172.18.0.2:30053", "10.244.1.5:53"),
        ("172.18.0.2:30053", "10.244.2.5:53"),
        (DNS, "10.244.2.5:5353"),
    ]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack), Outcome { deleted: 3 });
    assert_eq!(left(&conntrack), pairs(&[(DNS, "10.244.2.5:53"), ("172.18.0.2:30053", "10.244.2.5:53")]));
}

/// C2, L2.
#[test]
fn c2_l2_flows_of_a_service_without_endpoints_are_deleted() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.set(dns(&[]));
    let mut conntrack = conntrack(&[(DNS, "10.244.1.5:53")]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 1);
}

/// C2, L3.
#[test]
fn c2_l3_flows_of_a_deleted_service_are_deleted() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.remove(&name("dns", Protocol::Udp));
    let untranslated = (DNS, DNS);
    let mut conntrack =
        conntrack(&[(DNS, "10.244.1.5:53"), ("172.18.0.2:30053", "10.244.1.5:53"), untranslated]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 2);
    assert_eq!(left(&conntrack), pairs(&[untranslated]));
}

#[test]
fn flows_to_a_changed_node_port_are_deleted() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.set(udp("dns", &[Frontend::NodePort(30054)], &["10.244.1.5:53"]));
    let mut conntrack = conntrack(&[
        ("172.18.0.2:30053", "10.244.1.5:53"),
        ("172.18.0.2:30054", "10.244.1.5:53"),
        (DNS, "10.244.1.5:53"),
    ]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 2);
    assert_eq!(left(&conntrack), pairs(&[("172.18.0.2:30054", "10.244.1.5:53")]));
}

#[test]
fn a_frontend_that_went_to_another_service_is_judged_by_its_new_owner() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.remove(&name("dns", Protocol::Udp));
    table.set(udp("heir", &[Frontend::ClusterIp(ip("10.96.0.10"))], &["10.244.2.5:53"]));
    let mut conntrack = conntrack(&[(DNS, "10.244.1.5:53"), (DNS, "10.244.2.5:53")]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 1);
    assert_eq!(left(&conntrack), pairs(&[(DNS, "10.244.2.5:53")]));
}

/// C3.
#[test]
fn c3_a_restart_keeps_flows_that_are_right_and_deletes_the_others() {
    let (table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    assert!(reconciler.is_due());
    let mut conntrack = conntrack(&[(DNS, "10.244.1.5:53"), (DNS, "10.244.1.6:53")]);
    reconciler.reconcile(&table, &mut conntrack).unwrap();
    assert_eq!(left(&conntrack), pairs(&[(DNS, "10.244.1.5:53")]));
}

/// C4, L4.
#[test]
fn c4_l4_flows_to_others_are_left_alone_whatever_their_port() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.set(dns(&[]));
    let foreign = [
        ("192.0.2.1:30053", "192.0.2.1:30053"),
        ("192.0.2.1:30053", "10.244.1.5:53"),
        ("127.0.0.1:30053", "127.0.0.1:30053"),
        ("10.96.0.11:53", "10.244.1.5:53"),
        ("10.96.0.10:54", "10.244.1.5:53"),
        ("172.18.0.2:53", "172.18.0.2:53"),
    ];
    let mut conntrack = conntrack(&foreign);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 0);
    assert_eq!(left(&conntrack), pairs(&foreign));
}

/// C9: sent before the rules were there.
#[test]
fn c9_untranslated_flows_are_deleted_once_there_are_endpoints() {
    let (mut table, mut reconciler) = table(vec![dns(&[])]);
    let untranslated = [(DNS, DNS), ("172.18.0.2:30053", "172.18.0.2:30053")];
    let mut conntrack = conntrack(&untranslated);
    reconciler.reconcile(&table, &mut conntrack).unwrap();
    assert_eq!(left(&conntrack), pairs(&untranslated));
    table.set(dns(&["10.244.1.5:53"]));
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 2);
}

/// C11.
#[test]
fn c11_flows_to_draining_endpoints_are_kept() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.set(ServicePort { draining: endpoints(&["10.244.1.5:53"]), ..dns(&["10.244.2.5:53"]) });
    let mut conntrack = conntrack(&[(DNS, "10.244.1.5:53")]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 0);
}

/// C6: for whatever reason, and also while everything counts as changed.
#[test]
fn c6_what_a_failed_cleaning_left_is_done_by_the_next() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    reconciler.reconcile(&table, &mut FakeConntrack::default()).unwrap();
    table.unsettle();
    table.remove(&name("dns", Protocol::Udp));
    let mut conntrack = conntrack(&[(DNS, "10.244.1.5:53")]);
    reconciler.note(&table);
    table.settle();
    for failures in 1..=2 {
        conntrack.failures = failures;
        reconciler.reconcile(&table, &mut conntrack).unwrap_err();
        conntrack.failures = 0;
        assert!(reconciler.is_due());
        reconciler.note(&table);
    }
    assert_eq!(reconciler.reconcile(&table, &mut conntrack).unwrap().deleted, 1);
}

#[test]
fn c11_changes_of_other_protocols_are_no_reason_to_look() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    for _ in 0..2 {
        reconciler.reconcile(&table, &mut FakeConntrack::default()).unwrap();
    }
    table.set(ServicePort { name: name("web", Protocol::Tcp), ..dns(&["10.244.1.6:53"]) });
    reconciler.note(&table);
    assert!(!reconciler.is_due());
}

/// More than are held at a time.
#[test]
fn c5_any_number_of_stale_flows_is_deleted_and_few_are_held() {
    let (mut table, mut reconciler) = table(vec![dns(&["10.244.1.5:53"])]);
    table.set(dns(&[]));
    let flows = (0..2 * BATCH as u16 + 1).map(|number| flow(number, DNS, "10.244.1.5:53")).collect();
    let mut conntrack = FakeConntrack { flows, ..FakeConntrack::default() };
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack).deleted, 2 * BATCH + 1);
    assert_eq!((conntrack.flows.len(), conntrack.listings), (0, 4));
}

/// Few addresses and ports, so that everything meets everything.
fn any_address() -> impl Strategy<Value = SocketAddr> {
    let address =
        prop::sample::select(vec!["10.96.0.10", "10.96.0.11", NODE, "192.0.2.1", "10.244.1.5", "10.244.1.6"]);
    let port = prop::sample::select(vec![53u16, 54, 30053]);
    (address, port).prop_map(|(address, port)| SocketAddr::new(ip(address), port))
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    let service = prop::sample::select(vec!["a", "b"]);
    let frontend = prop::sample::select(vec![
        Frontend::ClusterIp(ip("10.96.0.10")),
        Frontend::LoadBalancer(ip("10.96.0.11")),
        Frontend::NodePort(30053),
    ]);
    let endpoint = prop::sample::select(vec!["10.244.1.5:53", "10.244.1.6:53"]);
    let tcp = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Udp]);
    (service, frontend, prop::collection::vec(endpoint, 0..2), tcp).prop_map(
        |(service, frontend, cluster, protocol)| ServicePort {
            name: name(service, protocol),
            ..udp(service, &[frontend], &cluster)
        },
    )
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Udp]);
    (any::<u16>(), any_address(), any_address(), protocol).prop_map(|(number, to, by, protocol)| {
        let base = flow(number % 60_000, &to.to_string(), &by.to_string());
        Flow { protocol, ..base }
    })
}

/// Whether a ServicePort of any time claims the destination of a flow, said without keys and indexes.
fn is_claimed(ports: &[ServicePort], flow: &Flow) -> bool {
    let destination = flow.original.destination;
    ports.iter().filter(|port| port.name.protocol == Protocol::Udp).any(|port| {
        port.frontends.iter().any(|frontend| match frontend {
            Frontend::NodePort(number) => destination == SocketAddr::new(ip(NODE), *number),
            _ => frontend.address() == Some(destination.ip()) && destination.port() == 53,
        })
    })
}

proptest! {
    /// C4: over any history of ServicePorts, with failures between.
    #[test]
    fn c4_foreign_flows_are_never_touched(
        history in prop::collection::vec((any_port(), any::<bool>(), 0..3usize), 1..8),
        flows in prop::collection::vec(any_flow(), 0..40),
    ) {
        let (mut table, mut reconciler) = table(vec![]);
        let mut conntrack = FakeConntrack { flows: flows.clone(), ..FakeConntrack::default() };
        for (port, removal, failures) in &history {
            if *removal { table.remove(&port.name) } else { table.set(port.clone()) }
            reconciler.note(&table);
            table.settle();
            conntrack.failures = *failures;
            let _ = reconciler.reconcile(&table, &mut conntrack);
        }
        let ports: Vec<_> = history.into_iter().map(|(port, ..)| port).collect();
        for flow in flows.iter().filter(|flow| flow.protocol != Protocol::Udp || !is_claimed(&ports, flow)) {
            prop_assert!(conntrack.flows.contains(flow), "{flow} was deleted");
        }
    }

    /// C1: whatever happened before, afterwards no translated flow of a frontend goes to who may not have it, and all
    /// that may stay stay.
    #[test]
    fn c1_flows_agree_with_the_table_after_a_reconciliation(
        history in prop::collection::vec((any_port(), any::<bool>()), 1..8),
        flows in prop::collection::vec(any_flow(), 0..40),
    ) {
        let (mut table, mut reconciler) = table(vec![]);
        for (port, removal) in history {
            if removal { table.remove(&port.name) } else { table.set(port) }
            reconciler.note(&table);
            table.settle();
        }
        let mut conntrack = FakeConntrack { flows: flows.clone(), ..FakeConntrack::default() };
        reconciler.reconcile(&table, &mut conntrack).unwrap();
        for port in table.ports().filter(|port| port.name.protocol == Protocol::Udp) {
            let one = std::slice::from_ref(&**port);
            let owned = |flow: &&Flow| {
                let owner = candidates(&table, flow.original.destination)
                    .find_map(|key| table.frontends().get(&key));
                flow.protocol == Protocol::Udp && is_claimed(one, flow) && owner == Some(port)
            };
            for flow in flows.iter().filter(owned) {
                let may_stay = port.cluster.iter().any(|endpoint| {
                    flow.endpoint() == SocketAddr::new(endpoint.address, endpoint.port)
                });
                let stays = conntrack.flows.contains(flow);
                prop_assert!(stays || !may_stay, "{flow} was deleted");
                prop_assert!(!stays || may_stay || !flow.is_translated(), "{flow} was left");
            }
        }
    }
}

/// The userspace mode's flows end at this node: only what an earlier mode translated can be stale.
#[test]
fn flows_that_are_right_as_they_were_sent_stay() {
    let (mut table, _) = table(vec![dns(&["10.244.1.5:53"])]);
    let mut reconciler = Reconciler::of(Tracking::AsSent);
    let mut conntrack = conntrack(&[(DNS, DNS), (DNS, "10.244.1.9:53"), (DNS, "10.244.1.5:53")]);
    assert_eq!(sync(&mut table, &mut reconciler, &mut conntrack), Outcome { deleted: 1 });
    assert_eq!(left(&conntrack), pairs(&[(DNS, DNS), (DNS, "10.244.1.5:53")]));
}
