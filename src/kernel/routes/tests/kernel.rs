//! Against the kernel, in namespaces, read back with iproute2.

use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use super::super::*;
use crate::kernel::netns::Namespace;

/// A node with the addresses 172.18.0.2/16 and fd00:18::2/64 on `eth0`, and a router at .1.
fn node() -> Namespace {
    let namespace = Namespace::new().unwrap();
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name peer",
        "link set eth0 up",
        "link set peer up",
        "address add 172.18.0.2/16 dev eth0",
        "address add fd00:18::2/64 dev eth0 nodad",
        "route add default via 172.18.0.1 dev eth0",
    ] {
        ip(&namespace, line);
    }
    namespace
}

fn ip(namespace: &Namespace, line: &str) -> String {
    let output = namespace.command("ip").unwrap().args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn route(destination: &str, gateway: &str, link: u32) -> Route {
    Route { destination: destination.parse().unwrap(), gateway: gateway.parse().unwrap(), link }
}

fn link(namespace: &Namespace) -> u32 {
    let way = namespace.run(|| KernelRoutes::open().unwrap().way([172, 18, 0, 3].into()).unwrap()).unwrap();
    let Way::OnLink(link) = way else { panic!("{way:?}") };
    link
}

fn change(namespace: &Namespace, changes: &[RouteChange]) -> Vec<Option<i32>> {
    let refused = namespace.run(|| KernelRoutes::open().unwrap().change(changes).unwrap()).unwrap();
    refused.iter().map(|refusal| refusal.source.refusal()).collect()
}

fn list(namespace: &Namespace, family: Family) -> Vec<Route> {
    namespace.run(|| KernelRoutes::open().unwrap().list(family).unwrap()).unwrap()
}

#[test]
fn routes_of_both_families_come_change_and_go() {
    let node = node();
    let link = link(&node);
    for (destination, first, second) in
        [("10.244.2.0/24", "172.18.0.3", "172.18.0.4"), ("fd00:244:2::/64", "fd00:18::3", "fd00:18::4")]
    {
        let family = Family::of(first.parse().unwrap());
        let (old, new) = (route(destination, first, link), route(destination, second, link));
        assert_eq!(change(&node, &[RouteChange::Add(old)]), []);
        assert_eq!(list(&node, family), [old]);
        assert_eq!(change(&node, &[RouteChange::Add(new)]), [Some(libc::EEXIST)]);
        assert_eq!(change(&node, &[RouteChange::Replace(new)]), []);
        assert_eq!(list(&node, family), [new]);
        assert_eq!(change(&node, &[RouteChange::Remove(old)]), [], "it is gone already");
        assert_eq!(list(&node, family), [new], "it leads elsewhere");
        assert_eq!(change(&node, &[RouteChange::Remove(new)]), []);
        assert_eq!(list(&node, family), []);
    }
}

#[test]
fn n6_routes_of_other_protocols_to_the_same_network_stay() {
    let node = node();
    let link = link(&node);
    for (flag, destination, gateway, other) in [
        ("", "10.244.2.0/24", "172.18.0.3", "172.18.0.9"),
        ("-6 ", "fd00:244:2::/64", "fd00:18::3", "fd00:18::9"),
    ] {
        let ours = route(destination, gateway, link);
        ip(&node, &format!("{flag}route add {destination} via {other} dev eth0 proto static"));
        assert_eq!(change(&node, &[RouteChange::Add(ours)]), [], "{destination}");
        assert_eq!(change(&node, &[RouteChange::Replace(ours)]), []);
        let chosen = node.run(|| KernelRoutes::open().unwrap().chosen(destination.parse().unwrap()).unwrap());
        assert_eq!(chosen.unwrap().unwrap().gateway, Some(other.parse().unwrap()), "theirs counts");
        assert_eq!(change(&node, &[RouteChange::Remove(ours)]), []);
        let listed = ip(&node, &format!("{flag}route show {destination}"));
        assert!(listed.contains(other) && listed.lines().count() == 1, "{listed}");
    }
}

/// The kernel would replace it whoever made it.
#[test]
fn n6_a_route_of_somebody_else_with_our_metric_is_not_replaced() {
    let node = node();
    let link = link(&node);
    ip(&node, "route add 10.244.2.0/24 via 172.18.0.9 dev eth0 metric 1104");
    let ours = route("10.244.2.0/24", "172.18.0.3", link);
    assert_eq!(change(&node, &[RouteChange::Add(ours)]), [Some(libc::EEXIST)]);
    assert_eq!(list(&node, Family::V4), []);
    assert!(ip(&node, "route show 10.244.2.0/24").contains("172.18.0.9"));
    assert_eq!(change(&node, &[RouteChange::Remove(route("10.244.2.0/24", "172.18.0.9", link))]), []);
    assert!(ip(&node, "route show 10.244.2.0/24").contains("172.18.0.9"), "another protocol's");
}

#[test]
fn the_kernel_refuses_what_the_fake_refuses() {
    let node = node();
    let link = link(&node);
    let cases = [
        (RouteChange::Replace(route("10.244.2.0/24", "172.18.0.3", link)), libc::ENOENT),
        (RouteChange::Replace(route("fd00:244:2::/64", "fd00:18::3", link)), libc::ENOENT),
        (RouteChange::Add(route("10.244.2.0/24", "172.18.0.3", 999)), libc::ENETUNREACH),
        (RouteChange::Add(route("10.244.2.0/24", "192.0.2.1", link)), libc::ENETUNREACH),
        (RouteChange::Add(route("fd00:244:2::/64", "fd00:99::3", link)), libc::EHOSTUNREACH),
    ];
    for (wanted, errno) in cases {
        assert_eq!(change(&node, &[wanted]), [Some(errno)], "{wanted}");
        let mut fake = fake::FakeRoutes::with_link("172.18.0.0/16", link);
        fake.links.insert("fd00:18::/64".parse().unwrap(), link);
        let refused = fake.change(&[wanted]).unwrap();
        assert_eq!(refused[0].source.refusal(), Some(errno), "{wanted}");
    }
}

#[test]
fn ways_are_told_apart() {
    let node = node();
    let link = link(&node);
    let way = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        node.run(|| KernelRoutes::open().unwrap().way(address).unwrap()).unwrap()
    };
    assert_eq!(way("172.18.0.3"), Way::OnLink(link));
    assert_eq!(way("fd00:18::3"), Way::OnLink(link));
    assert_eq!(way("192.0.2.1"), Way::Gateway([172, 18, 0, 1].into()));
    assert_eq!(way("172.18.0.2"), Way::Local);
    assert_eq!(way("fd00:18::2"), Way::Local);
    assert_eq!(way("2001:db8::1"), Way::Unreachable);
    for kind in ["blackhole", "prohibit", "unreachable"] {
        ip(&node, &format!("route add {kind} 198.51.100.1"));
        assert_eq!(way("198.51.100.1"), Way::Unreachable, "{kind}");
        ip(&node, "route del 198.51.100.1");
    }
    ip(&node, "link set eth0 down");
    assert_eq!(way("172.18.0.3"), Way::Unreachable);
}

