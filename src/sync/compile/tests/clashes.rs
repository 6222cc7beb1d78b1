//! One address and port, several Services.

use crate::model::Protocol;
use crate::sync::builders::{applied, ips, load_balancer, name, node_port_service, port, service};
use crate::sync::objects::{Kind, Service};

use super::*;

/// A Service that wants 203.0.113.1:80 beside its own ClusterIP.
fn external(full_name: &str, cluster_ip: &str, created: i64) -> Service {
    Service { created, external_ips: ips(&["203.0.113.1"]), ..service(full_name, &[cluster_ip]) }
}

/// Who has a frontend, of the IPv4 table, as it prints.
fn owner(bench: &Bench, frontend: &str) -> Option<String> {
    let mut frontends = bench.tables[0].frontends().iter();
    frontends
        .find(|(key, _)| key.to_string() == frontend)
        .map(|(_, port)| port.name.service_name().to_string())
}

const CONTESTED: &str = "203.0.113.1:80/TCP";

fn old() -> Service {
    external("shop/old", "10.96.0.10", 1)
}

fn young() -> Service {
    external("shop/a-younger", "10.96.0.11", 2)
}

#[test]
fn l8_the_oldest_keeps_it_whichever_came_first() {
    for services in [[old(), young()], [young(), old()]] {
        let bench = Bench::new(services.map(Into::into));
        assert_eq!(owner(&bench, CONTESTED), Some("shop/old".into()));
        assert_eq!(
            bench.appeared_texts(),
            ["Service shop/a-younger: spec.externalIPs[0]: 203.0.113.1:80/TCP belongs to Service shop/old"]
        );
    }
}

