//! Any sequence of events, in any batches, ends in the tables that the final objects alone give.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::model::{HealthCheck, Protocol, ServiceName, TrafficPolicy};
use crate::sync::builders::{self, applied, port, service, slice};
use crate::sync::objects::{EndpointPort, Kind, Node, Service, ServiceCidr, ServiceKind, SliceEndpoint};

/// Few names and addresses, so that most objects meet others.
const NAMES: [&str; 4] = ["a/x", "a/y", "b/x", "b/y"];
const SLICES: [&str; 4] = ["a/s1", "a/s2", "b/s1", "b/s2"];
const CIDRS: [&str; 2] = ["kubernetes", "more"];
const CLUSTER_IPS: [&str; 4] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1"];
const EXTERNAL_IPS: [&str; 6] =
    ["203.0.113.1", "203.0.113.2", "10.96.0.1", "10.96.0.2", "192.0.2.1", "2001:db8::1"];
const PODS: [&str; 5] = ["10.244.1.5", "10.244.1.6", "10.244.2.5", "127.0.0.1", "fd00:244:1::5"];

#[derive(Debug, Clone)]
enum Step {
    Event(Event),
    Recompile,
    /// What a source does after it lost its watch: every object of the kind again, perhaps after a list that broke off.
    Relist {
        kind: Kind,
        breaks_off_after: Option<usize>,
    },
}

fn pick<T: Clone + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(from)
}

fn some_of(from: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(from.to_vec(), 0..=most).prop_shuffle()
}

fn any_port() -> impl Strategy<Value = crate::sync::objects::ServicePortSpec> {
    let protocol = pick(&[Protocol::Tcp, Protocol::Udp]);
    (pick(&["", "p", "q"]), protocol, pick(&[0u16, 80, 80, 443]), pick(&[0u16, 30080, 30443]))
        .prop_map(|(name, protocol, number, node_port)| port(name, protocol, number, node_port))
}

prop_compose! {
    fn any_service()(
        name in pick(&NAMES),
        uid in pick(&["u1", "u2"]),
        created in 0i64..3,
        kind in pick(&[ServiceKind::ClusterIp, ServiceKind::NodePort, ServiceKind::LoadBalancer]),
        cluster_ips in some_of(&CLUSTER_IPS, 2),
        ports in proptest::collection::vec(any_port(), 0..3),
        external_ips in some_of(&EXTERNAL_IPS, 2),
        load_balancer_ips in some_of(&EXTERNAL_IPS, 2),
        policies in any::<(bool, bool)>(),
        timeout in pick(&[None, Some(0), Some(60)]),
        health_check_node_port in pick(&[0u16, 32000]),
        scheduler in pick(&[None, Some("rr"), Some("lc"), Some("?")]),
        flags in pick(&[None, Some("sh-port"), Some("?")]),
    ) -> Service {
        Service {
            uid: uid.into(),
            created,
            kind,
            ports: ports.into(),
            external_ips: builders::ips(&external_ips),
            load_balancer_ips: builders::ips(&load_balancer_ips),
            internal_policy_local: policies.0,
            external_policy_local: policies.1,
            affinity_timeout_seconds: timeout,
            health_check_node_port,
            scheduler: scheduler.map(Into::into),
            scheduler_flags: flags.map(Into::into),
            ..service(name, &cluster_ips)
        }
    }
}

prop_compose! {
    fn any_endpoint()(
        address in pick(&PODS),
        conditions in any::<(bool, bool, bool)>(),
        node in pick(&[None, Some("here"), Some("elsewhere")]),
        zones in some_of(&["zone-a", "zone-b"], 1),
        nodes in some_of(&["here", "elsewhere"], 1),
    ) -> SliceEndpoint {
        let (ready, serving, terminating) = conditions;
        let hinted = builders::here(address).hinted(&zones, &nodes);
        SliceEndpoint { ready, serving, terminating, node: node.map(Into::into), ..hinted }
    }
}

