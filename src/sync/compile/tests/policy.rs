//! Which endpoints each policy may use: every combination that upstream's table for topology has, and a few more.

use crate::model::Verdict::{self, Drop, Forward, Reject};
use crate::model::{Frontend, Hashing, Scheduler, TrafficPolicy::Cluster, TrafficPolicy::Local};
use crate::sync::builders::{self, applied, elsewhere, here, load_balancer, name, node, service, slice};
use crate::sync::objects::{EndpointSlice, Node, Service, SliceEndpoint};

use std::sync::Arc;

use super::*;

const L1: &str = "10.244.1.5";
const L2: &str = "10.244.1.6";
const R1: &str = "10.244.2.5";
const R2: &str = "10.244.2.6";

fn internal() -> Service {
    service("shop/web", &["10.96.0.10"])
}

fn internal_local() -> Service {
    Service { internal_policy_local: true, ..internal() }
}

fn external() -> Service {
    load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"])
}

fn external_local() -> Service {
    Service { external_policy_local: true, ..external() }
}

fn both_local() -> Service {
    Service { internal_policy_local: true, ..external_local() }
}

/// What a ServicePort came to: verdicts, and its sets as the last numbers of their addresses.
#[derive(Debug, PartialEq)]
struct Got {
    internal: Verdict,
    external: Verdict,
    cluster: Vec<String>,
    local: Vec<String>,
    draining: Vec<String>,
}

fn got(internal: Verdict, external: Verdict, cluster: &[&str], local: &[&str], draining: &[&str]) -> Got {
    let texts = |set: &[&str]| set.iter().map(|address| format!("{address}:8080")).collect();
    Got { internal, external, cluster: texts(cluster), local: texts(local), draining: texts(draining) }
}

fn compile_on(node: Node, service: Service, endpoints: Vec<SliceEndpoint>) -> Got {
    let bench = Bench::new([service.into(), slice("shop/web-1", "web", endpoints).into(), node.into()]);
    let port = bench.port("shop/web");
    Got {
        internal: port.internal,
        external: port.external,
        cluster: addresses(&port.cluster),
        local: addresses(&port.local),
        draining: addresses(&port.draining),
    }
}

fn compile(service: Service, endpoints: Vec<SliceEndpoint>) -> Got {
    compile_on(node(), service, endpoints)
}

fn in_zone(zone: Option<&str>) -> Node {
    Node { zone: zone.map(Into::into), ..node() }
}

mod without_hints {
    use super::*;

    #[test]
    fn policy_cluster_uses_every_ready_endpoint() {
        let all = got(Forward(Cluster), Forward(Cluster), &[L1, R1], &[], &[]);
        assert_eq!(compile(internal(), vec![here(L1), elsewhere(R1)]), all);
        assert_eq!(compile(external(), vec![here(L1), elsewhere(R1)]), all);
    }

    #[test]
    fn unready_endpoints_get_nothing() {
        let endpoints = vec![here(L1).unready(), elsewhere(R1)];
        assert_eq!(compile(internal(), endpoints), got(Forward(Cluster), Forward(Cluster), &[R1], &[], &[]));
    }

    #[test]
    fn e10_without_endpoints_everything_is_rejected() {
        let nothing = got(Reject, Reject, &[], &[], &[]);
        for service in [internal(), internal_local(), external(), external_local(), both_local()] {
            assert_eq!(compile(service.clone(), vec![]), nothing);
            assert_eq!(compile(service.clone(), vec![here(L1).unready(), elsewhere(R1).unready()]), nothing);
        }
    }

    #[test]
    fn a_service_without_slices_is_rejected() {
        let bench = Bench::new([internal().into(), node().into()]);
        assert_eq!(bench.port("shop/web").internal, Reject);
    }

    #[test]
    fn serving_but_neither_ready_nor_terminating_is_of_no_use_to_new_connections() {
        let endpoint = || SliceEndpoint { ready: false, serving: true, ..here(L1) };
        assert_eq!(compile(internal(), vec![endpoint()]), got(Reject, Reject, &[], &[], &[L1]));
        assert_eq!(compile(both_local(), vec![endpoint()]), got(Reject, Reject, &[], &[], &[L1]));
    }

