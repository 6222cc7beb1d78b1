//! Lists: streaming, in pages, empty, broken off, and again.

use super::*;

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

/// An API server whose watch cache cannot ask etcd how far it is says so in the stream (1.36 with etcd 3.4). What is the
/// matter may pass, so that the next list is asked for in a stream again.
#[test]
fn a_streaming_list_that_fails_on_the_server_is_replaced_by_pages_this_time() {
    for what in [What::FaultInStream, What::Status(500)] {
        let server = server();
        server.fault(Fault::always(Verb::StreamingList, what));
        let mut listener = follow(&server, Timing { longest_wait: Duration::from_secs(60), ..PATIENT });
        listener.until_listed();
        until_agreed(&server, &mut listener);
        assert_eq!(server.count(Verb::StreamingList, "services"), 1);
        assert_eq!(server.count(Verb::List, "services"), 1);
        server.until_watched();
        server.mend();
        force_relist(&server);
        server.until("another list", |server| server.count(Verb::StreamingList, "services") == 2);
        server.apply(service("new", 80));
        listener.until("the new Service", |l| l.has(Kind::Service, "shop/new"));
        assert_eq!(server.count(Verb::List, "services"), 1);
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
    // Where a stream fails with 500, pages are tried.
    let asked_for = |code| if code == 500 { Verb::List } else { Verb::StreamingList };
    for code in [403, 429, 500, 503] {
        let server = server();
        server.fault(Fault::always(Verb::StreamingList, What::Status(code)));
        server.fault(Fault::always(Verb::List, What::Status(code)));
        let mut listener = follow(&server, PATIENT);
        server.until("three attempts", |server| server.count(asked_for(code), "services") >= 3);
        listener.for_a_while();
        let begun = |event: &Event| matches!(event, Event::ListStarted(_));
        assert!(listener.log.iter().all(begun), "{code}: {:?}", listener.log);
        assert!(listener.stats.errors() >= 3);
        server.mend();
        listener.until_listed();
    }
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
