//! From slices to endpoints: what belongs to which port, what is the same endpoint twice, what nobody may forward to.

use crate::model::{Locality, Protocol};
use crate::sync::builders::{applied, elsewhere, here, name, node, port, service, slice};
use crate::sync::objects::{EndpointPort, EndpointSlice, FieldProblem, Kind, Service, SliceEndpoint};

use super::*;

fn web() -> Service {
    service("shop/web", &["10.96.0.10"])
}

fn endpoint_port(name: &str, protocol: Protocol, port: u16) -> EndpointPort {
    EndpointPort { name: name.into(), protocol, port }
}

fn with_ports(slice: EndpointSlice, ports: &[EndpointPort]) -> EndpointSlice {
    EndpointSlice { ports: ports.into(), ..slice }
}

/// Every ServicePort of the IPv4 table with its endpoints.
fn all_ports(bench: &Bench) -> Vec<(String, Vec<String>)> {
    bench.tables[0].ports().map(|port| (port.name.to_string(), addresses(&port.cluster))).collect()
}

fn entry(port: &str, endpoints: &[&str]) -> (String, Vec<String>) {
    (port.to_owned(), endpoints.iter().map(ToString::to_string).collect())
}

mod ports {
    use super::*;

    #[test]
    fn belong_together_by_name_and_protocol() {
        let dns = Service {
            ports: [
                port("dns", Protocol::Udp, 53, 0),
                port("dns-tcp", Protocol::Tcp, 53, 0),
                port("metrics", Protocol::Tcp, 9153, 0),
            ]
            .into(),
            ..web()
        };
        let slice = with_ports(
            slice("shop/web-1", "web", vec![here("10.244.1.5")]),
            &[
                endpoint_port("dns", Protocol::Udp, 5353),
                endpoint_port("dns-tcp", Protocol::Tcp, 5354),
                endpoint_port("metrics", Protocol::Udp, 9153),
                endpoint_port("other", Protocol::Tcp, 1),
            ],
        );
        let bench = Bench::new([dns.into(), slice.into()]);
        assert_eq!(
            all_ports(&bench),
            [
                entry("shop/web:dns/UDP", &["10.244.1.5:5353"]),
                entry("shop/web:dns-tcp/TCP", &["10.244.1.5:5354"]),
                entry("shop/web:metrics/TCP", &[]),
            ]
        );
    }

    #[test]
    fn y16_one_name_for_two_protocols_are_two_ports() {
        let service = Service {
            ports: [port("p", Protocol::Tcp, 53, 0), port("p", Protocol::Udp, 53, 0)].into(),
            ..web()
        };
        let slice = with_ports(
            slice("shop/web-1", "web", vec![here("10.244.1.5")]),
            &[endpoint_port("p", Protocol::Tcp, 1), endpoint_port("p", Protocol::Udp, 2)],
        );
        let bench = Bench::new([service.into(), slice.into()]);
        assert_eq!(
            all_ports(&bench),
            [entry("shop/web:p/TCP", &["10.244.1.5:1"]), entry("shop/web:p/UDP", &["10.244.1.5:2"])]
        );
    }

    #[test]
    fn e1_the_same_address_with_two_ports_is_two_endpoints() {
        let second = with_ports(
            slice("shop/web-2", "web", vec![here("10.244.1.5")]),
            &[endpoint_port("", Protocol::Tcp, 9090)],
        );
        let first = slice("shop/web-1", "web", vec![here("10.244.1.5")]);
        let bench = Bench::new([web().into(), first.into(), second.into()]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080", "10.244.1.5:9090"]);
    }

    #[test]
    fn a_port_that_is_renamed_or_renumbered_takes_its_endpoints_along() {
        let mut bench = Bench::new([web().into(), slice("shop/s", "web", vec![here("10.244.1.5")]).into()]);
        let other = with_ports(
            slice("shop/s", "web", vec![here("10.244.1.5")]),
            &[endpoint_port("", Protocol::Tcp, 9090)],
        );
        bench.handle([applied(other)]);
        assert_eq!(all_ports(&bench), [entry("shop/web/TCP", &["10.244.1.5:9090"])]);
        let renamed = with_ports(
            slice("shop/s", "web", vec![here("10.244.1.5")]),
            &[endpoint_port("web", Protocol::Tcp, 9090)],
        );
        bench.handle([applied(renamed)]);
        assert_eq!(all_ports(&bench), [entry("shop/web/TCP", &[])]);
        let service = Service { ports: [port("web", Protocol::Tcp, 80, 0)].into(), ..web() };
        assert_eq!(bench.handle([applied(service)]), ["shop/web/TCP", "shop/web:web/TCP"]);
        assert_eq!(all_ports(&bench), [entry("shop/web:web/TCP", &["10.244.1.5:9090"])]);
    }

    #[test]
    fn a_slice_without_ports_or_endpoints_has_no_endpoints() {
        let bench = Bench::new([
            web().into(),
            with_ports(slice("shop/web-1", "web", vec![here("10.244.1.5")]), &[]).into(),
            slice("shop/web-2", "web", vec![]).into(),
        ]);
        assert_eq!(all_ports(&bench), [entry("shop/web/TCP", &[])]);
    }
}

mod slices {
    use super::*;

