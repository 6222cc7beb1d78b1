//! An API server as the source, and everything that it can do to a client.

use std::sync::Arc;
use std::time::Duration;

use ferrovia::sync::objects::{Event, Kind, Object};
use ferrovia::sync::sources::Cluster;
use ferrovia::sync::sources::cluster::{Address, Connection, Timing};
use serde_json::{Value, json};

use crate::common::apiserver::{ApiServer, Fault, Signal, Verb, What};
use crate::common::listener::{Listener, key};

mod connecting;
mod events;

const PATIENT: Timing = Timing {
    watch: Duration::from_secs(60),
    margin: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    shortest_wait: Duration::from_millis(10),
    longest_wait: Duration::from_millis(100),
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
        Cluster::new(connection, "here".to_owned(), stats).with_timing(timing).run(events).await;
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

/// API server 1.33 by default: 422 says that the feature is off. Older ones know no such parameter: 400.
#[test]
fn a_server_without_streaming_lists_is_listed_in_pages() {
    for code in [422, 400] {
        let server = server();
        for i in 0..1100 {
            server.apply(service(&format!("svc-{i}"), 80));
        }
        server.fault(Fault::always(Verb::StreamingList, What::Status(code)));
        let mut listener = follow(&server, PATIENT);
        listener.until_listed();
        assert_eq!(listener.names(Kind::Service).len(), 1102);
        assert_eq!(server.count(Verb::Continue, "services"), 2);
        assert!(
            server
                .asked()
                .iter()
                .filter(|asked| asked.verb == Verb::List)
                .all(|asked| asked.parameter("limit") == "500")
        );
        force_relist(&server);
        server.apply(service("new", 80));
        listener.until("the new Service", |l| l.has(Kind::Service, "shop/new"));
        assert_eq!(server.count(Verb::StreamingList, "services"), 1, "asked again for a streaming list");
    }
}

/// A server that knows neither the parameter nor its refusal never marks the end.
#[test]
fn a_streaming_list_without_end_is_given_up() {
    let server = server();
    server.fault(Fault::always(Verb::StreamingList, What::WithoutEnd));
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    until_agreed(&server, &mut listener);
    assert!(server.count(Verb::List, "services") >= 1);
}

#[test]
fn a1_nothing_is_complete_before_all_pages_are_in() {
    let server = server();
    for i in 0..600 {
        server.apply(service(&format!("svc-{i}"), 80));
    }
    server.fault(Fault::always(Verb::StreamingList, What::Status(422)));
    server.fault(Fault::always(Verb::Continue, What::Status(500)));
    let mut listener = follow(&server, PATIENT);
    listener.until("a list that fails in the middle, twice", |l| {
        l.log.iter().filter(|event| **event == Event::ListStarted(Kind::Service)).count() > 2
    });
    assert_eq!(listener.lists(Kind::Service), 0);
    server.mend();
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service).len(), 602);
}

#[test]
fn a1_a_server_that_fails_or_forbids_is_waited_for() {
    for code in [403, 429, 500, 503] {
        let server = server();
        server.fault(Fault::always(Verb::StreamingList, What::Status(code)));
        let mut listener = follow(&server, PATIENT);
        server.until("three attempts", |server| server.count(Verb::StreamingList, "services") >= 3);
        listener.for_a_while();
        assert!(listener.log.is_empty(), "{code}: {:?}", listener.log);
        assert!(listener.stats.errors() >= 3);
        server.mend();
        listener.until_listed();
    }
}

/// k8s#76338, #65012: a connection that is dead but not closed.
#[test]
fn a2_a_silent_watch_is_opened_again() {
    let server = server();
    let timing = Timing { watch: Duration::from_secs(1), margin: Duration::from_millis(300), ..PATIENT };
    server.fault(Fault { verb: Verb::Watch, resource: Some("services"), times: 1, what: What::Silent });
    let mut listener = follow(&server, timing);
    listener.until_listed();
    server.until("the silent watch", |server| server.count(Verb::Watch, "services") == 1);
    server.apply(service("web", 81));
    listener.until("the change that the dead watch hid", |l| port(l, "shop/web") == Some(81));
    assert_eq!(server.count(Verb::StreamingList, "services"), 1, "listed again, where watching is enough");
}

