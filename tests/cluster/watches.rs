//! Watches: silent, cut, ended, and what comes through them.

use super::*;

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
fn an_object_that_was_deleted_while_disconnected_is_gone_afterwards() {
    let (server, mut listener) = followed();
    server.fault(Fault { verb: Verb::Watch, resource: None, times: 6, what: What::Status(503) });
    server.signal(Signal::Break);
    server.delete("services", "shop/web");
    server.delete("endpointslices", "shop/web-1");
    until_agreed(&server, &mut listener);
    assert_eq!(listener.lists(Kind::Service), 1, "watching from the last version is enough");
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
