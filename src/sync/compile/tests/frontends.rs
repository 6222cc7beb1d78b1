//! Where a Service is reached, and where it may not be.

use crate::model::{
    Destination, Frontend, FrontendKey, LocalTraffic, NodePortAddresses, Protocol, ServicePortName,
};
use crate::sync::builders::{
    applied, here, ips, load_balancer, node, node_port_service, port, service, service_cidr, slice,
};
use crate::sync::objects::{FieldProblem, Kind, Node, Service, ServiceKind};

use super::*;

fn frontends(bench: &Bench, family: Family) -> Vec<String> {
    bench.tables[family as usize].frontends().keys().map(ToString::to_string).collect()
}

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn networks<L: FromIterator<IpNet>>(texts: &[&str]) -> L {
    texts.iter().map(|text| network(text)).collect()
}

/// Both families of everything.
fn dual() -> Service {
    Service {
        external_ips: ips(&["203.0.113.1", "2001:db8::1"]),
        ports: [port("", Protocol::Tcp, 80, 30080)].into(),
        ..load_balancer("shop/web", &["10.96.0.10", "fd00:96::10"], &["203.0.113.10", "2001:db8::10"])
    }
}

#[test]
fn each_kind_of_service_has_its_frontends() {
    let kinds = [
        (service("shop/web", &["10.96.0.10"]), vec!["10.96.0.10:80/TCP"]),
        (node_port_service("shop/web", &["10.96.0.10"], 30080), vec!["10.96.0.10:80/TCP", "node:30080/TCP"]),
        (
            load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"]),
            vec!["10.96.0.10:80/TCP", "203.0.113.10:80/TCP"],
        ),
        (
            Service { external_ips: ips(&["203.0.113.1"]), ..service("shop/web", &["10.96.0.10"]) },
            vec!["10.96.0.10:80/TCP", "203.0.113.1:80/TCP"],
        ),
    ];
    for (service, expected) in kinds {
        assert_eq!(frontends(&Bench::new([service.into()]), Family::V4), expected);
    }
}

#[test]
fn every_port_is_reached_at_every_address() {
    let service = Service {
        ports: [port("a", Protocol::Tcp, 80, 30080), port("b", Protocol::Udp, 53, 30053)].into(),
        ..load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"])
    };
    let bench = Bench::new([service.into()]);
    assert_eq!(bench.tables[0].frontends().len(), 6);
    assert_eq!(bench.tables[0].ports().len(), 2);
}

#[test]
fn y13_addresses_go_to_their_family_and_nothing_is_said() {
    let bench = Bench::new([dual().into()]);
    assert_eq!(
        frontends(&bench, Family::V4),
        ["10.96.0.10:80/TCP", "203.0.113.1:80/TCP", "203.0.113.10:80/TCP", "node:30080/TCP"]
    );
    assert_eq!(
        frontends(&bench, Family::V6),
        ["[2001:db8::1]:80/TCP", "[2001:db8::10]:80/TCP", "[fd00:96::10]:80/TCP", "node:30080/TCP"]
    );
    assert!(bench.problems().is_empty());
}

#[test]
fn y13_a_family_without_a_cluster_ip_has_nothing() {
    let bench = Bench::new([Service { cluster_ips: ips(&["fd00:96::10"]), ..dual() }.into()]);
    assert!(frontends(&bench, Family::V4).is_empty());
    assert_eq!(frontends(&bench, Family::V6).len(), 4);
    assert!(bench.problems().is_empty());
}

#[test]
fn y14_a_table_of_one_family_alone_will_do() {
    let mut bench = Bench::new([dual().into()]);
    let mut alone = [ServiceTable::new(Family::V6)];
    bench.store.handle(applied(Service { created: 7, ..dual() }));
    let changed = bench.store.take_changed();
    Compiler::new(settings()).recompile(&bench.store, &changed, &mut alone);
    assert_eq!(alone[0].frontends().len(), 4);
}

#[test]
fn only_load_balancers_have_load_balancer_addresses() {
    let service = Service { kind: ServiceKind::ClusterIp, external_ips: [].into(), ..dual() };
    let bench = Bench::new([service.into()]);
    assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "node:30080/TCP"]);
}

#[test]
fn an_address_that_is_given_twice_is_one_frontend_and_keeps_its_guard() {
    let service = Service {
        external_ips: ips(&["203.0.113.10", "10.96.0.10", "203.0.113.10"]),
        ..load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"])
    };
    let bench = Bench::new([service.into()]);
    let expected = [Frontend::ClusterIp(ip("10.96.0.10")), Frontend::LoadBalancer(ip("203.0.113.10"))];
    assert_eq!(*bench.port("shop/web").frontends, expected);
    assert!(bench.problems().is_empty());
}

