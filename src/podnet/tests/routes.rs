use super::*;

fn b() -> Node {
    node("b", 2, &["172.18.0.2", "fd00:18::2"], &["10.244.2.0/24", "fd00:244:2::/64"])
}

fn c() -> Node {
    node("c", 3, &["172.18.0.3"], &["10.244.3.0/24"])
}

#[test]
fn each_pod_cidr_of_another_node_gets_a_route_in_its_family() {
    let mut bench = Bench::new();
    let changes = bench.after(list([this_node(), b(), c()]));
    assert_eq!(
        changes,
        [
            "add 10.244.2.0/24 via 172.18.0.2 dev #2",
            "add 10.244.3.0/24 via 172.18.0.3 dev #2",
            "add fd00:244:2::/64 via fd00:18::2 dev #2",
        ]
    );
    assert_eq!(bench.host_gw.own_networks(), ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(bench.problems(), [] as [&str; 0]);
    assert!(!bench.host_gw.is_due(bench.now));
    assert!(bench.after(list([this_node(), b(), c()])).is_empty(), "the same list again changes nothing");
}

#[test]
fn n1_routes_that_nobody_wants_go_at_the_start_and_the_others_are_adopted() {
    let mut bench = Bench::new();
    for stale in [route("10.244.9.0/24", "172.18.0.9"), route("10.244.2.0/24", "172.18.0.2")] {
        bench.door().ours.insert(stale.destination, stale);
    }
    let changes = bench.after(list([this_node(), b()]));
    assert_eq!(
        changes,
        ["del 10.244.9.0/24 via 172.18.0.9 dev #2", "add fd00:244:2::/64 via fd00:18::2 dev #2"]
    );
}

/// The fake refuses to replace what is not there, and to add what is.
#[test]
fn n2_a_changed_route_is_replaced_and_read_back() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), c()]));
    let moved = node("c", 3, &["172.18.0.33"], &["10.244.3.0/24"]);
    assert_eq!(bench.after([applied(moved)]), ["replace 10.244.3.0/24 via 172.18.0.33 dev #2"]);
    // Somebody removes it, and before the notification comes the Node changes again.
    bench.door().ours.clear();
    bench.handle([applied(c())]);
    assert_eq!(bench.sync().refusals, 1, "there is nothing to be replaced");
    assert!(bench.host_gw.is_due(bench.now), "so everything is read again");
    bench.sync();
    assert_eq!(bench.gateway("10.244.3.0/24").as_deref(), Some("172.18.0.3"));
    assert_eq!(bench.problems(), [] as [&str; 0]);
}

#[test]
fn n3_a_node_that_comes_back_as_another_one_is_a_change() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), c()]));
    let again = node("c", 9, &["172.18.0.33"], &["10.244.33.0/24"]);
    let changes = bench.after([deleted("c"), applied(again)]);
    assert_eq!(
        changes,
        ["del 10.244.3.0/24 via 172.18.0.3 dev #2", "add 10.244.33.0/24 via 172.18.0.33 dev #2"]
    );
}

#[test]
fn n3_a_node_that_registers_again_with_what_it_had_loses_no_route() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), c()]));
    assert!(bench.after([deleted("c")]).is_empty(), "not at once");
    let again = node("c", 9, &["172.18.0.3"], &["10.244.3.0/24"]);
    assert!(bench.after([applied(again)]).is_empty());
    assert!(bench.later().is_empty());
    assert!(bench.after([deleted("c")]).is_empty());
    assert_eq!(bench.later(), ["del 10.244.3.0/24 via 172.18.0.3 dev #2"]);
}

#[test]
fn n3_a_network_that_goes_to_another_node_goes_at_once() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), c()]));
    let heir = node("d", 9, &["172.18.0.4"], &["10.244.3.0/24"]);
    let changes = bench.after([deleted("c"), applied(heir)]);
    assert_eq!(changes, ["replace 10.244.3.0/24 via 172.18.0.4 dev #2"]);
    assert!(bench.later().is_empty());
}