    #[test]
    fn internal_local_uses_local_endpoints_alone() {
        let endpoints = vec![here(L1), elsewhere(R1)];
        assert_eq!(
            compile(internal_local(), endpoints),
            got(Forward(Local), Forward(Local), &[], &[L1], &[R1])
        );
        assert_eq!(
            compile(internal_local(), vec![here(L1), here(L2)]),
            got(Forward(Local), Forward(Local), &[], &[L1, L2], &[])
        );
    }

    #[test]
    fn internal_local_with_endpoints_elsewhere_only_drops() {
        assert_eq!(compile(internal_local(), vec![elsewhere(R1)]), got(Drop, Drop, &[], &[], &[R1]));
    }

    #[test]
    fn internal_local_does_not_keep_external_clients_from_the_cluster() {
        let service = Service { internal_policy_local: true, ..external() };
        assert_eq!(
            compile(service.clone(), vec![here(L1), elsewhere(R1)]),
            got(Forward(Local), Forward(Cluster), &[L1, R1], &[L1], &[])
        );
        assert_eq!(compile(service, vec![elsewhere(R1)]), got(Drop, Forward(Cluster), &[R1], &[], &[]));
    }

    #[test]
    fn e7_external_local_keeps_the_cluster_for_the_short_circuit() {
        assert_eq!(
            compile(external_local(), vec![here(L1), elsewhere(R1)]),
            got(Forward(Cluster), Forward(Local), &[L1, R1], &[L1], &[])
        );
        assert_eq!(
            compile(external_local(), vec![elsewhere(R1)]),
            got(Forward(Cluster), Drop, &[R1], &[], &[])
        );
    }

    #[test]
    fn both_policies_local() {
        assert_eq!(
            compile(both_local(), vec![here(L1), elsewhere(R1)]),
            got(Forward(Local), Forward(Local), &[L1, R1], &[L1], &[])
        );
        assert_eq!(compile(both_local(), vec![elsewhere(R1)]), got(Drop, Drop, &[R1], &[], &[]));
    }

    #[test]
    fn external_policy_means_nothing_without_an_external_frontend() {
        let service = Service { external_policy_local: true, ..internal() };
        assert_eq!(
            compile(service, vec![here(L1), elsewhere(R1)]),
            got(Forward(Cluster), Forward(Cluster), &[L1, R1], &[], &[])
        );
    }

    #[test]
    fn an_endpoint_without_a_node_is_local_to_no_policy() {
        assert_eq!(
            compile(external_local(), vec![here(L1).nowhere()]),
            got(Forward(Cluster), Drop, &[L1], &[], &[])
        );
        let bench = Bench::new([internal().into(), slice("shop/s", "web", vec![here(L1).nowhere()]).into()]);
        assert!(bench.port("shop/web").cluster[0].can_hairpin());
    }
}

#[test]
fn policies_without_a_local_endpoint_are_counted_where_somebody_can_notice() {
    let counted = |service, endpoints| {
        let bench = Bench::new([service, slice("shop/web-1", "web", endpoints).into()]);
        bench.tables[0].without_local_endpoints()
    };
    let remote = || vec![elsewhere(R1)];
    assert_eq!(counted(both_local().into(), remote()), (1, 1));
    assert_eq!(counted(internal_local().into(), remote()), (1, 0));
    assert_eq!(counted(external_local().into(), remote()), (0, 1));
    assert_eq!(counted(both_local().into(), vec![here(L1)]), (0, 0));
    assert_eq!(counted(both_local().into(), vec![]), (0, 0));
    let mut bench = Bench::new([both_local().into(), slice("shop/web-1", "web", remote()).into()]);
    bench.handle([applied(slice("shop/web-1", "web", vec![here(L1)]))]);
    assert_eq!(bench.tables[0].without_local_endpoints(), (0, 0));
}

mod terminating {
    use super::*;

    #[test]
    fn beside_ready_ones_they_only_drain() {
        assert_eq!(
            compile(internal(), vec![here(L1).terminating(), elsewhere(R1)]),
            got(Forward(Cluster), Forward(Cluster), &[R1], &[], &[L1])
        );
    }

    #[test]
    fn alone_they_are_used() {
        assert_eq!(
            compile(internal(), vec![here(L1).terminating(), elsewhere(R1).terminating()]),
            got(Forward(Cluster), Forward(Cluster), &[L1, R1], &[], &[])
        );
    }