#[test]
fn a2_the_age_of_what_is_known_is_told() {
    let (server, mut listener) = followed();
    listener.for_a_while();
    let old = listener.stats.last_heard(Kind::Service).unwrap();
    assert!(old >= Duration::from_millis(300), "{old:?}");
    server.signal(Signal::Bookmark);
    let fresh = || listener.stats.last_heard(Kind::Service).unwrap() < old;
    server.until("a bookmark heard", |_| fresh());
}

#[test]
fn a2_a_request_without_answer_is_given_up() {
    let server = server();
    server.fault(Fault { verb: Verb::StreamingList, resource: None, times: 3, what: What::NoAnswer });
    let mut listener = follow(&server, Timing { answer: Duration::from_millis(300), ..PATIENT });
    listener.until_listed();
    until_agreed(&server, &mut listener);
}

#[test]
fn a_slow_server_is_waited_for() {
    let server = server();
    let slow = What::Slow(Duration::from_millis(200));
    server.fault(Fault::always(Verb::StreamingList, slow));
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    assert_eq!(listener.stats.errors(), 0);
}

#[test]
fn a3_410_leads_to_a_new_list_whichever_way_it_comes() {
    for what in [What::Status(410), What::GoneInStream] {
        let (server, mut listener) = followed();
        server.fault(Fault { verb: Verb::Watch, resource: Some("services"), times: 2, what });
        server.signal(Signal::End);
        listener.until("two more lists", |l| l.lists(Kind::Service) >= 2);
        server.apply(service("web", 82));
        listener.until("a change after it", |l| port(l, "shop/web") == Some(82));
        assert_eq!(listener.lists(Kind::Node), 1, "other kinds are not concerned");
    }
}

/// k8s#3216: a server that answers every watch with 410 must not be listed in a tight loop.
#[test]
fn a3_410_for_ever_is_met_with_patience() {
    let timing = Timing { longest_wait: Duration::from_secs(5), ..PATIENT };
    let server = server();
    server.fault(Fault::always(Verb::StreamingList, What::Status(422)));
    server.fault(Fault::always(Verb::Watch, What::Status(410)));
    let mut listener = follow(&server, timing);
    listener.until("lists again and again", |l| l.lists(Kind::Service) >= 5);
    std::thread::sleep(Duration::from_secs(1));
    // Waits of 10, 20, 40 ms and so on, less their jitter, leave room for eight lists in the first seconds.
    let lists = server.count(Verb::List, "services");
    assert!(lists <= 10, "{lists} lists in a second");
}

#[test]
fn a3_410_in_the_middle_of_a_list_begins_it_again() {
    let server = server();
    for i in 0..600 {
        server.apply(service(&format!("svc-{i}"), 80));
    }
    server.fault(Fault::always(Verb::StreamingList, What::Status(422)));
    server.fault(Fault::once(Verb::Continue, "services", What::Status(410)));
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service).len(), 602);
    let lists: Vec<_> = server.asked().into_iter().filter(|asked| asked.resource == "services").collect();
    let limits: Vec<_> =
        lists.iter().filter(|asked| asked.verb == Verb::List).map(|a| a.parameter("limit")).collect();
    assert_eq!(limits, ["500", ""], "the second list comes in one page, as pages took too long");
}