prop_compose! {
    fn any_slice()(
        name in pick(&SLICES),
        service in pick(&["x", "y"]),
        family in pick(&Family::ALL),
        ports in proptest::collection::vec((pick(&["", "p"]), pick(&[Protocol::Tcp, Protocol::Udp])), 0..3),
        endpoints in proptest::collection::vec(any_endpoint(), 0..4),
        weight in pick(&[1, 2]),
    ) -> crate::sync::objects::EndpointSlice {
        let ports = ports.into_iter().map(|(name, protocol)| EndpointPort { name: name.into(), protocol, port: 8080 });
        crate::sync::objects::EndpointSlice { family, weight, ports: ports.collect(), ..slice(name, service, endpoints) }
    }
}

prop_compose! {
    fn any_node()(
        addresses in some_of(&["172.18.0.2", "203.0.113.1"], 2),
        zone in pick(&[None, Some("zone-a"), Some("zone-b")]),
    ) -> Node {
        Node { addresses: builders::ips(&addresses), zone: zone.map(Into::into), ..builders::node() }
    }
}

fn any_service_cidr() -> impl Strategy<Value = ServiceCidr> {
    let network = pick(&["10.96.0.0/24", "10.96.1.0/24", "10.96.0.0/16", "fd00:10:96::/112"]);
    (pick(&CIDRS), network).prop_map(|(name, network)| builders::service_cidr(name, &[network]))
}

fn any_step() -> impl Strategy<Value = Step> {
    let deleted = prop_oneof![
        pick(&NAMES).prop_map(|name| (Kind::Service, builders::name(name))),
        pick(&SLICES).prop_map(|name| (Kind::EndpointSlice, builders::name(name))),
        Just((Kind::Node, builders::name("here"))),
        pick(&CIDRS).prop_map(|name| (Kind::ServiceCidr, builders::name(name))),
    ];
    let undecodable = deleted.clone();
    let kind = pick(&[Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr]);
    prop_oneof![
        8 => any_service().prop_map(|service| Step::Event(applied(service))),
        6 => any_slice().prop_map(|slice| Step::Event(applied(slice))),
        1 => any_node().prop_map(|node| Step::Event(applied(node))),
        1 => any_service_cidr().prop_map(|cidr| Step::Event(applied(cidr))),
        3 => deleted.prop_map(|(kind, name)| Step::Event(Event::Deleted(kind, name))),
        1 => undecodable.prop_map(|(kind, name)| {
            Step::Event(Event::Undecodable { kind, name: Some(name), error: "no".into() })
        }),
        4 => Just(Step::Recompile),
        1 => (kind, proptest::option::of(0usize..4))
            .prop_map(|(kind, breaks_off_after)| Step::Relist { kind, breaks_off_after }),
    ]
}

/// The cluster as it really is, which the store has to follow.
#[derive(Default, Clone)]
struct Cluster(BTreeMap<(Kind, ServiceName), Object>);

impl Cluster {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Applied(object) => {
                let key = match object {
                    Object::Service(service) => (Kind::Service, service.name.clone()),
                    Object::EndpointSlice(slice) => (Kind::EndpointSlice, slice.name.clone()),
                    Object::Node(node) => (Kind::Node, builders::name(&node.name)),
                    Object::ServiceCidr(cidr) => (Kind::ServiceCidr, builders::name(&cidr.name)),
                };
                self.0.insert(key, object.clone());
            }
            Event::Deleted(kind, name) => drop(self.0.remove(&(*kind, name.clone()))),
            _ => {}
        }
    }

    fn relist(&self, kind: Kind, breaks_off_after: Option<usize>) -> Vec<Event> {
        let all = || self.0.iter().filter(move |((of, _), _)| *of == kind).map(|(_, object)| object.clone());
        let broken = breaks_off_after.map(|count| {
            std::iter::once(Event::ListStarted(kind))
                .chain(all().take(count).map(Event::Applied))
                .collect::<Vec<_>>()
        });
        let whole = std::iter::once(Event::ListStarted(kind))
            .chain(all().map(Event::Applied))
            .chain([Event::ListDone(kind)]);
        broken.into_iter().flatten().chain(whole).collect()
    }
}

