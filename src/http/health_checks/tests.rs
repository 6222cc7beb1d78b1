use std::sync::Mutex;

use super::super::testing::{Received, free_port, get, on_loopback, try_exchange, within};
use super::*;
use crate::health::NodeEligibility;
use crate::model::NodePolicy;

fn name(name: &str) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: name.into() }
}

fn checks(services: &[(&str, u16, usize)]) -> HealthChecks {
    let services = services.iter().map(|(service, node_port, local_endpoints)| {
        let check = HealthCheck { node_port: *node_port, local_endpoints: *local_endpoints };
        (name(service), check)
    });
    HealthChecks { addresses: vec![[127, 0, 0, 1].into()], services: services.collect() }
}

type Reports = Arc<Mutex<Vec<(ServiceName, u16)>>>;

/// Health check node ports under the test's control.
struct Node {
    wanted: watch::Sender<HealthChecks>,
    health: Arc<Health>,
    metrics: Metrics,
    reports: Reports,
}

impl Node {
    fn start(first: HealthChecks) -> Self {
        let (wanted, receiver) = watch::channel(first);
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Metrics::new(Instant::now()).unwrap();
        let reports = Reports::default();
        let to = Arc::clone(&reports);
        let report = move |service: &ServiceName, error: &BindError| {
            to.lock().unwrap().push((service.clone(), error.address.port()));
        };
        tokio::spawn(serve_health_checks(Family::V4, receiver, Arc::clone(&health), metrics.clone(), report));
        Node { wanted, health, metrics, reports }
    }