#[test]
fn n4_the_older_node_keeps_a_contested_network_whoever_leaves() {
    let mut bench = Bench::new();
    let young = || node("y", 30, &["172.18.0.30"], &["10.244.3.0/24"]);
    assert_eq!(bench.after(list([this_node(), young()])), ["add 10.244.3.0/24 via 172.18.0.30 dev #2"]);
    assert_eq!(bench.after([applied(c())]), ["replace 10.244.3.0/24 via 172.18.0.3 dev #2"], "c is older");
    let problems = bench.problems();
    assert!(problems[0].contains("node y") && problems[0].contains("node c, which is older"), "{problems:?}");
    assert!(bench.after([deleted("y")]).is_empty());
    assert!(bench.later().is_empty(), "the loser's end touches nothing");
    assert_eq!(bench.gateway("10.244.3.0/24").as_deref(), Some("172.18.0.3"));
    bench.after([applied(young()), deleted("c")]);
    assert_eq!(bench.gateway("10.244.3.0/24").as_deref(), Some("172.18.0.30"), "the heir takes it at once");
    assert_eq!(bench.later(), [] as [&str; 0]);
    assert_eq!(bench.problems(), [] as [&str; 0]);
}

#[test]
fn n4_a_node_without_its_own_network_knows_it() {
    let mut bench = Bench::new();
    let older = node("b", 0, &["172.18.0.2"], &["10.244.0.0/16"]);
    bench.after(list([this_node(), older]));
    assert_eq!(bench.host_gw.own_networks(), [] as [IpNet; 0]);
    assert!(
        bench.problems()[0].starts_with("pod CIDR 10.244.1.0/24 of node a overlaps 10.244.0.0/16 of node b")
    );
    assert_eq!(bench.gateway("10.244.0.0/16").as_deref(), Some("172.18.0.2"));
}

/// A list may begin again in the middle; only its end says what is gone (flannel#1145).
#[test]
fn n5_nodes_are_missing_only_when_a_list_is_done() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), b(), c()]));
    let mut events = vec![Event::ListStarted(Kind::Node), applied(this_node())];
    events.extend(list([this_node(), b()]));
    let done = events.pop().unwrap();
    bench.after(events);
    assert!(bench.later().is_empty());
    bench.after([done]);
    assert_eq!(bench.later(), ["del 10.244.3.0/24 via 172.18.0.3 dev #2"]);
}

#[test]
fn n5_a_node_that_cannot_be_read_keeps_its_route() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), c()]));
    let name = ServiceName { namespace: "".into(), name: "c".into() };
    let mut events = list([this_node()]);
    events.insert(1, Event::Undecodable { kind: Kind::Node, name: Some(name), error: "?".into() });
    bench.after(events);
    assert!(bench.later().is_empty());
}

#[test]
fn n6_routes_of_others_are_seen_and_left() {
    let mut bench = Bench::new();
    let [theirs, preferred] = ["10.244.2.0/24", "10.244.3.0/24"].map(|text| text.parse::<IpNet>().unwrap());
    bench.door().with_our_metric.insert(theirs);
    bench.door().preferred.insert(preferred);
    bench.handle(list([this_node(), b(), c()]));
    assert_eq!(bench.sync().refusals, 1);
    let problems = bench.problems();
    assert!(problems[0].contains("refuses a route to pod CIDR 10.244.2.0/24 of node b"), "{problems:?}");
    assert!(problems[1].contains("10.244.3.0/24 of node c take a route that is not ours"), "{problems:?}");
    bench.door().with_our_metric.clear();
    bench.door().preferred.clear();
    bench.host_gw.notice(Notice::OtherRoute(preferred));
    bench.sync();
    assert_eq!(bench.problems(), [] as [&str; 0]);
    assert_eq!(bench.gateway("10.244.2.0/24").as_deref(), Some("172.18.0.2"));
}