    #[test]
    fn those_that_do_not_serve_are_not() {
        let gone = SliceEndpoint { serving: false, ..here(L1).terminating() };
        assert_eq!(compile(internal(), vec![gone]), got(Reject, Reject, &[], &[], &[]));
    }

    #[test]
    fn e5_the_last_local_ones_are_used_though_others_are_ready_elsewhere() {
        assert_eq!(
            compile(external_local(), vec![here(L1).terminating(), elsewhere(R1)]),
            got(Forward(Cluster), Forward(Local), &[R1], &[L1], &[])
        );
    }

    #[test]
    fn cluster_uses_ready_ones_elsewhere_while_local_has_a_ready_one_too() {
        assert_eq!(
            compile(
                external_local(),
                vec![here(L1).terminating(), here(L2), elsewhere(R1), elsewhere(R2).terminating()]
            ),
            got(Forward(Cluster), Forward(Local), &[L2, R1], &[L2], &[L1, R2])
        );
    }

    #[test]
    fn elsewhere_only_they_count_as_endpoints_so_that_local_drops() {
        assert_eq!(
            compile(both_local(), vec![elsewhere(R1).terminating()]),
            got(Drop, Drop, &[R1], &[], &[])
        );
    }

    #[test]
    fn ready_means_usable_even_while_it_terminates() {
        // publishNotReadyAddresses: the controller says ready whatever the pod does.
        let endpoint = SliceEndpoint { ready: true, ..here(L1).terminating() };
        assert_eq!(
            compile(internal(), vec![endpoint]),
            got(Forward(Cluster), Forward(Cluster), &[L1], &[], &[])
        );
    }
}

mod hints {
    use super::*;

    fn cluster_on(node: Node, endpoints: Vec<SliceEndpoint>) -> Vec<String> {
        compile_on(node, internal(), endpoints).cluster
    }

