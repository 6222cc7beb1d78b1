//! What kube-proxy's round-robin balancer was tested for (`pkg/proxy/userspace/roundrobin_test.go` until 1.25), with the
//! same names where the behaviour is the same.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Affinities, BoundedMap, Choice, Lease, Service};
use crate::model::{
    Affinity, Endpoint, Frontend, Locality, Protocol, Scheduler, ServicePort, ServicePortName, TrafficPolicy,
    Verdict,
};

fn endpoint(text: &str) -> Endpoint {
    let address: SocketAddr = text.parse().unwrap();
    Endpoint { address: address.ip(), port: address.port(), locality: Locality::Remote, weight: 1 }
}

fn port(name: &str, endpoints: &[&str]) -> ServicePort {
    let mut cluster: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
    cluster.sort();
    ServicePort {
        name: ServicePortName {
            namespace: "testnamespace".into(),
            service: "foo".into(),
            port: name.into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        frontends: [Frontend::ClusterIp([10, 96, 0, 1].into())].into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(TrafficPolicy::Cluster),
        external: Verdict::Reject,
        cluster: cluster.into(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::RoundRobin,
        hashing: Default::default(),
    }
}

fn sticky(endpoints: &[&str], seconds: u32) -> ServicePort {
    let timeout_seconds = NonZeroU32::new(seconds).unwrap();
    ServicePort { affinity: Some(Affinity { timeout_seconds }), ..port("", endpoints) }
}

fn service(port: ServicePort, before: Option<&Service>) -> Service {
    Service::new(&Arc::new(port), before)
}

const A: &str = "10.0.0.1:1";
const B: &str = "10.0.0.1:2";
const C: &str = "10.0.0.3:3";
const CLIENT: &str = "172.18.0.100:5000";

fn lease(service: &Service, client: &str, tried: &[SocketAddr], now: Instant) -> Option<Lease> {
    let client = client.parse().unwrap();
    service.choose(Choice { policy: TrafficPolicy::Cluster, client, tried, draw: 0 }, now)
}

fn pick_at(service: &Service, client: &str, now: Instant) -> Option<String> {
    lease(service, client, &[], now).map(|lease| lease.member().address.to_string())
}

fn pick(service: &Service, client: &str) -> String {
    pick_at(service, client, Instant::now()).unwrap()
}

fn picks(service: &Service, count: usize) -> Vec<String> {
    (0..count).map(|_| pick(service, CLIENT)).collect()
}

#[test]
fn load_balance_fails_with_no_endpoints() {
    assert_eq!(pick_at(&service(port("p", &[]), None), CLIENT, Instant::now()), None);
}

#[test]
fn load_balance_works_with_single_endpoint() {
    let service = service(port("p", &[A]), None);
    assert_eq!(picks(&service, 4), [A, A, A, A]);
}

#[test]
fn load_balance_works_with_multiple_endpoints() {
    let service = service(port("p", &[A, B, C]), None);
    assert_eq!(picks(&service, 4), [A, B, C, A]);
}

/// `MultipleEndpointsMultiplePorts`: each port of a Service has its own turn.
#[test]
fn ports_of_a_service_go_around_on_their_own() {
    let (p, q) = (service(port("p", &[A, B]), None), service(port("q", &[A, C]), None));
    assert_eq!([pick(&p, CLIENT), pick(&q, CLIENT)], [A, A]);
    assert_eq!([pick(&p, CLIENT), pick(&p, CLIENT), pick(&q, CLIENT)], [B, A, C]);
}

#[test]
fn load_balance_works_with_multiple_endpoints_and_updates() {
    let before = service(port("p", &[A, B]), None);
    assert_eq!(picks(&before, 3), [A, B, A]);
    let after = service(port("p", &[B, C]), Some(&before));
    assert_eq!(picks(&after, 3), [B, C, B]);
    let none = service(port("p", &[]), Some(&after));
    assert_eq!(pick_at(&none, CLIENT, Instant::now()), None);
}

#[test]
fn load_balance_works_with_service_removal() {
    let (foo, bar) = (service(port("foo", &[A, B]), None), service(port("bar", &[A, B, C]), None));
    assert_eq!([pick(&foo, CLIENT), pick(&bar, CLIENT)], [A, A]);
    drop(foo);
    assert_eq!(picks(&bar, 3), [B, C, A]);
}

/// `StickyLoadBalanceWorksWithNewServiceCalledFirst` and `…Second`: whatever is known first.
#[test]
fn sticky_load_balance_works_with_a_new_service_before_or_after_its_endpoints() {
    let first = service(sticky(&[], 10), None);
    assert_eq!(pick_at(&first, CLIENT, Instant::now()), None);
    let endpoints_later = service(sticky(&[A, B], 10), Some(&first));
    let affinity_later = service(sticky(&[A, B], 10), Some(&service(port("", &[A, B]), None)));
    for service in [endpoints_later, affinity_later] {
        assert_eq!(picks(&service, 3), [A, A, A]);
        assert_eq!(pick(&service, "127.0.0.1:1"), B);
    }
}

#[test]
fn sticky_load_balance_works_with_multiple_endpoints_and_updates() {
    let before = service(sticky(&[A, B], 10), None);
    let clients = ["127.0.0.1:1", "127.0.0.2:2"];
    assert_eq!(clients.map(|client| pick(&before, client)), [A, B]);
    let (d, e) = ("10.0.0.4:4", "10.0.0.5:5");
    let after = service(sticky(&[d, e], 10), Some(&before));
    let moved = clients.map(|client| pick(&after, client));
    assert!(moved.iter().all(|endpoint| [d, e].contains(&&**endpoint)), "{moved:?}");
    assert_eq!(clients.map(|client| pick(&after, client)), moved);
    let none = service(sticky(&[], 10), Some(&after));
    assert_eq!(pick_at(&none, clients[0], Instant::now()), None);
}

#[test]
fn sticky_load_balance_works_with_multiple_endpoints() {
    let service = service(sticky(&[A, B, C], 10), None);
    let clients = ["127.0.0.1:1", "127.0.0.2:2", "127.0.0.3:3"];
    let first = clients.map(|client| pick(&service, client));
    assert_eq!(first, [A, B, C]);
    for _ in 0..3 {
        assert_eq!(clients.map(|client| pick(&service, client)), first);
    }
    assert_eq!(pick(&service, "127.0.0.2:999"), B, "whatever its port");
}

/// `StickyLoadBalanceWorksWithMultipleEndpointsStickyNone`
#[test]
fn without_affinity_clients_go_around() {
    let service = service(port("p", &[A, B]), None);
    assert_eq!([pick(&service, CLIENT), pick(&service, CLIENT)], [A, B]);
}

#[test]
fn sticky_load_balance_works_with_multiple_endpoints_remove_one() {
    let before = service(sticky(&[A, B, C], 10), None);
    let clients = ["127.0.0.1:1", "127.0.0.2:2", "127.0.0.3:3"];
    assert_eq!(clients.map(|client| pick(&before, client)), [A, B, C]);
    let after = service(sticky(&[A, B], 10), Some(&before));
    let moved = pick(&after, clients[2]);
    assert!(moved == A || moved == B);
    assert_eq!(clients.map(|client| pick(&after, client)), [A, B, &moved]);
    let back = service(sticky(&[A, B, C], 10), Some(&after));
    assert_eq!(clients.map(|client| pick(&back, client)), [A, B, &moved], "who moved stays");
}

#[test]
fn sticky_load_balance_works_with_service_removal() {
    let before = service(sticky(&[A, B], 10), None);
    assert_eq!(pick(&before, CLIENT), A);
    let again = service(sticky(&[B], 10), None);
    assert_eq!(pick(&again, CLIENT), B);
}

#[test]
fn sticky_load_balance_works_with_endpoint_fails() {
    let service = service(sticky(&[A, B, C], 10), None);
    let now = Instant::now();
    let first = lease(&service, CLIENT, &[], now).unwrap().member().address;
    let second = lease(&service, CLIENT, &[first], now).unwrap().member().address;
    assert_ne!(first, second);
    assert_eq!(pick(&service, CLIENT), second.to_string(), "affinity has moved with it");
}

#[test]
fn e9_affinity_ends_with_its_time_since_the_last_connection() {
    let (service, start) = (service(sticky(&[A, B], 10), None), Instant::now());
    let at = |client, seconds| pick_at(&service, client, start + Duration::from_secs(seconds)).unwrap();
    assert_eq!([at(CLIENT, 0), at(CLIENT, 9), at(CLIENT, 18), at(CLIENT, 28)], [A, A, A, A]);
    assert_eq!(at("127.0.0.1:1", 28), B);
    assert_eq!(at(CLIENT, 39), A, "its turn again, by chance of the order");
    assert_eq!(at("127.0.0.1:1", 60), B);
}

fn fail(service: &Service, which: &str, times: usize, now: Instant) {
    let members = service.members();
    let member = members.iter().find(|member| member.address.to_string() == which).unwrap();
    (0..times).for_each(|_| service.failed(member, now));
}

/// Whoever was tried everywhere gets nobody, and it is nobody's turn.
fn first_connection(service: &Service) {
    let all = [A, B, C].map(|endpoint| endpoint.parse().unwrap());
    assert!(lease(service, CLIENT, &all, Instant::now()).is_none());
}

#[test]
fn p2_an_endpoint_that_keeps_failing_is_left_out_for_a_while_and_never_the_last() {
    let (service, start) = (service(port("p", &[A, B]), None), Instant::now());
    let at = |seconds| pick_at(&service, CLIENT, start + Duration::from_secs(seconds)).unwrap();
    first_connection(&service);
    fail(&service, A, 2, start);
    assert_eq!([at(0), at(0)], [A, B], "twice is no habit");
    fail(&service, A, 1, start);
    assert_eq!([at(1), at(1), at(4)], [B, B, B]);
    assert_eq!(service.meter().ejections.get(), 1);
    assert_eq!([at(6), at(6)], [A, B], "tried again after 5 s");
    fail(&service, A, 1, start + Duration::from_secs(6));
    assert_eq!([at(12), at(15)], [B, B], "and out for 10 s");
    assert_eq!([at(17), at(17)], [A, B]);
    fail(&service, A, 1, start + Duration::from_secs(17));
    fail(&service, B, 3, start + Duration::from_secs(17));
    assert_eq!([at(18), at(18)], [A, B], "all of them is none of them");
}

#[test]
fn a_success_is_forgiveness() {
    let (service, now) = (service(port("p", &[A, B]), None), Instant::now());
    first_connection(&service);
    fail(&service, A, 2, now);
    service.members().iter().for_each(|member| member.succeeded());
    fail(&service, A, 2, now);
    assert_eq!([pick(&service, CLIENT), pick(&service, CLIENT)], [A, B]);
}

#[test]
fn connections_are_counted_over_changes() {
    let least =
        |endpoints: &[&str]| ServicePort { scheduler: Scheduler::LeastConnection, ..port("p", endpoints) };
    let (before, now) = (service(least(&[A, B]), None), Instant::now());
    let held: Vec<Lease> = (0..4).map(|_| lease(&before, CLIENT, &[], now).unwrap()).collect();
    let after = service(least(&[A, B, C]), Some(&before));
    let new: Vec<Lease> = (0..2).map(|_| lease(&after, CLIENT, &[], now).unwrap()).collect();
    assert!(new.iter().all(|lease| lease.member().address.to_string() == C));
    drop(held);
    assert_ne!(pick(&after, CLIENT), C);
}

#[test]
fn endpoints_that_leave_with_connections_are_told_and_those_that_stay_keep_theirs() {
    let before = service(port("p", &[A, B]), None);
    assert!(before.members().is_empty() && before.counted().is_none(), "nobody connected yet");
    let held: Vec<Lease> = (0..2).map(|_| lease(&before, CLIENT, &[], Instant::now()).unwrap()).collect();
    let after = service(port("p", &[B, C]), Some(&before));
    let left = before.leave(Some(&after.port));
    assert_eq!(left.iter().map(|member| member.address.to_string()).collect::<Vec<_>>(), [A]);
    assert!(Arc::ptr_eq(&left[0], held[0].member()));
    assert!(before.leave(Some(&after.port)).is_empty(), "told once");
    assert_eq!(picks(&after, 2), [B, C]);
    assert!(after.members().iter().any(|member| Arc::ptr_eq(member, held[1].member())));
    drop(held);
    assert!(after.leave(None).is_empty(), "without connections there is nothing to wait for");
}

/// Between finding a Service and choosing its endpoint, the first client may be overtaken by a change.
#[test]
fn a_first_connection_that_a_change_overtakes_is_counted_by_what_follows() {
    let least = |endpoints: &[&str]| ServicePort {
        scheduler: Scheduler::LeastConnection,
        affinity: sticky(&[], 10).affinity,
        ..port("p", endpoints)
    };
    let before = service(least(&[A, B]), None);
    let after = service(least(&[A, B, C]), Some(&before));
    let held = lease(&before, CLIENT, &[], Instant::now()).unwrap();
    assert_eq!(held.member().address.to_string(), A);
    assert_eq!(pick(&after, CLIENT), A, "its client is known");
    let others = ["127.0.0.1:1", "127.0.0.2:1"].map(|client| pick(&after, client));
    assert!(!others.contains(&A.to_owned()), "it has a connection: {others:?}");
}

#[test]
fn a_bounded_map_forgets_who_was_not_asked_for() {
    let mut map = BoundedMap::new(3);
    assert_eq!((0..3).filter_map(|key| map.insert(key, key)).count(), 0);
    assert_eq!(map.get(&0), Some(&mut 0));
    assert_eq!((map.insert(3, 3), map.insert(4, 4)), (Some(1), Some(2)));
    assert_eq!((map.len(), map.get(&0).copied(), map.get(&1).copied()), (3, Some(0), None));
    assert!((0..100_000).filter_map(|key| map.insert(key, key)).count() > 99_990);
    assert_eq!(map.len(), 3);
    (0..100_000).for_each(|key| {
        map.insert(key, key);
        map.remove(&key);
    });
    assert!(map.is_empty());
}

#[test]
fn a_flood_of_clients_is_remembered_up_to_a_limit() {
    let (mut affinities, now) = (Affinities::default(), Instant::now());
    let endpoint: SocketAddr = A.parse().unwrap();
    let hour = Duration::from_secs(3600);
    for client in 0..100_000u32 {
        affinities.note(std::net::Ipv4Addr::from(client).into(), endpoint, now);
    }
    assert_eq!(affinities.of(std::net::Ipv4Addr::from(99_999).into(), hour, now), Some(endpoint));
    assert_eq!(affinities.of(std::net::Ipv4Addr::from(0).into(), hour, now), None);
}