#[test]
fn l7_external_ips_outside_the_allowed_networks_are_refused() {
    let service = || Service {
        external_ips: ips(&["192.0.2.2", "203.0.113.1"]),
        ..service("shop/web", &["10.96.0.10"])
    };
    let bench = Bench::new([service().into()]);
    assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "203.0.113.1:80/TCP"]);
    assert_eq!(
        bench.problems(),
        ["Service shop/web: spec.externalIPs[0]: 192.0.2.2 is not in --allowed-external-ips"]
    );
    let nothing_allowed = Settings { allowed_external_ips: vec![], ..settings() };
    let bench = Bench::with(nothing_allowed, [service().into()]);
    assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP"]);
    assert_eq!(bench.reasons(), [(Reason::ExternalIpNotAllowed, 2)]);
}

mod forbidden {
    use super::*;

    fn refused(service: Service) -> Vec<String> {
        let everything = Settings { allowed_external_ips: networks(&["0.0.0.0/0", "::/0"]), ..settings() };
        let bench = Bench::with(everything, [service.into(), node().into()]);
        assert!(bench.reasons().iter().all(|(reason, _)| *reason == Reason::ForbiddenFrontend));
        bench.problems()
    }

    #[test]
    fn s2_the_nodes_own_addresses_are_nobodys() {
        assert_eq!(
            refused(load_balancer("shop/web", &["10.96.0.10"], &["172.18.0.2"])),
            ["Service shop/web: status.loadBalancer.ingress[].ip: 172.18.0.2 is an address of node here"]
        );
        assert_eq!(
            refused(Service { external_ips: ips(&["172.18.0.2"]), ..service("shop/web", &["10.96.0.10"]) }),
            ["Service shop/web: spec.externalIPs[0]: 172.18.0.2 is an address of node here"]
        );
        assert_eq!(
            refused(service("shop/web", &["172.18.0.2"])),
            ["Service shop/web: spec.clusterIPs[0]: 172.18.0.2 is an address of node here"]
        );
    }

    #[test]
    fn s2_nor_are_those_of_its_pods() {
        assert_eq!(
            refused(load_balancer("shop/web", &["10.96.0.10"], &["10.244.1.77"])),
            [
                "Service shop/web: status.loadBalancer.ingress[].ip: 10.244.1.77 is an address for pods of node here"
            ]
        );
    }

    #[test]
    fn localhost_and_the_like() {
        for address in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(refused(load_balancer("shop/web", &["10.96.0.10"], &[address])).len(), 1, "{address}");
        }
    }

    #[test]
    fn other_frontends_of_the_service_go_on() {
        let service = load_balancer("shop/web", &["10.96.0.10"], &["127.0.0.1", "203.0.113.10"]);
        let bench = Bench::new([service.into()]);
        assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "203.0.113.10:80/TCP"]);
    }

    #[test]
    fn an_address_that_something_else_put_on_an_interface_is_not_the_nodes() {
        // keepalived and kube-vip put load balancer addresses on one node's interface after the other.
        let mut bench =
            Bench::new([load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"]).into(), node().into()]);
        bench.compiler.set_addresses(ips(&["172.18.0.2", "203.0.113.10"]));
        bench.recompile();
        assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "203.0.113.10:80/TCP"]);
    }

    #[test]
    fn a_node_that_gets_an_address_takes_it_from_services() {
        let mut bench =
            Bench::new([load_balancer("shop/web", &["10.96.0.10"], &["203.0.113.10"]).into(), node().into()]);
        let moved = Node { addresses: ips(&["203.0.113.10"]), ..node() };
        assert_eq!(bench.handle([applied(moved)]), ["shop/web/TCP"]);
        assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP"]);
        assert_eq!(bench.handle([applied(node())]), ["shop/web/TCP"]);
        assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "203.0.113.10:80/TCP"]);
    }
}

mod impossible_ports {
    use super::*;

    fn problems(ports: &[crate::sync::objects::ServicePortSpec]) -> Vec<String> {
        let service = Service { ports: ports.into(), ..service("shop/web", &["10.96.0.10", "fd00:96::10"]) };
        let bench = Bench::new([service.into()]);
        assert_eq!(bench.tables[0].ports().len() + bench.problems().len(), ports.len());
        bench.problems()
    }

    #[test]
    fn zero_is_reported_once_and_the_others_work() {
        let ports = [port("a", Protocol::Tcp, 0, 0), port("b", Protocol::Tcp, 80, 0)];
        assert_eq!(problems(&ports), ["Service shop/web: spec.ports[0].port: 0 is not a port number"]);
    }