    fn cluster(endpoints: Vec<SliceEndpoint>) -> Vec<String> {
        cluster_on(node(), endpoints)
    }

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| format!("{address}:8080")).collect()
    }

    fn by_zone() -> Vec<SliceEndpoint> {
        vec![
            here(L1).hinted(&["zone-a"], &[]),
            here(L2).hinted(&["zone-b"], &[]),
            elsewhere(R1).hinted(&["zone-b"], &[]),
            elsewhere(R2).hinted(&["zone-a"], &[]),
        ]
    }

    #[test]
    fn same_zone_is_preferred_where_every_endpoint_has_a_hint() {
        assert_eq!(cluster(by_zone()), texts(&[L1, R2]));
        assert_eq!(cluster_on(in_zone(Some("zone-b")), by_zone()), texts(&[L2, R1]));
    }

    #[test]
    fn those_of_other_zones_drain() {
        assert_eq!(compile(internal(), by_zone()).draining, texts(&[L2, R1]));
    }

    #[test]
    fn e13_a_missing_hint_or_zone_turns_them_off() {
        let all = texts(&[L1, L2, R1, R2]);
        let mut one_missing = by_zone();
        one_missing[3].hints = None;
        assert_eq!(cluster(one_missing), all);
        let mut one_empty = by_zone();
        one_empty[3] = one_empty[3].clone().hinted(&[], &["here"]);
        assert_eq!(cluster(one_empty), all);
        assert_eq!(cluster_on(in_zone(None), by_zone()), all);
        assert_eq!(cluster_on(in_zone(Some("")), by_zone()), all);
        assert_eq!(cluster_on(in_zone(Some("zone-c")), by_zone()), all);
    }

    #[test]
    fn without_a_node_object_there_is_no_zone() {
        let slice = slice("shop/web-1", "web", by_zone());
        let bench = Bench::new([internal().into(), slice.into()]);
        assert_eq!(bench.port("shop/web").cluster.len(), 4);
    }

    #[test]
    fn an_unready_endpoint_has_no_say_and_gets_nothing() {
        let mut endpoints = by_zone();
        endpoints[1] = here(L2).unready();
        endpoints[3] = elsewhere(R2).unready();
        assert_eq!(cluster(endpoints), texts(&[L1]));
    }

    #[test]
    fn with_only_unready_ones_in_the_zone_all_others_are_used() {
        let mut endpoints = by_zone();
        endpoints[0].ready = false;
        endpoints[3].ready = false;
        assert_eq!(cluster(endpoints), texts(&[L2, R1]));
    }

    #[test]
    fn an_endpoint_may_be_for_several_zones() {
        let endpoints = vec![
            here(L1).hinted(&["zone-a", "zone-b", "zone-c"], &[]),
            here(L2).hinted(&["zone-b", "zone-c"], &[]),
            elsewhere(R1).hinted(&["zone-b", "zone-d"], &[]),
            elsewhere(R2).hinted(&["zone-c"], &[]),
        ];
        assert_eq!(cluster_on(in_zone(Some("zone-c")), endpoints), texts(&[L1, L2, R2]));
    }

    #[test]
    fn same_node_comes_before_same_zone() {
        let endpoints =
            vec![here(L1).hinted(&["zone-a"], &["here"]), elsewhere(R1).hinted(&["zone-a"], &["elsewhere"])];
        assert_eq!(cluster(endpoints), texts(&[L1]));
    }

    #[test]
    fn same_node_needs_a_node_hint_on_every_endpoint() {
        let endpoints = vec![
            here(L1).hinted(&["zone-a"], &["here"]),
            elsewhere(R1).hinted(&["zone-a"], &[]),
            elsewhere(R2).hinted(&["zone-b"], &["elsewhere"]),
        ];
        assert_eq!(cluster(endpoints), texts(&[L1, R1]));
    }

    #[test]
    fn without_an_endpoint_for_this_node_the_zone_decides() {
        let endpoints = vec![
            elsewhere(R1).hinted(&["zone-a"], &["elsewhere"]),
            elsewhere(R2).hinted(&["zone-b"], &["elsewhere"]),
        ];
        assert_eq!(cluster(endpoints), texts(&[R1]));
    }

    #[test]
    fn a_node_hint_counts_wherever_the_endpoint_is() {
        let endpoints = vec![here(L1).hinted(&[], &["elsewhere"]), elsewhere(R1).hinted(&[], &["here"])];
        assert_eq!(cluster(endpoints), texts(&[R1]));
    }

    #[test]
    fn they_say_nothing_about_policy_local() {
        let endpoints = || vec![here(L1).hinted(&["zone-b"], &[]), elsewhere(R1).hinted(&["zone-a"], &[])];
        assert_eq!(
            compile(external_local(), endpoints()),
            got(Forward(Cluster), Forward(Local), &[R1], &[L1], &[])
        );
        assert_eq!(
            compile(Service { internal_policy_local: true, ..external() }, endpoints()),
            got(Forward(Local), Forward(Cluster), &[R1], &[L1], &[])
        );
    }

    #[test]
    fn terminating_endpoints_are_used_whatever_their_zone() {
        let endpoints = vec![
            here(L1).hinted(&["zone-b"], &[]).terminating(),
            elsewhere(R1).hinted(&["zone-a"], &[]).terminating(),
        ];
        assert_eq!(cluster(endpoints), texts(&[L1, R1]));
    }

    #[test]
    fn a_node_that_changes_its_zone_changes_what_its_services_use() {
        let mut bench =
            Bench::new([internal().into(), slice("shop/web-1", "web", by_zone()).into(), node().into()]);
        assert_eq!(bench.handle([applied(in_zone(Some("zone-b")))]), ["shop/web/TCP"]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), texts(&[L2, R1]));
        assert!(bench.handle([applied(Node { leaving: true, ..in_zone(Some("zone-b")) })]).is_empty());
    }
}

mod scheduling {
    use super::*;

    fn with(service: Service, settings: Settings) -> Bench {
        Bench::with(settings, [service.into()])
    }

    #[test]
    fn the_modes_default_unless_the_operator_or_the_service_says_otherwise() {
        let scheduler = |service, settings| with(service, settings).port("shop/web").scheduler;
        let wants = |text: &str| Service { scheduler: Some(text.into()), ..internal() };
        let operator = || Settings { default_scheduler: Some(Scheduler::RoundRobin), ..settings() };
        assert_eq!(scheduler(internal(), settings()), Scheduler::Random);
        assert_eq!(scheduler(internal(), operator()), Scheduler::RoundRobin);
        assert_eq!(scheduler(wants("random"), operator()), Scheduler::Random);
        assert_eq!(scheduler(wants("rr"), settings()), Scheduler::RoundRobin);
    }