#[test]
fn a3_an_empty_list_is_doubted_until_a_second_look_agrees() {
    for streaming in [true, false] {
        let server = server();
        if !streaming {
            server.fault(Fault::always(Verb::StreamingList, What::Status(422)));
        }
        let mut listener = follow(&server, PATIENT);
        listener.until_listed();
        server.until_watched();
        let verb = if streaming { Verb::StreamingList } else { Verb::List };
        server.fault(Fault::once(verb, "services", What::Empty));
        let asked = server.asked().len();
        force_relist(&server);
        listener.until("a list with something in it", |l| l.lists(Kind::Service) == 2);
        assert_eq!(listener.names(Kind::Service), ["shop/api", "shop/web"]);
        let second_look = |server: &ApiServer| {
            server.asked()[asked..]
                .iter()
                .filter(|a| a.resource == "services" && a.parameter("limit") == "1")
                .count()
        };
        assert_eq!(second_look(&server), 1);

        server.fault(Fault {
            verb: Verb::Watch,
            resource: Some("services"),
            times: 1,
            what: What::Slow(Duration::from_millis(200)),
        });
        server.signal(Signal::Break);
        server.delete("services", "shop/api");
        server.delete("services", "shop/web");
        server.compact();
        listener.until("nothing left", |l| l.names(Kind::Service).is_empty());
        assert_eq!(second_look(&server), 2);
    }
}

#[test]
fn a_list_that_breaks_off_begins_again() {
    let server = server();
    for i in 0..20 {
        server.apply(service(&format!("svc-{i}"), 80));
    }
    server.fault(Fault::once(Verb::StreamingList, "services", What::CutAfter(10)));
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    until_agreed(&server, &mut listener);
    assert_eq!(server.count(Verb::List, "services"), 0, "a broken connection says nothing against streaming");
}

#[test]
fn an_object_that_went_between_two_lists_is_gone() {
    let (server, mut listener) = followed();
    server.fault(Fault::once(Verb::StreamingList, "services", What::CutAfter(1)));
    server.signal(Signal::Break);
    server.delete("services", "shop/web");
    server.apply(service("new", 80));
    server.compact();
    until_agreed(&server, &mut listener);
}

#[test]
fn an_object_that_was_deleted_while_disconnected_is_gone_afterwards() {
    let (server, mut listener) = followed();
    server.fault(Fault { verb: Verb::Watch, resource: None, times: 6, what: What::Status(503) });
    server.signal(Signal::Break);
    server.delete("services", "shop/web");
    server.delete("endpointslices", "shop/web-1");
    until_agreed(&server, &mut listener);
    assert_eq!(listener.lists(Kind::Service), 1, "watching from the last version is enough");
}

/// The watch cache sends changes that happen meanwhile before it marks the end of what existed.
#[test]
fn a_deletion_before_the_end_of_a_streaming_list_counts() {
    let server = server();
    let mut gone = service("web", 80);
    gone["metadata"]["resourceVersion"] = json!("99");
    let line = json!({"type": "DELETED", "object": gone}).to_string();
    server.fault(Fault::once(Verb::StreamingList, "services", What::LineBeforeEnd(line)));
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service), ["shop/api"]);
}

#[test]
fn an_undecodable_object_keeps_what_was_known_but_keeps_no_deleted_one_alive() {
    let (server, mut listener) = followed();
    let mut broken = service("web", 80);
    broken["spec"] = json!("broken");
    server.apply(broken);
    listener.until("the undecodable object", |l| l.stats.undecodable(Kind::Service) == 1);
    assert_eq!(port(&listener, "shop/web"), Some(80));
    force_relist(&server);
    listener.until("another list", |l| l.lists(Kind::Service) == 2);
    assert_eq!(port(&listener, "shop/web"), Some(80), "still there, though still undecodable");
    server.fault(Fault {
        verb: Verb::Watch,
        resource: Some("services"),
        times: 1,
        what: What::Slow(Duration::from_millis(200)),
    });
    server.signal(Signal::Break);
    server.delete("services", "shop/web");
    server.compact();
    until_agreed(&server, &mut listener);
    assert_eq!(listener.names(Kind::Service), ["shop/api"]);
}

