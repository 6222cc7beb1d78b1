//! Against the fake: what executing commands comes to, whatever was there before.

use std::net::SocketAddr;

use super::fake::FakeIpvs;
use super::*;
use crate::model::Protocol;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn web() -> VirtualServer {
    VirtualServer::new(Protocol::Tcp, at("10.96.0.10:80"))
}

fn service(scheduler: &str) -> Service {
    Service::new(web(), scheduler)
}

fn to(text: &str, weight: u32) -> Destination {
    Destination::new(at(text), weight)
}

/// A table with one virtual server and one destination.
fn table() -> FakeIpvs {
    let mut ipvs = FakeIpvs::default();
    let commands =
        [Command::AddService(service("rr")), Command::AddDestination(web(), to("10.244.1.5:8080", 1))];
    ipvs.execute(&commands).unwrap();
    ipvs.take_executed();
    ipvs
}

fn failures(result: Result<(), IpvsError>) -> Vec<(usize, i32)> {
    match result.unwrap_err() {
        IpvsError::Refused { failures } => {
            failures.iter().map(|(index, _, error)| (*index, error.refusal().unwrap())).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn adding_what_exists_sets_it() {
    let mut ipvs = table();
    ipvs.execute(&[
        Command::AddService(service("lc")),
        Command::AddDestination(web(), to("10.244.1.5:8080", 3)),
    ])
    .unwrap();
    assert_eq!(ipvs.saved(), ["-A -t 10.96.0.10:80 -s lc", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 3"]);
}

#[test]
fn deleting_what_is_gone_is_done() {
    let mut ipvs = table();
    let delete = [
        Command::DeleteDestination(web(), at("10.244.1.5:8080")),
        Command::DeleteDestination(web(), at("10.244.1.5:8080")),
        Command::DeleteService(web()),
        Command::DeleteService(web()),
        Command::DeleteDestination(web(), at("10.244.1.5:8080")),
    ];
    ipvs.execute(&delete).unwrap();
    assert_eq!(ipvs.saved(), [] as [&str; 0]);
}

#[test]
fn setting_what_is_gone_adds_it_and_what_it_needs() {
    let mut ipvs = FakeIpvs::default();
    ipvs.execute(&[
        Command::SetService(service("rr")),
        Command::SetDestination(web(), to("10.244.1.5:8080", 1)),
        Command::AddDestination(web(), to("10.244.1.6:8080", 1)),
    ])
    .unwrap();
    assert_eq!(ipvs.saved().len(), 3);
    ipvs.execute(&[Command::SetDestination(web(), to("10.244.1.7:8080", 1))]).unwrap();
    assert_eq!(ipvs.saved().len(), 4);
}

/// The deletion comes after the addition that was refused, and before it would be tried again.
#[test]
fn the_last_command_about_an_object_holds() {
    let mut ipvs = table();
    ipvs.execute(&[
        Command::AddDestination(web(), to("10.244.1.5:8080", 3)),
        Command::DeleteDestination(web(), at("10.244.1.5:8080")),
    ])
    .unwrap();
    assert_eq!(ipvs.saved(), ["-A -t 10.96.0.10:80 -s rr"]);

    let mut ipvs = table();
    ipvs.execute(&[
        Command::AddDestination(web(), to("10.244.1.5:8080", 3)),
        Command::DeleteService(web()),
        Command::AddService(service("lc")),
    ])
    .unwrap();
    assert_eq!(ipvs.saved(), ["-A -t 10.96.0.10:80 -s lc"], "destinations went with the virtual server");

    let mut ipvs = table();
    ipvs.execute(&[Command::AddService(service("lc")), Command::SetService(service("wrr"))]).unwrap();
    assert_eq!(ipvs.saved()[0], "-A -t 10.96.0.10:80 -s wrr");
}

#[test]
fn what_is_refused_is_named_and_stops_nothing() {
    let mut ipvs = FakeIpvs::default();
    let dns = VirtualServer::new(Protocol::Udp, at("10.96.0.10:53"));
    let result = ipvs.execute(&[
        Command::AddService(service("sed")),
        Command::AddDestination(web(), to("10.244.1.5:8080", 1)),
        Command::AddService(Service::new(dns, "rr")),
        Command::AddDestination(dns, to("[fd00:244:1::5]:53", 1)),
        Command::AddDestination(dns, to("10.244.1.5:53", 1)),
    ]);
    let text = result.as_ref().unwrap_err().to_string();
    assert!(text.contains("ipvsadm -A -t 10.96.0.10:80 -s sed"), "{text}");
    assert!(text.contains("the kernel has no scheduler sed"), "{text}");
    assert_eq!(failures(result), [(0, libc::ENOENT), (1, libc::ESRCH), (3, libc::EINVAL)]);
    assert_eq!(ipvs.saved(), ["-A -u 10.96.0.10:53 -s rr", "-a -u 10.96.0.10:53 -r 10.244.1.5:53 -m -w 1"]);
}

/// An unknown scheduler is no sign that the virtual server is gone: both are told with ENOENT in one place or another.
#[test]
fn setting_an_unknown_scheduler_changes_nothing() {
    let mut ipvs = table();
    let before = ipvs.saved();
    assert_eq!(failures(ipvs.execute(&[Command::SetService(service("sed"))])), [(0, libc::ENOENT)]);
    assert_eq!(ipvs.saved(), before);
}

#[test]
fn many_failures_are_told_briefly() {
    let mut ipvs = FakeIpvs::default();
    let commands: Vec<_> =
        (1..=1000).map(|port| Command::DeleteDestination(web(), ([10, 0, 0, 1], port).into())).collect();
    ipvs.execute(&commands).unwrap();
    let commands: Vec<_> = (1..=1000)
        .map(|port| Command::AddDestination(web(), Destination::new(([10, 0, 0, 1], port).into(), 1)))
        .collect();
    let text = ipvs.execute(&commands).unwrap_err().to_string();
    assert!(text.ends_with("; and 997 more") && text.len() < 600, "{text}");
    assert!(text.contains("there is no such virtual server"), "{text}");
}

#[test]
fn tests_can_make_it_fail_once_or_always() {
    let mut ipvs = table();
    ipvs.fail_next = Some(libc::EPERM);
    assert!(ipvs.services(&mut |_, _| {}).is_err());
    ipvs.services(&mut |_, _| {}).unwrap();
    let command = Command::SetDestination(web(), to("10.244.1.5:8080", 0));
    ipvs.refuse.insert(command.to_string(), libc::ENOMEM);
    for _ in 0..2 {
        assert_eq!(failures(ipvs.execute(std::slice::from_ref(&command))), [(0, libc::ENOMEM)]);
    }
    assert_eq!(ipvs.take_executed().len(), 2);
}

#[test]
fn connections_are_those_that_a_test_gives() {
    let mut ipvs = table();
    let connections = Connections { active: 2, inactive: 1, persistent: 0 };
    ipvs.connect(&web(), at("10.244.1.5:8080"), connections);
    let quiescent = to("10.244.1.5:8080", 0);
    ipvs.execute(&[Command::SetDestination(web(), quiescent)]).unwrap();
    let mut seen = Vec::new();
    ipvs.destinations(&web(), &mut |destination, connections, _| seen.push((*destination, *connections)))
        .unwrap();
    assert_eq!(seen, [(quiescent, connections)]);
    assert!(!connections.are_none());
}

/// kube-proxy's probing address may be in use, by kube-proxy for one.
#[test]
fn probing_leaves_nothing_behind_and_touches_nothing() {
    let mut ipvs = FakeIpvs::default();
    let taken = VirtualServer::new(Protocol::Tcp, at("198.51.100.0:20000"));
    ipvs.execute(&[Command::AddService(Service::new(taken, "wlc"))]).unwrap();
    let before = ipvs.saved();
    assert!(ipvs.has_scheduler("mh").unwrap());
    assert!(!ipvs.has_scheduler("nosuch").unwrap());
    assert!(!ipvs.has_scheduler("a-name-that-is-too-long").unwrap());
    assert_eq!(ipvs.saved(), before);
    ipvs.fail_next = Some(libc::EPERM);
    let text = ipvs.has_scheduler("mh").unwrap_err().to_string();
    assert!(text.contains("scheduler mh"), "{text}");
}

#[test]
fn a_timeout_of_0_stays_as_it_is() {
    let mut ipvs = FakeIpvs::default();
    ipvs.set_timeouts(Timeouts { tcp: 60, ..Timeouts::default() }).unwrap();
    assert_eq!(ipvs.timeouts().unwrap(), Timeouts { tcp: 60, tcp_fin: 120, udp: 300 });
}

/// The same list is tried in the guest kernel: `tests/ipvs/codec.rs`.
#[test]
fn it_refuses_what_the_kernel_refuses() {
    let refusals: [(Command, i32); 8] = [
        (Command::AddService(Service { prefix: 0, ..six("rr") }), libc::EINVAL),
        (Command::AddService(six("a-name-that-is-too-long")), libc::EINVAL),
        (Command::AddService(six("nosuch")), libc::ENOENT),
        (Command::AddDestination(six("rr").server, to("[fd00:244:1::5]:53", 1)), libc::ESRCH),
        (Command::AddDestination(web(), to("[fd00:244:1::5]:53", 1)), libc::EINVAL),
        (Command::AddDestination(web(), to("224.0.0.1:80", 1)), libc::EINVAL),
        (Command::AddDestination(web(), to("10.244.1.6:80", u32::MAX)), libc::ERANGE),
        (
            Command::AddDestination(web(), Destination { lower_threshold: 2, ..to("10.0.0.1:1", 1) }),
            libc::ERANGE,
        ),
    ];
    for (command, errno) in refusals {
        let result = table().execute(std::slice::from_ref(&command));
        assert_eq!(failures(result), [(0, errno)], "{command}");
    }
}

fn six(scheduler: &str) -> Service {
    Service::new(VirtualServer::new(Protocol::Tcp, at("[fd00:96::10]:53")), scheduler)
}