    #[test]
    fn what_the_mode_does_not_have_is_reported_with_the_modes_that_have_it() {
        let service = Service { scheduler: Some("lc".into()), ..internal() };
        let bench = with(service, settings());
        assert_eq!(bench.port("shop/web").scheduler, Scheduler::Random);
        assert_eq!(
            bench.problems(),
            [
                "Service shop/web: metadata.annotations[ferrovia.dev/scheduler]: this mode does not have lc, random is \
              used; modes that have it: ipvs, userspace"
            ]
        );
        assert_eq!(bench.reasons(), [(Reason::UnsupportedScheduler, 1)]);
    }

    #[test]
    fn what_this_kernel_does_not_have_is_reported_with_its_module() {
        let settings = Settings { missing_schedulers: [Scheduler::Maglev].into(), ..settings() };
        let bench = with(Service { scheduler: Some("mh".into()), ..internal() }, settings);
        assert_eq!(bench.port("shop/web").scheduler, Scheduler::Random);
        assert_eq!(
            bench.problems(),
            [
                "Service shop/web: metadata.annotations[ferrovia.dev/scheduler]: this kernel does not have mh (module \
              ip_vs_mh), random is used"
            ]
        );
        assert_eq!(bench.reasons(), [(Reason::UnsupportedScheduler, 1)]);
    }

    #[test]
    fn what_no_mode_has_is_reported() {
        let bench = with(Service { scheduler: Some("fair".into()), ..internal() }, settings());
        assert_eq!(bench.port("shop/web").scheduler, Scheduler::Random);
        assert!(bench.problems()[0].contains("unknown scheduler \"fair\""), "{:?}", bench.problems());
    }

    const PORT: Hashing = Hashing { port: true, fallback: false };
    const FALLBACK: Hashing = Hashing { port: false, fallback: true };

    /// A mode with the schedulers that hash, and round-robin as its default.
    fn ipvs() -> Settings {
        let schedulers = [Scheduler::RoundRobin, Scheduler::SourceHash, Scheduler::Maglev];
        Settings { schedulers: schedulers.into(), ..settings() }
    }

    fn hashing(scheduler: &str, flags: Option<&str>, settings: Settings) -> (Hashing, Vec<String>) {
        let scheduler = Some(scheduler.into()).filter(|name: &Arc<str>| !name.is_empty());
        let service = Service { scheduler, scheduler_flags: flags.map(Into::into), ..internal() };
        let bench = with(service, settings);
        (bench.port("shop/web").hashing, bench.problems())
    }

    #[test]
    fn schedulers_that_hash_do_so_as_the_service_says() {
        assert_eq!(hashing("sh", Some("sh-port"), ipvs()), (PORT, vec![]));
        assert_eq!(hashing("mh", Some("mh-fallback"), ipvs()), (FALLBACK, vec![]));
        assert_eq!(hashing("mh", Some(""), ipvs()), (Hashing::default(), vec![]), "not by port, as it says");
    }

    #[test]
    fn maglev_hashes_ports_unless_told() {
        assert_eq!(hashing("mh", None, ipvs()), (PORT, vec![]));
        assert_eq!(hashing("sh", None, ipvs()), (Hashing::default(), vec![]));
        assert_eq!(hashing("", None, ipvs()), (Hashing::default(), vec![]));
    }

    #[test]
    fn the_operators_flags_are_those_of_the_default_scheduler() {
        let operator = |scheduler| Settings {
            default_scheduler: Some(scheduler),
            default_hashing: Some(FALLBACK),
            ..ipvs()
        };
        assert_eq!(hashing("", None, operator(Scheduler::Maglev)), (FALLBACK, vec![]));
        assert_eq!(hashing("mh", None, operator(Scheduler::Maglev)), (FALLBACK, vec![]));
        assert_eq!(hashing("sh", None, operator(Scheduler::Maglev)), (Hashing::default(), vec![]));
        assert_eq!(hashing("mh", None, operator(Scheduler::SourceHash)), (PORT, vec![]));
        assert_eq!(hashing("", Some("mh-port"), operator(Scheduler::Maglev)), (PORT, vec![]));
        assert_eq!(hashing("", None, operator(Scheduler::RoundRobin)), (Hashing::default(), vec![]));
    }