    #[test]
    fn the_same_twice_in_one_service_goes_to_the_first() {
        let first = || port("a", Protocol::Tcp, 80, 30080);
        assert_eq!(
            problems(&[first(), port("a", Protocol::Tcp, 81, 0)]),
            ["Service shop/web: spec.ports[1].name: \"a\" is that of spec.ports[0] already"]
        );
        assert_eq!(
            problems(&[first(), port("b", Protocol::Tcp, 80, 0)]),
            ["Service shop/web: spec.ports[1].port: 80/TCP is that of spec.ports[0] already"]
        );
        assert_eq!(
            problems(&[first(), port("b", Protocol::Tcp, 81, 30080)]),
            ["Service shop/web: spec.ports[1].nodePort: 30080/TCP is that of spec.ports[0] already"]
        );
        assert!(problems(&[first(), port("a", Protocol::Udp, 80, 30080)]).is_empty());
    }

    #[test]
    fn a_service_without_ports_is_none() {
        assert!(problems(&[]).is_empty());
    }

    #[test]
    fn what_the_source_could_not_read_is_reported() {
        let problem = FieldProblem {
            field: "spec.ports[0].port".into(),
            reason: Reason::Malformed,
            message: "70000 is not a port number".into(),
        };
        let service = Service { problems: [problem].into(), ..service("shop/web", &["10.96.0.10"]) };
        let bench = Bench::new([service.into()]);
        assert_eq!(bench.problems(), ["Service shop/web: spec.ports[0].port: 70000 is not a port number"]);
        assert_eq!(bench.appeared.len(), 1);
    }
}

#[test]
fn y1_names_of_any_length_pass_through() {
    let long = "x".repeat(300);
    let bench = Bench::new([service(&format!("shop/{long}"), &["10.96.0.10"]).into()]);
    let name = ServicePortName {
        namespace: "shop".into(),
        service: long.as_str().into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    };
    assert!(bench.tables[0].get(&name).is_some());
}

mod source_ranges {
    use super::*;

    fn sources_of(service: Service) -> [Option<Vec<String>>; 2] {
        let bench = Bench::new([service.into(), node().into()]);
        Family::ALL.map(|family| {
            let sources = bench.port_in(family, "shop/web").load_balancer_sources.as_ref();
            sources.map(|sources| sources.iter().map(ToString::to_string).collect())
        })
    }

    fn with(ranges: &[&str]) -> Service {
        Service { load_balancer_sources: networks(ranges), ..dual() }
    }

    #[test]
    fn are_of_their_family() {
        let sources = sources_of(with(&["198.51.100.0/24", "192.0.2.0/24", "2001:db8:1::/48"]));
        assert_eq!(sources[0], Some(vec!["192.0.2.0/24".into(), "198.51.100.0/24".into()]));
        assert_eq!(sources[1], Some(vec!["2001:db8:1::/48".into()]));
    }

    #[test]
    fn none_and_zero_length_prefixes_allow_everybody() {
        assert_eq!(sources_of(with(&[])), [None, None]);
        assert_eq!(sources_of(with(&["192.0.2.0/24", "0.0.0.0/0"])), [None, None]);
        assert_eq!(sources_of(with(&["192.0.2.0/24", "::/0"]))[1], None);
    }

    #[test]
    fn with_the_node_in_them_the_load_balancers_own_address_is_allowed() {
        let sources = sources_of(with(&["172.18.0.0/16", "2001:db8:1::/48"]));
        assert_eq!(sources[0], Some(vec!["172.18.0.0/16".into(), "203.0.113.10/32".into()]));
        assert_eq!(sources[1], Some(vec!["2001:db8:1::/48".into()]));
    }

    #[test]
    fn s5_ranges_of_which_none_could_be_read_let_nobody_in() {
        let problem = FieldProblem {
            field: "spec.loadBalancerSourceRanges[0]".into(),
            reason: Reason::Malformed,
            message: "\"10.0.0.0/33\" is not a network".into(),
        };
        let service = Service { problems: [problem].into(), ..with(&[]) };
        assert_eq!(sources_of(service), [Some(vec![]), Some(vec![])]);
    }

    #[test]
    fn guard_load_balancer_addresses_alone() {
        let service = Service {
            load_balancer_sources: networks(&["192.0.2.0/24"]),
            ..node_port_service("shop/web", &["10.96.0.10"], 30080)
        };
        let bench = Bench::new([service.into()]);
        assert_eq!(bench.port("shop/web").load_balancer_sources, None);
    }
}

mod the_node {
    use super::*;

    fn policy(settings: Settings, node: Option<Node>) -> crate::model::NodePolicy {
        let bench = Bench::with(settings, node.into_iter().map(Into::into));
        bench.tables[0].node().clone()
    }