#[test]
fn what_others_do_is_told_and_what_we_do_is_not() {
    let node = node();
    let number = link(&node);
    let (mut routes, mut watch) = node
        .run(|| {
            let routes = KernelRoutes::open().unwrap();
            let watch = routes.watch().unwrap();
            (routes, watch)
        })
        .unwrap();
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || while sender.send(watch.wait().unwrap()).is_ok() {});
    let ours = route("10.244.2.0/24", "172.18.0.3", number);
    assert_eq!(routes.change(&[RouteChange::Add(ours)]).unwrap().len(), 0);
    let expect = |line: &str, wanted: Notice| {
        ip(&node, line);
        let mut seen = Vec::new();
        while !seen.contains(&wanted) {
            let more = told.recv_timeout(Duration::from_secs(5));
            seen.extend(more.unwrap_or_else(|_| panic!("{line} is not told: {seen:?}")));
        }
        seen
    };
    let seen = expect("route del 10.244.2.0/24 proto 104", Notice::OwnRoute(ours.destination));
    assert_eq!(seen.len(), 1, "and nothing of our own doing: {seen:?}");
    expect("route add 10.9.0.0/16 via 172.18.0.9", Notice::OtherRoute("10.9.0.0/16".parse().unwrap()));
    let address = [172, 18, 0, 77].into();
    expect("address add 172.18.0.77/16 dev eth0", Notice::Address { link: number, address });
    expect("link set eth0 down", Notice::Link(number));
}