    #[test]
    fn flags_that_the_scheduler_does_not_have_are_reported_and_ignored() {
        let (found, problems) = hashing("mh", Some("mh-fallback,sh-port,fast"), ipvs());
        assert_eq!(found, FALLBACK);
        assert_eq!(
            problems,
            [
                "Service shop/web: metadata.annotations[ferrovia.dev/scheduler-flags]: scheduler mh does not have \
              sh-port, which is a flag of sh; it is ignored (and 1 more)"
            ]
        );
        assert_eq!(hashing("", Some("sh-port"), ipvs()).1.len(), 1);
        let with_scheduler = hashing("lc", Some("mh-port"), ipvs()).1;
        assert_eq!(with_scheduler.len(), 1, "the flags are right for what cannot be had: {with_scheduler:?}");
    }

    #[test]
    fn affinity_has_the_services_timeout_or_the_apis_default() {
        let seconds = |timeout| {
            let bench = with(Service { affinity_timeout_seconds: timeout, ..internal() }, settings());
            let affinity = bench.port("shop/web").affinity;
            (affinity.map(|affinity| affinity.timeout_seconds.get()), bench.problems().len())
        };
        assert_eq!(seconds(None), (None, 0));
        assert_eq!(seconds(Some(60)), (Some(60), 0));
        assert_eq!(seconds(Some(0)), (Some(10_800), 1));
        assert_eq!(seconds(Some(86_400)), (Some(86_400), 0));
        assert_eq!(seconds(Some(86_401)), (Some(10_800), 1));
    }
}

mod health_checks {
    use super::*;

    fn checked(service: Service, endpoints: Vec<SliceEndpoint>) -> Option<(u16, usize)> {
        let bench = Bench::new([service.into(), slice("shop/web-1", "web", endpoints).into()]);
        let checks = bench.tables[0].health_checks();
        checks.get(&name("shop/web")).map(|check| (check.node_port, check.local_endpoints))
    }

    fn with_check() -> Service {
        Service { health_check_node_port: 32_000, ..external_local() }
    }

    #[test]
    fn counts_ready_local_endpoints() {
        assert_eq!(checked(with_check(), vec![here(L1), here(L2), elsewhere(R1)]), Some((32_000, 2)));
        assert_eq!(checked(with_check(), vec![]), Some((32_000, 0)));
    }

    #[test]
    fn e5_fails_at_once_when_only_terminating_ones_are_left() {
        assert_eq!(checked(with_check(), vec![here(L1).terminating()]), Some((32_000, 0)));
    }

    #[test]
    fn an_address_with_two_ports_in_two_slices_counts_once() {
        let second = EndpointSlice {
            ports: [crate::sync::objects::EndpointPort {
                name: "b".into(),
                protocol: crate::model::Protocol::Tcp,
                port: 9090,
            }]
            .into(),
            ..slice("shop/web-2", "web", vec![here(L1)])
        };
        let service = Service {
            ports: ["", "b"].map(|name| builders::port(name, crate::model::Protocol::Tcp, 80, 0)).into(),
            ..with_check()
        };
        let bench =
            Bench::new([service.into(), slice("shop/web-1", "web", vec![here(L1)]).into(), second.into()]);
        assert_eq!(bench.tables[0].health_checks()[&name("shop/web")].local_endpoints, 1);
    }

    #[test]
    fn only_load_balancers_with_policy_local_have_one() {
        assert_eq!(checked(Service { external_policy_local: false, ..with_check() }, vec![here(L1)]), None);
        assert_eq!(checked(Service { health_check_node_port: 0, ..with_check() }, vec![here(L1)]), None);
        let kind = crate::sync::objects::ServiceKind::NodePort;
        assert_eq!(checked(Service { kind, ..with_check() }, vec![here(L1)]), None);
    }

    #[test]
    fn e6_goes_with_its_service() {
        let mut bench = Bench::new([with_check().into()]);
        assert_eq!(bench.tables[0].health_checks().len(), 1);
        assert!(
            bench.tables[1].health_checks().is_empty(),
            "the Service has no ClusterIP of the other family"
        );
        bench.handle([Event::Deleted(crate::sync::objects::Kind::Service, name("shop/web"))]);
        assert!(bench.tables[0].health_checks().is_empty());
    }
}

#[test]
fn frontends_keep_their_order() {
    let bench = Bench::new([external().into()]);
    let expected = [Frontend::ClusterIp(ip("10.96.0.10")), Frontend::LoadBalancer(ip("203.0.113.10"))];
    assert_eq!(*bench.port("shop/web").frontends, expected);
}