    #[test]
    fn primary_is_the_first_address_of_each_family() {
        let primary = || Settings { node_port_addresses: NodePortSetting::Primary, ..settings() };
        let several = Node { addresses: ips(&["172.18.0.2", "198.51.100.2", "fd00:18::2"]), ..node() };
        assert_eq!(
            policy(primary(), Some(several)).node_ports,
            NodePortAddresses::In(networks(&["172.18.0.2/32", "fd00:18::2/128"]))
        );
        assert_eq!(policy(primary(), None).node_ports, NodePortAddresses::In(vec![]));
        let bound = Settings { node_addresses: vec![ip("198.51.100.2")], ..primary() };
        assert_eq!(
            policy(bound, Some(node())).node_ports,
            NodePortAddresses::In(networks(&["198.51.100.2/32", "fd00:18::2/128"]))
        );
    }

    #[test]
    fn node_cidr_is_what_the_node_has_now() {
        let settings = || Settings { detect_local: DetectLocal::NodeCidr, ..settings() };
        let pods = networks(&["10.244.1.0/24", "fd00:244:1::/64"]);
        assert_eq!(policy(settings(), Some(node())).local_traffic, LocalTraffic::Sources(pods));
        assert!(!policy(settings(), None).local_traffic.detects(Family::V4));
    }

    #[test]
    fn every_detect_local_mode_has_its_place() {
        let detected = |detect_local| policy(Settings { detect_local, ..settings() }, None).local_traffic;
        assert_eq!(detected(DetectLocal::None), LocalTraffic::Undetected);
        assert_eq!(
            detected(DetectLocal::BridgeInterface("br0".into())),
            LocalTraffic::Interface("br0".into())
        );
        let prefix = DetectLocal::InterfaceNamePrefix("veth".into());
        assert_eq!(detected(prefix), LocalTraffic::InterfacePrefix("veth".into()));
    }

    #[test]
    fn interface_addresses_come_without_loopback_and_link_local() {
        assert_eq!(policy(settings(), None).addresses, [ip("172.18.0.2"), ip("fd00:18::2")]);
    }

    #[test]
    fn a_new_interface_address_changes_the_node_and_no_service() {
        let mut bench = Bench::new([dual().into(), node().into()]);
        let before = std::sync::Arc::clone(bench.tables[0].ports().next().unwrap());
        bench.compiler.set_addresses(vec![ip("172.18.0.2"), ip("198.51.100.2")]);
        bench.recompile();
        assert!(bench.tables[0].node().addresses.contains(&ip("198.51.100.2")));
        assert!(std::sync::Arc::ptr_eq(&before, bench.tables[0].ports().next().unwrap()));
    }

    #[test]
    fn service_cidrs_are_one_set_of_networks_and_concern_no_service() {
        let cidr = |name: &str, networks: &[&str]| applied(service_cidr(name, networks));
        let mut bench = Bench::new([dual().into(), node().into()]);
        let before = std::sync::Arc::clone(bench.tables[0].ports().next().unwrap());
        bench.handle([
            cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112"]),
            cidr("within", &["10.96.3.0/24"]),
            cidr("beside", &["10.97.0.0/16"]),
        ]);
        let networks = |bench: &Bench| {
            let networks = &bench.tables[0].node().service_networks;
            networks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(networks(&bench), ["10.96.0.0/15", "fd00:96::/112"]);
        assert!(!bench.tables[0].is_settled(), "the modes hear of it");
        assert!(std::sync::Arc::ptr_eq(&before, bench.tables[0].ports().next().unwrap()));
        assert!(bench.handle([cidr("within", &["10.96.4.0/24"])]).is_empty(), "that changes nothing");
    }

    #[test]
    fn pods_that_come_and_go_change_nothing() {
        let mut bench = Bench::new([dual().into(), slice("shop/s", "web", vec![here("10.244.1.5")]).into()]);
        bench.compiler.set_addresses(["172.18.0.2", "fd00:18::2", "fe80::abcd"].map(ip).into());
        assert!(bench.handle([]).is_empty());
    }
}

#[test]
fn changing_a_service_changes_its_ports_alone() {
    let mut bench = Bench::new([dual().into(), service("shop/api", &["10.96.0.11"]).into()]);
    let changed = Service { affinity_timeout_seconds: Some(60), ..dual() };
    assert_eq!(bench.handle([applied(changed)]), ["shop/web/TCP"]);
    assert_eq!(bench.handle([applied(service("shop/web", &["10.96.0.10"]))]), ["shop/web/TCP"]);
    assert_eq!(frontends(&bench, Family::V4), ["10.96.0.10:80/TCP", "10.96.0.11:80/TCP"]);
    assert_eq!(
        bench.handle([Event::Deleted(Kind::Service, crate::sync::builders::name("shop/web"))]),
        ["shop/web/TCP"]
    );
    assert!(!bench.has("shop/web"));
    let key = FrontendKey {
        destination: Destination::Address(ip("10.96.0.10")),
        protocol: Protocol::Tcp,
        port: 80,
    };
    assert!(bench.tables[0].frontends().get(&key).is_none());
}
