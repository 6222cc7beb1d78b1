//! An API server as the source, and everything that it can do to a client.

use std::sync::Arc;
use std::time::Duration;

use ferrovia::sync::objects::{Event, Kind, Object};
use ferrovia::sync::sources::cluster::{Address, Connection, Timing};
use ferrovia::sync::sources::{Cluster, Selection};
use serde_json::{Value, json};

use crate::common::apiserver::{ApiServer, Fault, Signal, Verb, What};
use crate::common::listener::{Listener, key};

mod connecting;
mod events;
mod lists;
mod service_cidrs;
mod watches;

const PATIENT: Timing = Timing {
    watch: Duration::from_secs(60),
    margin: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    shortest_wait: Duration::from_millis(10),
    longest_wait: Duration::from_millis(100),
    unneeded_wait: Duration::from_millis(500),
    absent_wait: Duration::from_millis(300),
};

fn service(name: &str, port: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"port": port}]},
    })
}

fn slice(name: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.5"]}],
    })
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

fn follow(server: &ApiServer, timing: Timing) -> Listener {
    let kubeconfig = Some(server.kubeconfig());
    Listener::start(move |events, stats| async move {
        let address = Address { kubeconfig, master: None };
        let connection = Arc::new(Connection::new(address).await.unwrap());
        Cluster::new(connection, Selection::of_proxy("here"), stats).with_timing(timing).run(events).await;
    })
}

/// A server with Services `web` and `api`, a slice and two Nodes.
fn server() -> ApiServer {
    let server = ApiServer::start();
    for object in [service("web", 80), service("api", 80), slice("web-1"), node("here"), node("elsewhere")] {
        server.apply(object);
    }
    server
}

/// Such a server, and a listener that has listed it and watches.
fn followed() -> (ApiServer, Listener) {
    let server = server();
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    server.until_watched();
    assert_eq!(listener.names(Kind::Service), ["shop/api", "shop/web"]);
    (server, listener)
}

/// Waits until everything that the server has is believed, and nothing else.
#[track_caller]
fn until_agreed(server: &ApiServer, listener: &mut Listener) {
    for (kind, resource) in [(Kind::Service, "services"), (Kind::EndpointSlice, "endpointslices")] {
        let names = server.names(resource);
        listener.until(&format!("{resource} as on the server: {names:?}"), |l| l.names(kind) == names);
    }
}

/// Breaks all watches, and lets the next ones find that their version is forgotten.
fn force_relist(server: &ApiServer) {
    server.compact();
    server.signal(Signal::Break);
}

fn port(listener: &Listener, name: &str) -> Option<u16> {
    match listener.objects.get(&key(Kind::Service, name))? {
        Object::Service(service) => Some(service.ports.first()?.port),
        _ => None,
    }
}

fn selectors(server: &ApiServer, verb: Verb, resource: &str) -> Vec<(String, String)> {
    let asked = server.asked();
    let of_resource = asked.iter().filter(|asked| asked.verb == verb && asked.resource == resource);
    of_resource
        .map(|asked| {
            (asked.parameter("labelSelector").to_owned(), asked.parameter("fieldSelector").to_owned())
        })
        .collect()
}

#[test]
fn what_kube_proxy_selects_is_listed_and_followed() {
    let server = server();
    let mut headless = service("headless", 80);
    headless["spec"]["clusterIP"] = json!("None");
    let mut others = service("others", 80);
    others["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let mut headless_slice = slice("headless-1");
    headless_slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    for object in [headless, others, headless_slice] {
        server.apply(object);
    }
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service), ["shop/api", "shop/web"]);
    assert_eq!(listener.names(Kind::EndpointSlice), ["shop/web-1"]);
    assert_eq!(listener.names(Kind::Node), ["here"]);
    let expected = |labels: &str, fields: &str| [(labels.to_owned(), fields.to_owned())];
    assert_eq!(
        selectors(&server, Verb::StreamingList, "services"),
        expected("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None")
    );
    assert_eq!(
        selectors(&server, Verb::StreamingList, "endpointslices"),
        expected("!service.kubernetes.io/headless", "")
    );
    assert_eq!(selectors(&server, Verb::StreamingList, "nodes"), expected("", "metadata.name=here"));

    server.apply(service("web", 81));
    listener.until("the change", |l| port(l, "shop/web") == Some(81));
    server.delete("services", "shop/api");
    listener.until("the deletion", |l| l.names(Kind::Service) == ["shop/web"]);
    let mut handed_over = service("web", 81);
    handed_over["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    server.apply(handed_over);
    listener.until("the Service handed over", |l| l.names(Kind::Service).is_empty());
}

/// Any order of changes, breaks and forgetting ends in what the server has.
#[test]
fn whatever_happens_the_end_is_right() {
    for seed in 1..=6u64 {
        let (server, mut listener) = followed();
        let mut dice = seed * 7919;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let mut port_of_web = 80;
        for _ in 0..150 {
            let name = format!("svc-{}", roll(8));
            let known = server.names("services").contains(&format!("shop/{name}"));
            match roll(12) {
                0 => server.signal(Signal::Break),
                1 => server.signal(Signal::End),
                2 => server.signal(Signal::Bookmark),
                3 => server.compact(),
                4 => server.fault(Fault::once(
                    Verb::StreamingList,
                    "services",
                    What::CutAfter(roll(4) as usize),
                )),
                5 => server.fault(Fault::once(Verb::Watch, "services", What::CutAfter(roll(2) as usize))),
                6 | 7 if known => server.delete("services", &format!("shop/{name}")),
                8 => std::thread::sleep(Duration::from_millis(roll(15))),
                _ => {
                    server.apply(service(&name, 80));
                    port_of_web = 1000 + roll(1000) as u16;
                    server.apply(service("web", port_of_web.into()));
                }
            }
        }
        server.mend();
        until_agreed(&server, &mut listener);
        listener.until("the last change", |l| port(l, "shop/web") == Some(port_of_web));
    }
}
