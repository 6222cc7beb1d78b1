//! A kind that only one mode has a use for, and that not every server has.

use ferrovia::sync::sources::{Selection, ServiceCidrs};

use super::*;

const LISTS: [Verb; 2] = [Verb::StreamingList, Verb::List];

fn service_cidr(name: &str, networks: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": networks},
    })
}

fn follow_all(server: &ApiServer) -> Listener {
    let kubeconfig = Some(server.kubeconfig());
    Listener::start(move |events, stats| async move {
        let address = Address { kubeconfig, master: None };
        let connection = Arc::new(Connection::new(address).await.unwrap());
        let cluster = Cluster::new(connection, Selection::of_proxy("here"), stats).with_timing(PATIENT);
        cluster.with_service_cidrs(ServiceCidrs::Followed).run(events).await;
    })
}

fn networks(listener: &Listener, name: &str) -> Vec<String> {
    match listener.objects.get(&key(Kind::ServiceCidr, name)) {
        Some(Object::ServiceCidr(cidr)) => cidr.networks.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn gave_up(listener: &Listener) -> usize {
    listener.log.iter().filter(|event| **event == Event::ListGivenUp(Kind::ServiceCidr)).count()
}

fn asked(server: &ApiServer) -> usize {
    LISTS.iter().map(|verb| server.count(*verb, "servicecidrs")).sum()
}

fn refuse(server: &ApiServer, what: &What) {
    for verb in LISTS {
        let (resource, what) = (Some("servicecidrs"), what.clone());
        server.fault(Fault { verb, resource, times: usize::MAX, what });
    }
}

#[test]
fn service_cidrs_are_followed_where_they_are_wanted() {
    let server = server();
    server.apply(service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]));
    let mut listener = follow_all(&server);
    listener.until("all lists", |l| l.lists(Kind::ServiceCidr) == 1 && l.lists(Kind::Service) == 1);
    assert_eq!(networks(&listener, "kubernetes"), ["10.96.0.0/16", "fd00:10:96::/112"]);
    server.apply(service_cidr("more", &["10.97.0.0/16"]));
    listener.until("one more", |l| networks(l, "more") == ["10.97.0.0/16"]);
    server.apply(service_cidr("more", &["10.98.0.0/99"]));
    listener.until("what cannot be read", |l| !l.undecodable().is_empty());
    assert!(
        listener.undecodable()[0].contains("spec.cidrs[0]: \"10.98.0.0/99\""),
        "{:?}",
        listener.undecodable()
    );
    server.delete("servicecidrs", "more");
    listener.until("one less", |l| !l.has(Kind::ServiceCidr, "more"));
}

#[test]
fn service_cidrs_are_not_asked_for_where_they_are_not_wanted() {
    let (server, mut listener) = followed();
    listener.for_a_while();
    assert_eq!(asked(&server), 0);
    assert!(!listener.log.contains(&Event::ListStarted(Kind::ServiceCidr)), "nobody would wait for its end");
}

/// Before Kubernetes 1.33, or with the rights of an older kube-proxy.
#[test]
fn a_server_without_service_cidrs_holds_nothing_up_and_is_asked_again() {
    for status in [404, 403] {
        let server = server();
        server.apply(service_cidr("kubernetes", &["10.96.0.0/16"]));
        refuse(&server, &What::Status(status));
        let mut listener = follow_all(&server);
        listener.until_listed();
        listener.until("going on without", |l| gave_up(l) > 0);
        assert!(asked(&server) <= 2, "asked {} times for what is not there", asked(&server));
        assert_eq!(listener.stats.errors(), 0, "that is no failure");
        server.mend();
        listener.until("the list when it is there", |l| networks(l, "kubernetes") == ["10.96.0.0/16"]);
    }
}

/// A server that says nothing about them, or fails, keeps no Service from working.
#[test]
fn service_cidrs_are_not_waited_for_long() {
    for what in [What::NoAnswer, What::Silent, What::Status(500)] {
        let server = server();
        refuse(&server, &what);
        let mut listener = follow_all(&server);
        listener.until("the start", |l| l.log.contains(&Event::ListStarted(Kind::ServiceCidr)));
        listener.until("going on without", |l| gave_up(l) > 0);
        listener.until_listed();
    }
}

/// What is known stays in force when the right to read is taken away.
#[test]
fn service_cidrs_that_are_hidden_later_stay_known() {
    let server = server();
    server.apply(service_cidr("kubernetes", &["10.96.0.0/16"]));
    let mut listener = follow_all(&server);
    listener.until("all lists", |l| l.lists(Kind::ServiceCidr) == 1 && l.lists(Kind::Service) == 1);
    refuse(&server, &What::Status(403));
    let given_up = gave_up(&listener);
    force_relist(&server);
    listener.until("going on without", |l| gave_up(l) > given_up);
    assert_eq!(networks(&listener, "kubernetes"), ["10.96.0.0/16"]);
}