    fn unbound(&self) -> i64 {
        self.metrics.own.health_check_node_ports_unbound.of(Family::V4).get()
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The answer, once there is one that will do.
async fn get_until(port: u16, is_wanted: impl Fn(&Received) -> bool) -> Received {
    let attempts = async {
        loop {
            let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            match try_exchange(local(port), request).await {
                Ok(answer) if is_wanted(&answer) => return answer,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    within(attempts).await
}

async fn until_closed(port: u16) {
    let attempts = async {
        while tokio::net::TcpStream::connect(local(port)).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(attempts).await;
}

#[tokio::test]
async fn the_answer_is_byte_for_byte_that_of_kube_proxy() {
    let port = free_port();
    let node = Node::start(checks(&[("svc", port, 2)]));
    get_until(port, |_| true).await;
    let answer = get(local(port), "/any/path?at=all").await;
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"svc\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!((answer.status, answer.body.as_str()), (200, expected));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("2"));
    drop(node);
}

/// Row E6 of the faults, its rules one by one.
#[tokio::test]
async fn e6_only_a_healthy_proxy_with_endpoints_on_a_node_that_stays_says_200() {
    let port = free_port();
    let node = Node::start(checks(&[("svc", port, 1)]));
    assert_eq!(get_until(port, |_| true).await.status, 200);
    node.wanted.send_replace(checks(&[("svc", port, 0)]));
    let answer = get(local(port), "/").await;
    assert_eq!((answer.status, answer.header("x-load-balancing-endpoint-weight")), (503, Some("0")));
    node.wanted.send_replace(checks(&[("svc", port, 1)]));
    assert_eq!(get(local(port), "/").await.status, 200);
    node.health.degraded(Family::V4, "broken");
    let answer = get(local(port), "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("\"serviceProxyHealthy\": false"));
    node.health.synced(Family::V4, std::time::SystemTime::now());
    node.health.set_node(Some(NodeEligibility::Leaving));
    assert_eq!(get(local(port), "/").await.status, 503);
    node.health.set_node(Some(NodeEligibility::Eligible));
    assert_eq!(get(local(port), "/").await.status, 200);
}

#[tokio::test]
async fn e6_listeners_come_and_go_with_their_services() {
    let (first, second) = (free_port(), free_port());
    let node = Node::start(checks(&[("a", first, 1)]));
    get_until(first, |_| true).await;
    node.wanted.send_replace(checks(&[("a", first, 1), ("b", second, 1)]));
    get_until(second, |answer| answer.body.contains("\"b\"")).await;
    node.wanted.send_replace(checks(&[("b", second, 1)]));
    until_closed(first).await;
    assert_eq!(get(local(second), "/").await.status, 200);
    node.wanted.send_replace(checks(&[]));
    until_closed(second).await;
    assert_eq!(*node.reports.lock().unwrap(), []);
}

#[tokio::test]
async fn a_port_may_go_from_one_service_to_another() {
    let (port, other) = (free_port(), free_port());
    let node = Node::start(checks(&[("a", port, 1)]));
    get_until(port, |answer| answer.body.contains("\"a\"")).await;
    node.wanted.send_replace(checks(&[("a", other, 1), ("b", port, 1)]));
    get_until(port, |answer| answer.body.contains("\"b\"")).await;
    get_until(other, |answer| answer.body.contains("\"a\"")).await;
    assert_eq!(*node.reports.lock().unwrap(), [], "the port was free when it was needed");
}

#[tokio::test]
async fn e6_a_port_in_use_is_reported_once_and_taken_when_free() {
    let (taken, address) = on_loopback();
    let free = free_port();
    let node = Node::start(checks(&[("blocked", address.port(), 1), ("works", free, 1)]));
    get_until(free, |answer| answer.status == 200).await;
    sleep(RETRY * 3).await;
    assert_eq!(*node.reports.lock().unwrap(), [(name("blocked"), address.port())]);
    assert_eq!(node.unbound(), 1);
    drop(taken);
    let start = Instant::now();
    get_until(address.port(), |answer| answer.status == 200).await;
    assert!(start.elapsed() <= Duration::from_secs(5), "it took {:?}", start.elapsed());
    assert_eq!(node.unbound(), 0);
}

#[tokio::test]
async fn e6_of_two_services_with_one_port_the_first_by_name_has_it() {
    let port = free_port();
    let node = Node::start(checks(&[("b", port, 1), ("a", port, 1)]));
    get_until(port, |answer| answer.body.contains("\"a\"")).await;
    assert_eq!(*node.reports.lock().unwrap(), [(name("b"), port)]);
    node.wanted.send_replace(checks(&[("b", port, 1)]));
    get_until(port, |answer| answer.body.contains("\"b\"")).await;
}

#[tokio::test]
async fn everything_is_closed_when_the_loop_is_gone() {
    let port = free_port();
    let Node { wanted, .. } = Node::start(checks(&[("a", port, 1)]));
    get_until(port, |_| true).await;
    drop(wanted);
    until_closed(port).await;
}

#[tokio::test]
async fn both_families_may_have_the_wildcard_address_of_a_port() {
    let port = free_port();
    let _v4 = listen(SocketAddr::new(Family::V4.unspecified(), port), Families::One).unwrap();
    let _v6 = listen(SocketAddr::new(Family::V6.unspecified(), port), Families::One).unwrap();
}

#[test]
fn they_listen_where_node_ports_do() {
    let addresses = ["10.0.0.1", "127.0.0.1", "192.0.2.1", "fd00::1"].map(|text| text.parse().unwrap());
    let listening = |family, node_ports| {
        let mut table = ServiceTable::new(family);
        let node = NodePolicy { node_ports, addresses: addresses.to_vec(), ..NodePolicy::default() };
        table.set_node(node);
        HealthChecks::of(&table).addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
    };
    let networks =
        |texts: &[&str]| NodePortAddresses::In(texts.iter().map(|text| text.parse().unwrap()).collect());
    assert_eq!(listening(Family::V4, NodePortAddresses::All), ["0.0.0.0"]);
    assert_eq!(listening(Family::V6, NodePortAddresses::All), ["::"]);
    assert_eq!(listening(Family::V4, networks(&["10.0.0.0/8", "127.0.0.0/8", "fd00::/8"])), ["10.0.0.1"]);
    assert_eq!(listening(Family::V6, networks(&["10.0.0.0/8", "fd00::/8"])), ["fd00::1"]);
    assert!(listening(Family::V6, networks(&["10.0.0.0/8"])).is_empty());
}