/// Everything that must not depend on the way there.
#[derive(Debug, PartialEq)]
struct End {
    ports: Vec<ServicePort>,
    service_networks: Vec<Vec<IpNet>>,
    frontends: Vec<(String, String)>,
    roles: Vec<(String, String)>,
    hairpin: Vec<(std::net::IpAddr, u32)>,
    without_local_endpoints: Vec<(usize, usize)>,
    health_checks: Vec<(ServiceName, HealthCheck)>,
    problems: Vec<String>,
}

fn end(bench: &Bench) -> End {
    let tables = || bench.tables.iter();
    End {
        ports: tables().flat_map(|table| table.ports().map(|port| (**port).clone())).collect(),
        service_networks: tables().map(|table| table.node().service_networks.clone()).collect(),
        frontends: tables()
            .flat_map(|table| table.frontends())
            .map(|(key, port)| (key.to_string(), port.name.to_string()))
            .collect(),
        roles: tables()
            .flat_map(|table| table.roles())
            .map(|((role, key), port)| (format!("{role:?} {key}"), port.name.to_string()))
            .collect(),
        hairpin: tables()
            .flat_map(|table| table.hairpin())
            .map(|(address, count)| (*address, *count))
            .collect(),
        without_local_endpoints: tables().map(ServiceTable::without_local_endpoints).collect(),
        health_checks: tables()
            .flat_map(|table| table.health_checks())
            .map(|(name, check)| (name.clone(), *check))
            .collect(),
        // That the newest state of an object cannot be read is known only to who saw it come.
        problems: (bench.compiler.problems())
            .filter(|problem| !problem.field.is_empty())
            .map(ToString::to_string)
            .collect(),
    }
}

/// What a reader of the table relies on.
fn check_invariants(table: &ServiceTable) {
    let mut frontends = 0;
    for port in table.ports() {
        assert!(!port.frontends.is_empty(), "{} is reached nowhere", port.name);
        for frontend in &port.frontends {
            let owner = table.frontends().get(&port.key(frontend)).expect("every frontend has an owner");
            assert!(std::sync::Arc::ptr_eq(owner, port), "{} belongs to {}", port.key(frontend), owner.name);
            frontends += 1;
        }
        for set in [&port.cluster, &port.local, &port.draining] {
            assert!(set.is_sorted());
        }
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let forwards = [port.internal, port.external].contains(&crate::model::Verdict::Forward(policy));
            assert!(!forwards || !port.endpoints(policy).is_empty(), "{} forwards to nothing", port.name);
        }
    }
    assert_eq!(frontends, table.frontends().len());
}

fn run(steps: Vec<Step>) -> (Bench, Cluster) {
    let mut bench = Bench::new([]);
    let mut cluster = Cluster::default();
    for step in steps {
        match step {
            Step::Recompile => {
                bench.recompile();
                bench.tables.iter().for_each(check_invariants);
            }
            Step::Event(event) => {
                cluster.note(&event);
                bench.store.handle(event);
            }
            Step::Relist { kind, breaks_off_after } => {
                cluster
                    .relist(kind, breaks_off_after)
                    .into_iter()
                    .for_each(|event| bench.store.handle(event));
            }
        }
    }
    bench.recompile();
    (bench, cluster)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn e2_any_way_to_the_same_objects_ends_in_the_same_tables(steps in proptest::collection::vec(any_step(), 0..40)) {
        let (bench, cluster) = run(steps);
        bench.tables.iter().for_each(check_invariants);
        let scratch = Bench::new(cluster.0.into_values());
        prop_assert_eq!(end(&bench), end(&scratch));
    }

    #[test]
    fn duplicates_and_repeated_compiles_change_nothing(steps in proptest::collection::vec(any_step(), 0..20)) {
        let expanded = steps.iter().flat_map(|step| [step.clone(), step.clone(), Step::Recompile, Step::Recompile]);
        let (bench, _) = run(expanded.collect());
        let (plain, _) = run(steps);
        prop_assert_eq!(end(&bench), end(&plain));
    }

    #[test]
    fn compiling_again_touches_nothing(steps in proptest::collection::vec(any_step(), 0..30)) {
        let (mut bench, cluster) = run(steps);
        let again = cluster.0.into_values().map(Event::Applied);
        prop_assert_eq!(bench.handle(again), Vec::<String>::new());
        prop_assert!(bench.appeared.is_empty());
    }
}