    fn two() -> [Object; 3] {
        [
            web().into(),
            slice("shop/web-1", "web", vec![here("10.244.1.5"), elsewhere("10.244.2.5")]).into(),
            slice("shop/web-2", "web", vec![here("10.244.1.6"), elsewhere("10.244.2.6")]).into(),
        ]
    }

    #[test]
    fn of_one_service_are_one_set_in_the_order_of_addresses() {
        let all = ["10.244.1.5:8080", "10.244.1.6:8080", "10.244.2.5:8080", "10.244.2.6:8080"];
        assert_eq!(addresses(&Bench::new(two()).port("shop/web").cluster), all);
        let backwards = two().into_iter().rev();
        assert_eq!(addresses(&Bench::new(backwards).port("shop/web").cluster), all);
    }

    #[test]
    fn may_come_and_go_and_nothing_else_is_compiled() {
        let mut bench = Bench::new(two().into_iter().chain([
            service("shop/api", &["10.96.0.11"]).into(),
            slice("shop/api-1", "api", vec![here("10.244.1.7")]).into(),
        ]));
        let deleted = Event::Deleted(Kind::EndpointSlice, name("shop/web-2"));
        assert_eq!(bench.handle([deleted]), ["shop/web/TCP"]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080", "10.244.2.5:8080"]);
        assert_eq!(
            bench.handle([applied(slice("shop/web-3", "web", vec![here("10.244.1.9")]))]),
            ["shop/web/TCP"]
        );
        assert_eq!(bench.port("shop/web").cluster.len(), 3);
    }

    #[test]
    fn e4_the_last_one_leaving_makes_the_service_reject() {
        let mut bench = Bench::new(two());
        bench.handle(
            ["shop/web-1", "shop/web-2"].map(|slice| Event::Deleted(Kind::EndpointSlice, name(slice))),
        );
        assert_eq!(bench.port("shop/web").internal, crate::model::Verdict::Reject);
        assert!(bench.port("shop/web").draining.is_empty());
    }

    #[test]
    fn before_their_service_wait_for_it() {
        let mut bench = Bench::new([slice("shop/web-1", "web", vec![here("10.244.1.5")]).into()]);
        assert!(!bench.has("shop/web"));
        bench.handle([applied(web())]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080"]);
    }

    #[test]
    fn y16_same_name_in_two_namespaces() {
        let bench = Bench::new([
            web().into(),
            service("bank/web", &["10.96.0.11"]).into(),
            slice("shop/web-1", "web", vec![here("10.244.1.5")]).into(),
            slice("bank/web-1", "web", vec![here("10.244.1.6")]).into(),
        ]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080"]);
        assert_eq!(addresses(&bench.port("bank/web").cluster), ["10.244.1.6:8080"]);
    }

    #[test]
    fn of_the_other_family_are_not_looked_at() {
        let dual = service("shop/web", &["10.96.0.10", "fd00:96::10"]);
        let bench = Bench::new([
            dual.into(),
            slice("shop/web-4", "web", vec![here("10.244.1.5")]).into(),
            slice("shop/web-6", "web", vec![here("fd00:244:1::5")]).into(),
        ]);
        assert_eq!(addresses(&bench.port_in(Family::V4, "shop/web").cluster), ["10.244.1.5:8080"]);
        assert_eq!(addresses(&bench.port_in(Family::V6, "shop/web").cluster), ["[fd00:244:1::5]:8080"]);
    }

    #[test]
    fn an_address_of_the_other_family_inside_a_slice_is_skipped() {
        let mixed = slice("shop/web-1", "web", vec![here("10.244.1.5"), here("fd00:244:1::5")]);
        let bench = Bench::new([web().into(), mixed.into()]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080"]);
    }
}

mod duplicates {
    use super::*;

    /// The endpoint that is left of several with one address and port, whichever slice each is in.
    fn left_of(candidates: Vec<SliceEndpoint>) -> Option<Locality> {
        let compile = |candidates: Vec<SliceEndpoint>| {
            let slices = candidates
                .into_iter()
                .enumerate()
                .map(|(index, candidate)| slice(&format!("shop/s{index}"), "web", vec![candidate]).into());
            let bench = Bench::new([web().into()].into_iter().chain(slices));
            let port = bench.port("shop/web").clone();
            assert!(port.cluster.len() + port.draining.len() <= 1);
            port.cluster.first().map(|endpoint| endpoint.locality)
        };
        let backwards = compile(candidates.iter().rev().cloned().collect());
        let forwards = compile(candidates);
        assert_eq!(forwards, backwards);
        forwards
    }

    #[test]
    fn e2_ready_wins_over_terminating_and_not_ready_in_either_slice() {
        let ready = || here("10.244.1.5");
        let other = || elsewhere("10.244.1.5");
        assert_eq!(left_of(vec![ready(), other().terminating()]), Some(Locality::Local));
        assert_eq!(left_of(vec![ready(), other().unready()]), Some(Locality::Local));
        assert_eq!(left_of(vec![ready(), other().unready(), other().terminating()]), Some(Locality::Local));
    }

    #[test]
    fn e3_pod_address_reused() {
        // The old pod terminates and still serves on paper, but its address is the new pod's, which is not ready yet.
        let old = || elsewhere("10.244.1.5").terminating();
        assert_eq!(left_of(vec![here("10.244.1.5").unready(), old()]), None);
        assert_eq!(left_of(vec![here("10.244.1.5"), old()]), Some(Locality::Local));
    }

    #[test]
    fn one_that_serves_wins_over_one_that_does_not() {
        let gone = SliceEndpoint { serving: false, ..elsewhere("10.244.1.5").terminating() };
        assert_eq!(left_of(vec![here("10.244.1.5").terminating(), gone]), Some(Locality::Local));
    }

    #[test]
    fn e2_no_moment_without_endpoints_while_one_moves_between_slices() {
        let moved = || vec![here("10.244.1.5")];
        let mut bench = Bench::new([web().into(), slice("shop/web-1", "web", moved()).into()]);
        for event in
            [applied(slice("shop/web-2", "web", moved())), applied(slice("shop/web-1", "web", vec![]))]
        {
            assert!(bench.handle([event]).is_empty(), "the table stays as it is");
            assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080"]);
        }
    }

    #[test]
    fn equal_claims_are_decided_by_the_slices_name() {
        let compile = |first: &str, second: &str| {
            let bench = Bench::new([
                web().into(),
                slice(first, "web", vec![here("10.244.1.5")]).into(),
                slice(second, "web", vec![elsewhere("10.244.1.5")]).into(),
            ]);
            bench.port("shop/web").cluster[0].locality
        };
        assert_eq!(compile("shop/s1", "shop/s2"), Locality::Local);
        assert_eq!(compile("shop/s2", "shop/s1"), Locality::Remote);
    }
}

mod forbidden {
    use super::*;

    #[test]
    fn s6_loopback_endpoint_dropped() {
        let endpoints = vec![here("127.0.0.1"), here("10.244.1.5"), here("127.1.2.3")];
        let bench = Bench::new([web().into(), slice("shop/web-1", "web", endpoints).into()]);
        assert_eq!(addresses(&bench.port("shop/web").cluster), ["10.244.1.5:8080"]);
        assert_eq!(
            bench.problems(),
            [
                "EndpointSlice shop/web-1: endpoints[0].addresses[0]: 127.0.0.1 is a loopback address (and 1 more)"
            ]
        );
        assert_eq!(bench.reasons(), [(Reason::ForbiddenEndpoint, 2)]);
    }

    #[test]
    fn s6_every_forbidden_range() {
        for (address, is_forbidden) in [
            ("127.0.0.1", true),
            ("169.254.169.254", true),
            ("224.0.0.1", true),
            ("0.0.0.0", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("fe80::1", true),
            ("ff02::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("10.244.1.5", false),
            ("169.253.0.1", false),
            ("fd00:244:1::5", false),
            ("fec0::1", false),
        ] {
            let dual = service("shop/web", &["10.96.0.10", "fd00:96::10"]);
            let bench = Bench::new([dual.into(), slice("shop/web-1", "web", vec![here(address)]).into()]);
            let used = bench.tables.iter().flat_map(ServiceTable::ports).any(|port| !port.cluster.is_empty());
            assert_eq!(used, !is_forbidden, "{address}");
            assert_eq!(bench.problems().len(), usize::from(is_forbidden), "{address}");
        }
    }

    #[test]
    fn they_do_not_count_for_health_checks() {
        let service = Service {
            health_check_node_port: 32_000,
            external_policy_local: true,
            ..crate::sync::builders::load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"])
        };
        let bench = Bench::new([service.into(), slice("shop/s", "web", vec![here("127.0.0.1")]).into()]);
        assert_eq!(bench.tables[0].health_checks()[&name("shop/web")].local_endpoints, 0);
    }

    #[test]
    fn five_thousand_of_them_are_one_message() {
        let endpoints =
            (0..5_000u32).map(|at| here(&std::net::Ipv4Addr::from_bits(0x7f00_0000 + at).to_string()));
        let bench = Bench::new([web().into(), slice("shop/web-1", "web", endpoints.collect()).into()]);
        assert_eq!(bench.appeared.len(), 1);
        assert_eq!(bench.reasons(), [(Reason::ForbiddenEndpoint, 5_000)]);
    }

    #[test]
    fn the_message_comes_once_and_goes_with_its_cause() {
        let mut bench = Bench::new([web().into(), slice("shop/s", "web", vec![here("127.0.0.1")]).into()]);
        assert_eq!(bench.appeared.len(), 1);
        bench.handle([applied(Service { created: 5, ..web() })]);
        assert!(bench.appeared.is_empty() && bench.problems().len() == 1);
        bench.handle([applied(slice("shop/s", "web", vec![here("10.244.1.5")]))]);
        assert!(bench.appeared.is_empty() && bench.problems().is_empty());
    }

    #[test]
    fn fields_that_the_source_could_not_read_are_reported_with_the_service() {
        let problem = FieldProblem {
            field: "endpoints[1].addresses[0]".into(),
            reason: Reason::Malformed,
            message: "\"x\" is not an IP address".into(),
        };
        let slice = EndpointSlice {
            problems: [problem].into(),
            ..slice("shop/web-1", "web", vec![here("10.244.1.5")])
        };
        let bench = Bench::new([web().into(), slice.into()]);
        assert_eq!(
            bench.problems(),
            ["EndpointSlice shop/web-1: endpoints[1].addresses[0]: \"x\" is not an IP address"]
        );
    }
}

#[test]
fn endpoints_have_the_weight_of_their_slice() {
    let weighed = |weight| EndpointSlice { weight, ..slice("shop/canary", "web", vec![here("10.244.1.6")]) };
    let stable = slice("shop/web-1", "web", vec![here("10.244.1.5"), here("10.244.1.7")]);
    let mut bench = Bench::new([web().into(), stable.into(), weighed(20).into()]);
    let weights = |bench: &Bench| -> Vec<u16> {
        bench.port("shop/web").cluster.iter().map(|endpoint| endpoint.weight).collect()
    };
    assert_eq!(weights(&bench), [1, 20, 1]);
    assert_eq!(bench.handle([applied(weighed(5))]), ["shop/web/TCP"], "a weight alone is a change");
    assert_eq!(weights(&bench), [1, 5, 1]);
    assert!(bench.handle([applied(weighed(5))]).is_empty());
}

/// Which of two slices is believed has nothing to do with weights: they come with the endpoint.
#[test]
fn of_an_endpoint_in_two_slices_the_weight_is_that_of_the_one_believed() {
    let unready = EndpointSlice { weight: 9, ..slice("shop/a", "web", vec![here("10.244.1.5").unready()]) };
    let ready = EndpointSlice { weight: 2, ..slice("shop/b", "web", vec![here("10.244.1.5")]) };
    let bench = Bench::new([web().into(), unready.into(), ready.into()]);
    let weights: Vec<u16> = bench.port("shop/web").cluster.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [2]);
}

#[test]
fn y11_ten_thousand_endpoints_in_one_service() {
    let slices = (0..100u32).map(|slice_number| {
        let endpoints = (0..100u32).map(|at| {
            here(&std::net::Ipv4Addr::from_bits(0x0af4_0000 + slice_number * 100 + at).to_string())
        });
        slice(&format!("shop/web-{slice_number}"), "web", endpoints.collect()).into()
    });
    let bench = Bench::new([web().into(), node().into()].into_iter().chain(slices));
    assert_eq!(bench.port("shop/web").cluster.len(), 10_000);
}

#[test]
fn an_unreadable_service_is_reported_and_keeps_working() {
    let mut bench = Bench::new([web().into(), slice("shop/s", "web", vec![here("10.244.1.5")]).into()]);
    let event = Event::Undecodable {
        kind: Kind::Service,
        name: Some(name("shop/web")),
        error: "spec.ports: not a list".into(),
    };
    assert!(bench.handle([event]).is_empty());
    assert_eq!(
        bench.problems(),
        ["Service shop/web: spec.ports: not a list; what was known of it stays in force"]
    );
    assert_eq!(bench.appeared.len(), 1);
    bench.handle([applied(web())]);
    assert!(bench.problems().is_empty());
}