#[test]
fn l8_a_younger_one_that_comes_later_steals_nothing() {
    let mut bench = Bench::new([old().into()]);
    assert_eq!(bench.handle([applied(young())]), ["shop/a-younger/TCP"]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/old".into()));
    assert_eq!(bench.appeared.len(), 1);
}

#[test]
fn an_older_one_that_becomes_known_later_takes_it() {
    let mut bench = Bench::new([young().into()]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/a-younger".into()));
    assert_eq!(bench.handle([applied(old())]), ["shop/a-younger/TCP", "shop/old/TCP"]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/old".into()));
    assert_eq!(
        *bench.port("shop/a-younger").frontends,
        [crate::model::Frontend::ClusterIp(ip("10.96.0.11"))]
    );
}

#[test]
fn when_the_winner_goes_the_next_has_it() {
    let middle = external("shop/middle", "10.96.0.12", 2);
    let mut bench = Bench::new([old().into(), young().into(), Service { uid: "0".into(), ..middle }.into()]);
    assert_eq!(bench.reasons(), [(Reason::AddressInUse, 2)]);
    bench.handle([Event::Deleted(Kind::Service, name("shop/old"))]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/middle".into()), "as old, but its uid comes first");
    bench.handle([applied(Service { external_ips: [].into(), ..external("shop/middle", "10.96.0.12", 2) })]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/a-younger".into()));
    assert!(bench.problems().is_empty());
}

#[test]
fn the_same_age_is_decided_by_uid_and_then_by_name() {
    let twin = |name: &str, cluster_ip: &str, uid: &str| Service {
        uid: uid.into(),
        ..external(name, cluster_ip, 1)
    };
    let bench = Bench::new([twin("a/x", "10.96.0.10", "2").into(), twin("b/x", "10.96.0.11", "1").into()]);
    assert_eq!(owner(&bench, CONTESTED), Some("b/x".into()));
    let bench = Bench::new([twin("b/x", "10.96.0.10", "1").into(), twin("a/x", "10.96.0.11", "1").into()]);
    assert_eq!(owner(&bench, CONTESTED), Some("a/x".into()));
}

#[test]
fn y16_created_again_in_one_batch_it_is_the_youngest() {
    let mut bench = Bench::new([old().into(), young().into()]);
    let again = Service { created: 9, uid: "new".into(), ..old() };
    bench.handle([Event::Deleted(Kind::Service, name("shop/old")), applied(again)]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/a-younger".into()));
}

#[test]
fn other_ports_of_a_shared_address_are_no_clash() {
    let other = Service { ports: [port("", Protocol::Tcp, 443, 0)].into(), ..young() };
    let udp =
        Service { ports: [port("", Protocol::Udp, 80, 0)].into(), ..external("shop/udp", "10.96.0.12", 3) };
    let bench = Bench::new([old().into(), other.into(), udp.into()]);
    assert_eq!(bench.tables[0].frontends().len(), 6);
    assert!(bench.problems().is_empty());
}

#[test]
fn a_load_balancers_address_and_an_external_ip_clash_too() {
    let bench = Bench::new([
        Service { created: 5, ..load_balancer("shop/web", &["10.96.0.12"], &["203.0.113.1"]) }.into(),
        old().into(),
    ]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/old".into()));
    assert!(bench.problems()[0].starts_with("Service shop/web: status.loadBalancer.ingress[].ip: "));
}

#[test]
fn node_ports_belong_to_a_protocol_and_a_number_in_each_family() {
    let one = Service { created: 1, ..node_port_service("shop/one", &["10.96.0.10"], 30080) };
    let two = Service { created: 2, ..node_port_service("shop/two", &["10.96.0.11", "fd00:96::11"], 30080) };
    let udp = Service {
        ports: [port("", Protocol::Udp, 80, 30080)].into(),
        ..node_port_service("shop/udp", &["10.96.0.12"], 0)
    };
    let bench = Bench::new([one.into(), two.into(), udp.into()]);
    assert_eq!(owner(&bench, "node:30080/TCP"), Some("shop/one".into()));
    assert_eq!(owner(&bench, "node:30080/UDP"), Some("shop/udp".into()));
    assert_eq!(bench.tables[1].frontends().len(), 2, "nobody else wants it in IPv6");
    assert_eq!(
        bench.appeared_texts(),
        ["Service shop/two: spec.ports[0].nodePort: node:30080/TCP belongs to Service shop/one"]
    );
}

#[test]
fn a_service_that_loses_all_it_asked_for_has_no_port() {
    let mut bench = Bench::new([
        Service { created: 1, ..service("shop/one", &["10.96.0.10"]) }.into(),
        Service { created: 2, ..service("shop/two", &["10.96.0.10"]) }.into(),
    ]);
    assert!(!bench.has("shop/two"));
    assert_eq!(
        bench.appeared_texts(),
        ["Service shop/two: spec.clusterIPs[0]: 10.96.0.10:80/TCP belongs to Service shop/one"]
    );
    bench.handle([Event::Deleted(Kind::Service, name("shop/one"))]);
    assert!(bench.has("shop/two"));
}

mod cluster_ips {
    use super::*;

    const DNS: &str = "203.0.113.1";

    fn victim() -> Service {
        Service { created: 9, ..service("kube-system/dns", &[DNS]) }
    }

    #[test]
    fn s2_of_another_service_are_refused_on_every_port() {
        let thief = Service { ports: [port("", Protocol::Tcp, 8443, 0)].into(), ..old() };
        for services in [[thief.clone(), victim()], [victim(), thief]] {
            let bench = Bench::new(services.map(Into::into));
            assert_eq!(owner(&bench, "203.0.113.1:8443/TCP"), None);
            assert_eq!(
                bench.appeared_texts(),
                [
                    "Service shop/old: spec.externalIPs[0]: 203.0.113.1 is the ClusterIP of Service kube-system/dns"
                ]
            );
            assert_eq!(bench.reasons(), [(Reason::ForbiddenFrontend, 1)]);
        }
    }

    #[test]
    fn win_over_older_claims_when_they_appear() {
        let mut bench = Bench::new([old().into()]);
        assert_eq!(bench.handle([applied(victim())]), ["kube-system/dns/TCP", "shop/old/TCP"]);
        assert_eq!(owner(&bench, CONTESTED), Some("kube-system/dns".into()));
    }

    #[test]
    fn leave_the_address_free_when_they_go() {
        let mut bench = Bench::new([old().into(), young().into(), victim().into()]);
        assert_eq!(bench.reasons(), [(Reason::ForbiddenFrontend, 2)]);
        bench.handle([Event::Deleted(Kind::Service, name("kube-system/dns"))]);
        assert_eq!(owner(&bench, CONTESTED), Some("shop/old".into()));
        assert_eq!(bench.reasons(), [(Reason::AddressInUse, 1)]);
    }

    #[test]
    fn of_the_service_itself_may_be_named_again() {
        let service = Service { external_ips: ips(&[DNS]), ..victim() };
        let bench = Bench::new([service.into()]);
        assert!(bench.problems().is_empty());
    }
}

#[test]
fn a_problem_names_the_owner_when_it_appears_and_is_no_new_one_when_that_changes() {
    let mut bench = Bench::new([external("shop/older", "10.96.0.12", 0).into(), young().into()]);
    assert_eq!(bench.appeared.len(), 1);
    bench.handle([applied(old())]);
    bench.handle([Event::Deleted(Kind::Service, name("shop/older"))]);
    assert!(bench.appeared.is_empty());
    assert_eq!(
        bench.problems(),
        ["Service shop/a-younger: spec.externalIPs[0]: 203.0.113.1:80/TCP belongs to another Service"]
    );
}

#[test]
fn a_thousand_claims_on_one_address_have_one_owner() {
    let claims = (0..1_000).map(|at| {
        external(&format!("shop/s{at}"), &format!("10.96.{}.{}", at / 250, at % 250 + 1), 1_000 - at).into()
    });
    let mut bench = Bench::new(claims);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/s999".into()));
    assert_eq!(bench.reasons(), [(Reason::AddressInUse, 999)]);
    bench.handle([Event::Deleted(Kind::Service, name("shop/s999"))]);
    assert_eq!(owner(&bench, CONTESTED), Some("shop/s998".into()));
}