#[test]
fn without_a_direct_way_there_is_no_route_but_a_reason() {
    let mut bench = Bench::new();
    let far = node("far", 5, &["192.0.2.5", "2001:db8::5"], &["10.244.5.0/24", "fd00:244:5::/64"]);
    let bare = node("bare", 6, &[], &["10.244.6.0/24"]);
    let twin = node("twin", 7, &["172.18.0.1"], &["10.244.7.0/24"]);
    assert!(bench.after(list([this_node(), far.clone(), bare, twin])).is_empty());
    assert_eq!(
        bench.problems(),
        [
            "no direct route to pod CIDR 10.244.6.0/24 of node bare: it has no InternalIP of IPv4",
            "no direct route to pod CIDR 10.244.5.0/24 of node far: its InternalIP 192.0.2.5 is behind the gateway \
             172.18.255.254 and not on a segment with this node",
            "no direct route to pod CIDR fd00:244:5::/64 of node far: there is no way to its InternalIP 2001:db8::5",
            "no direct route to pod CIDR 10.244.7.0/24 of node twin: its InternalIP 172.18.0.1 is an address of this node",
        ]
    );
    // A second InternalIP on the segment will do.
    let near =
        Node { internal_addresses: ["192.0.2.5", "172.18.0.5"].map(|a| a.parse().unwrap()).into(), ..far };
    assert_eq!(bench.after([applied(near)]), ["add 10.244.5.0/24 via 172.18.0.5 dev #2"]);
}

#[test]
fn a_new_route_of_others_is_asked_about_only_where_it_matters() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), b(), c()]));
    let asked = bench.door().asked;
    bench.host_gw.notice(Notice::OtherRoute("10.244.1.7/32".parse().unwrap()));
    bench.host_gw.notice(Notice::Link(77));
    assert!(!bench.host_gw.is_due(bench.now), "a pod of this node came");
    // A /32 by way of a router takes c off the segment.
    bench.door().links =
        [("172.18.0.0/30".parse().unwrap(), LINK), ("fd00:18::/64".parse().unwrap(), LINK)].into();
    bench.host_gw.notice(Notice::OtherRoute("172.18.0.3/32".parse().unwrap()));
    bench.door().links.remove(&"172.18.0.0/30".parse().unwrap());
    bench.door().links.insert("172.18.0.2/32".parse().unwrap(), LINK);
    assert_eq!(bench.after([]), ["del 10.244.3.0/24 via 172.18.0.3 dev #2"]);
    assert_eq!(bench.door().asked, asked + 1, "only about c");
}

#[test]
fn what_others_remove_comes_back() {
    let mut bench = Bench::new();
    bench.after(list([this_node(), b(), c()]));
    let removed = bench.door().ours.remove(&"10.244.3.0/24".parse().unwrap()).unwrap();
    bench.host_gw.notice(Notice::OwnRoute(removed.destination));
    let synced = bench.sync();
    assert!(synced.repaired);
    assert_eq!(synced.plan.to_string(), format!("ip route add {removed}\n"));
    // A link that goes down takes IPv4 routes with it, and nobody says so.
    bench.door().ours.clear();
    bench.host_gw.notice(Notice::Link(LINK));
    assert_eq!(bench.sync().plan.changes.len(), 3);
    bench.door().ours.clear();
    bench.host_gw.notice(Notice::Lost);
    assert_eq!(bench.sync().plan.changes.len(), 3, "notifications that were lost may have been of anything");
}

#[test]
fn after_a_failure_everything_is_read_again() {
    let mut bench = Bench::new();
    bench.handle(list([this_node(), b(), c()]));
    for failures in 1..8 {
        bench.door().failures = 1;
        bench.door().ours.clear();
        bench.host_gw.forget_everything();
        let _ = bench.host_gw.sync(bench.now);
        assert!(bench.host_gw.is_due(bench.now) || failures > 0);
        bench.door().failures = 0;
        bench.sync();
        assert_eq!(bench.door().ours.len(), 3);
    }
}

#[test]
fn what_sees_pods_addresses_is_the_cluster() {
    let mut bench = Bench::new();
    let far = node("far", 5, &["192.0.2.5"], &["10.244.5.0/24"]);
    bench.after(list([this_node(), c(), far]));
    let inside: Vec<String> = bench.host_gw.inside().iter().map(ToString::to_string).collect();
    assert_eq!(
        inside,
        ["10.244.1.0/24", "10.244.3.0/24", "10.244.5.0/24", "172.18.0.3/32", "172.18.0.1/32"],
        "a node that has no direct way back to a pod gets the node's address"
    );
}