#[test]
fn an_undecodable_object_that_is_deleted_is_gone() {
    let (server, mut listener) = followed();
    let mut broken = service("web", 80);
    broken["spec"]["ports"] = json!(7);
    server.apply(broken);
    server.delete("services", "shop/web");
    until_agreed(&server, &mut listener);
    assert_eq!(listener.undecodable(), ["spec.ports: 7 is not a list"]);
}

#[test]
fn objects_without_name_and_lines_without_sense_hold_nothing_up() {
    let (server, mut listener) = followed();
    server.apply(json!({"kind": "Service", "metadata": {"namespace": "shop", "name": 7}, "spec": {}}));
    for line in ["", "rubbish", "{\"type\":\"ADDED\"", "[]", "{\"type\":\"ADDED\",\"object\":null}", "\u{0}"]
    {
        server.signal(Signal::Line(line.to_owned()));
    }
    server.apply(service("web", 83));
    listener.until("the change after them", |l| port(l, "shop/web") == Some(83));
    listener.until("all of them counted", |l| l.stats.undecodable(Kind::Service) == 7);
    assert_eq!(listener.lists(Kind::Service), 1);
}

#[test]
fn events_in_pieces_are_whole() {
    let server = server();
    server.pieces_of(7);
    let mut listener = follow(&server, PATIENT);
    listener.until_listed();
    server.apply(service("web", 84));
    listener.until("the change", |l| port(l, "shop/web") == Some(84));
    until_agreed(&server, &mut listener);
    assert_eq!(listener.stats.undecodable(Kind::Service), 0);
}

#[test]
fn a_watch_cut_in_the_middle_of_an_event_goes_on_from_the_last_whole_one() {
    let (server, mut listener) = followed();
    server.fault(Fault::once(Verb::Watch, "services", What::CutAfter(1)));
    server.signal(Signal::End);
    server.until("the watch that will break", |server| server.count(Verb::Watch, "services") == 1);
    server.apply(service("web", 85));
    server.apply(service("api", 86));
    listener.until("both changes", |l| port(l, "shop/web") == Some(85) && port(l, "shop/api") == Some(86));
    assert_eq!(listener.lists(Kind::Service), 1);
    let applied =
        listener.log.iter().filter(|event| matches!(event, Event::Applied(Object::Service(_)))).count();
    assert_eq!(applied, 2 + 2, "each change came once");
}

#[test]
fn a_line_that_the_server_did_not_finish_is_no_line() {
    let (server, mut listener) = followed();
    server.signal(Signal::Partial("{\"type\":\"MODIF".to_owned()));
    server.until("the next watch", |server| server.count(Verb::Watch, "services") == 1);
    server.apply(service("web", 88));
    listener.until("the change", |l| port(l, "shop/web") == Some(88));
    assert_eq!((listener.stats.undecodable(Kind::Service), listener.stats.errors()), (0, 0));
}

#[test]
fn bookmarks_move_the_place_to_go_on_from() {
    let (server, mut listener) = followed();
    for i in 0..5 {
        server.apply(slice(&format!("web-{i}")));
    }
    server.signal(Signal::Bookmark);
    server.signal(Signal::End);
    server.until("the next watch", |server| server.count(Verb::Watch, "services") == 1);
    let asked = server.asked();
    let next = asked.iter().find(|asked| asked.verb == Verb::Watch && asked.resource == "services").unwrap();
    assert_eq!(next.parameter("resourceVersion"), "10");
    until_agreed(&server, &mut listener);
}

#[test]
fn a_watch_that_ends_at_its_time_is_no_error() {
    let (server, mut listener) = followed();
    for round in 1..=3 {
        server.signal(Signal::Bookmark);
        server.signal(Signal::End);
        server.until("the next watch", |server| server.count(Verb::Watch, "services") == round);
        server.until_watched();
    }
    server.apply(service("web", 87));
    listener.until("the change", |l| port(l, "shop/web") == Some(87));
    assert_eq!((listener.stats.errors(), listener.lists(Kind::Service)), (0, 1));
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
