//! The door to IPVS in a real kernel, against ipvsadm and /proc/net/ip_vs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use ferrovia::kernel::ipvs::{
    Command, Connections, Destination, Flags, ForwardingMethod, Ipvs, IpvsError, KernelIpvs, Service,
    Timeouts, VirtualServer,
};
use ferrovia::kernel::netns::Namespace;
use ferrovia::model::{Family, Protocol};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::common::rig::{PATIENCE, eventually};

fn run(namespace: &Namespace, script: &str) -> String {
    let output = namespace.command("sh").unwrap().args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs root and ipvsadm: {script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network where packets to everywhere go to lo. Without any the kernel takes no IPv4 destination: no address is unicast.
pub(super) fn network() -> Namespace {
    let namespace = Namespace::new().unwrap();
    run(&namespace, "ip link set lo up; ip route add default dev lo");
    namespace
}

/// Works with the table of a namespace.
pub(super) fn with<T: Send>(namespace: &Namespace, work: impl FnOnce(&mut KernelIpvs) -> T + Send) -> T {
    namespace.run(|| work(&mut KernelIpvs::open().unwrap())).unwrap()
}

pub(super) fn execute(namespace: &Namespace, commands: &[Command]) -> Result<(), IpvsError> {
    with(namespace, |ipvs| ipvs.execute(commands))
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

/// Holds a listing to what has to be in it, in any order. It goes by places in a table that all namespaces share, so that
/// others' changes may cost it lines or make some come twice: it is read until it is whole.
#[track_caller]
pub(super) fn assert_lists<Line: AsRef<str>>(mut list: impl FnMut() -> Vec<String>, expected: &[Line]) {
    let mut expected: Vec<_> = expected.iter().map(AsRef::as_ref).collect();
    expected.sort_unstable();
    let mut seen = Vec::new();
    let is_whole = eventually(PATIENCE, || {
        seen = list();
        seen == expected
    });
    assert!(is_whole, "{seen:#?}\nis not\n{expected:#?}");
}

/// As ipvsadm reads it.
fn saved(namespace: &Namespace) -> Vec<String> {
    sorted(&run(namespace, "ipvsadm-save -n"))
}

/// As the door reads it: the commands that would make it.
pub(super) fn listed(namespace: &Namespace) -> Vec<String> {
    let mut commands: Vec<_> = with(namespace, all).iter().map(Command::to_string).collect();
    commands.sort();
    commands
}

fn all(ipvs: &mut KernelIpvs) -> Vec<Command> {
    let mut servers = Vec::new();
    ipvs.services(&mut |service, _| servers.push(service.clone())).unwrap();
    let mut commands = Vec::new();
    for service in servers {
        let server = service.server;
        commands.push(Command::AddService(service));
        let mut add = |to: &Destination| commands.push(Command::AddDestination(server, *to));
        ipvs.destinations(&server, &mut |to, _, _| add(to)).unwrap();
    }
    commands
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(text: &str) -> VirtualServer {
    VirtualServer::new(Protocol::Tcp, at(text))
}

fn udp(text: &str) -> VirtualServer {
    VirtualServer::new(Protocol::Udp, at(text))
}

fn web() -> VirtualServer {
    tcp("10.96.0.10:80")
}

fn to(text: &str, weight: u32) -> Destination {
    Destination::new(at(text), weight)
}

/// Every way of matching, choosing and forwarding that ipvsadm has options for.
pub(super) fn everything() -> Vec<Command> {
    let services = services();
    let mark = VirtualServer::Mark { family: Family::V4, mark: 7 };
    let mark_6 = VirtualServer::Mark { family: Family::V6, mark: 7 };
    let limited = Destination { upper_threshold: 50, lower_threshold: 10, ..to("10.244.1.6:8080", 100) };
    let by = |method, text| Destination { method, ..to(text, 1) };
    let destinations = [
        (web(), to("10.244.1.5:8080", 1)),
        (web(), limited),
        (web(), to("10.244.1.7:8080", 0)),
        (tcp("[fd00:96::10]:80"), to("[fd00:244:1::5]:8080", 1)),
        (mark, by(ForwardingMethod::DirectRoute, "10.244.1.5:0")),
        (mark_6, by(ForwardingMethod::DirectRoute, "[fd00:244:1::5]:0")),
        (udp("10.96.0.10:53"), by(ForwardingMethod::Tunnel, "10.244.1.5:53")),
    ];
    let services = services.into_iter().map(Command::AddService);
    services.chain(destinations.map(|(server, to)| Command::AddDestination(server, to))).collect()
}

fn services() -> Vec<Service> {
    let flagged = |server, scheduler, flags| Service { flags, ..Service::new(server, scheduler) };
    let sctp = VirtualServer::new(Protocol::Sctp, at("10.96.0.10:9999"));
    vec![
        Service::new(web(), "rr"),
        Service::new(udp("10.96.0.10:53"), "wrr"),
        Service::new(sctp, "lc"),
        Service::new(tcp("[fd00:96::10]:80"), "wlc"),
        Service::new(VirtualServer::Mark { family: Family::V4, mark: 7 }, "sed"),
        Service::new(VirtualServer::Mark { family: Family::V6, mark: 7 }, "nq"),
        Service::new(tcp("10.96.0.11:80"), "dh").persistent(10800),
        Service { prefix: 24, ..Service::new(tcp("10.96.0.12:80"), "rr").persistent(60) },
        Service { prefix: 64, ..Service::new(tcp("[fd00:96::12]:80"), "rr").persistent(60) },
        flagged(tcp("10.96.0.13:80"), "sh", Flags::SCHED_2),
        flagged(tcp("10.96.0.14:80"), "sh", Flags::SCHED_1 | Flags::SCHED_2),
        flagged(tcp("10.96.0.15:80"), "mh", Flags::SCHED_2).persistent(10800),
        flagged(udp("10.96.0.16:53"), "rr", Flags::ONE_PACKET),
    ]
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn what_is_written_is_what_ipvsadm_writes() {
    let (ours, theirs) = (network(), network());
    execute(&ours, &everything()).unwrap();
    for command in everything() {
        run(&theirs, &format!("ipvsadm {command}"));
    }
    for reader in
        ["ipvsadm-save -n", "ipvsadm -Ln --exact", "ipvsadm -Ln --thresholds", "cat /proc/net/ip_vs"]
    {
        let same = || sorted(&run(&ours, reader)) == sorted(&run(&theirs, reader));
        assert!(
            eventually(PATIENCE, same),
            "{reader}:\n{}\nis not\n{}",
            run(&ours, reader),
            run(&theirs, reader)
        );
    }
    let is_whole = || {
        let saved = saved(&ours);
        let has = |line: &str| saved.iter().any(|saved| saved == line);
        saved.len() == everything().len() && has("-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1")
    };
    assert!(eventually(PATIENCE, is_whole), "{:#?}", saved(&ours));
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn what_ipvsadm_writes_is_read() {
    let namespace = network();
    let written: Vec<_> = everything().iter().map(Command::to_string).collect();
    for command in &written {
        run(&namespace, &format!("ipvsadm {command}"));
    }
    assert_lists(|| listed(&namespace), &written);
    let missing = with(&namespace, |ipvs| {
        let mut count = 0;
        ipvs.destinations(&tcp("10.96.0.99:80"), &mut |_, _, _| count += 1).map(|()| count)
    });
    assert_eq!(missing.unwrap(), 0, "a virtual server that is not there has no destinations");
}

/// The two methods that ipvsadm cannot set. It has no name for the second, and /proc calls it Masq.
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn local_and_bypass_are_kept() {
    let namespace = network();
    let by = |method, text| Command::AddDestination(web(), Destination { method, ..to(text, 1) });
    let local = by(ForwardingMethod::Local, "10.244.1.5:80");
    let bypass = by(ForwardingMethod::Bypass, "10.244.1.6:80");
    let commands = [Command::AddService(Service::new(web(), "rr")), local, bypass];
    execute(&namespace, &commands).unwrap();
    assert_lists(|| listed(&namespace), &commands.map(|command| command.to_string()));
    let table = || run(&namespace, "cat /proc/net/ip_vs");
    let is_local = || {
        let table = table();
        let line = table.lines().find(|line| line.contains("0AF40105:0050"));
        line.is_some_and(|line| line.split_whitespace().nth(2) == Some("Local"))
    };
    assert!(eventually(PATIENCE, is_local), "{}", table());
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn setting_replaces_everything() {
    let namespace = network();
    let sticky = Service { flags: Flags::SCHED_1, prefix: 24, ..Service::new(web(), "sh") }.persistent(60);
    execute(
        &namespace,
        &[Command::AddService(sticky), Command::AddDestination(web(), to("10.244.1.5:8080", 1))],
    )
    .unwrap();
    execute(
        &namespace,
        &[
            Command::SetService(Service::new(web(), "lc")),
            Command::SetDestination(web(), to("10.244.1.5:8080", 0)),
        ],
    )
    .unwrap();
    let expected = ["-A -t 10.96.0.10:80 -s lc", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0"];
    assert_lists(|| saved(&namespace), &expected);
    assert_lists(|| listed(&namespace), &expected);
}

/// I6 (k8s#101506): EEXIST and ESRCH are no reason to fail.
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn what_was_there_before_does_not_matter() {
    let namespace = network();
    let add = [
        Command::AddService(Service::new(web(), "rr")),
        Command::AddDestination(web(), to("10.244.1.5:8080", 1)),
    ];
    let expected = ["-A -t 10.96.0.10:80 -s rr", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1"];
    for time in ["first", "second"] {
        execute(&namespace, &add).unwrap();
        println!("{time}");
        assert_lists(|| saved(&namespace), &expected);
    }
    let delete = [Command::DeleteDestination(web(), at("10.244.1.5:8080")), Command::DeleteService(web())];
    for time in ["first", "second"] {
        execute(&namespace, &delete).unwrap();
        println!("{time}");
        assert_lists(|| saved(&namespace), &[] as &[&str]);
    }
    let set = [
        Command::SetService(Service::new(web(), "rr")),
        Command::SetDestination(web(), to("10.244.1.5:8080", 1)),
    ];
    execute(&namespace, &set).unwrap();
    assert_lists(|| saved(&namespace), &expected);
    execute(&namespace, &[Command::SetDestination(web(), to("10.244.1.6:8080", 1))]).unwrap();
    let [server, first] = expected;
    let second = "-a -t 10.96.0.10:80 -r 10.244.1.6:8080 -m -w 1";
    assert_lists(|| saved(&namespace), &[server, first, second]);
}

/// What `it_refuses_what_the_kernel_refuses` holds the fake to.
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn refusals_are_named_and_stop_nothing() {
    let namespace = network();
    let six = |scheduler| Service::new(tcp("[fd00:96::10]:53"), scheduler);
    let refused = [
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
    let mut commands = vec![Command::AddService(Service::new(web(), "rr"))];
    commands.extend(refused.iter().map(|(command, _)| command.clone()));
    commands.push(Command::AddDestination(web(), to("10.244.1.5:8080", 1)));
    let error = execute(&namespace, &commands).unwrap_err();
    let text = error.to_string();
    let IpvsError::Refused { failures } = error else { panic!("{text}") };
    for ((command, errno), (index, name, error)) in refused.iter().zip(&failures) {
        assert_eq!((error.refusal(), name), (Some(*errno), &command.to_string()), "{error}");
        assert_eq!(commands[*index], *command);
    }
    assert_eq!(failures.len(), refused.len(), "{text}");
    assert!(failures[2].2.to_string().contains("the kernel has no scheduler nosuch"), "{text}");
    let kept = ["-A -t 10.96.0.10:80 -s rr", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1"];
    assert_lists(|| saved(&namespace), &kept);
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn without_privilege_everything_says_so() {
    let text = network()
        .run(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            let mut ipvs = KernelIpvs::open().unwrap();
            assert!(ipvs.services(&mut |_, _| {}).is_err());
            assert!(ipvs.set_timeouts(Timeouts::default()).is_err());
            assert!(ipvs.has_scheduler("rr").is_err());
            ipvs.execute(&[Command::AddService(Service::new(web(), "rr"))]).unwrap_err().to_string()
        })
        .unwrap();
    assert!(text.contains("CAP_NET_ADMIN") && text.contains("-A -t 10.96.0.10:80 -s rr"), "{text}");
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn schedulers_are_found_without_a_trace() {
    let namespace = network();
    run(
        &namespace,
        "ipvsadm -A -t 198.51.100.0:20000 -s wlc; ipvsadm -a -t 198.51.100.0:20000 -r 10.1.1.1:80 -m",
    );
    let before = ["-A -t 198.51.100.0:20000 -s wlc", "-a -t 198.51.100.0:20000 -r 10.1.1.1:80 -m -w 1"];
    assert_lists(|| saved(&namespace), &before);
    with(&namespace, |ipvs| {
        for name in ["rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"] {
            assert!(ipvs.has_scheduler(name).unwrap(), "{name}");
        }
        for name in ["nosuch", "a-name-that-is-too-long"] {
            assert!(!ipvs.has_scheduler(name).unwrap(), "{name}");
        }
    });
    assert_lists(|| saved(&namespace), &before);
}

#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn timeouts_and_version_are_those_of_ipvsadm() {
    let namespace = network();
    let (timeouts, version) = with(&namespace, |ipvs| {
        ipvs.set_timeouts(Timeouts { tcp: 901, tcp_fin: 121, udp: 301 }).unwrap();
        ipvs.set_timeouts(Timeouts { udp: 302, ..Timeouts::default() }).unwrap();
        (ipvs.timeouts().unwrap(), ipvs.version().unwrap())
    });
    assert_eq!(timeouts, Timeouts { tcp: 901, tcp_fin: 121, udp: 302 });
    assert_eq!(run(&namespace, "ipvsadm -Ln --timeout").trim(), "Timeout (tcp tcpfin udp): 901 121 302");
    let theirs = run(&namespace, "ipvsadm -Ln");
    let ours = format!("IP Virtual Server version {version} (size={})", version.connection_table_size);
    assert_eq!(theirs.lines().next(), Some(&*ours));
}

/// The namespace's own: nothing that the others do is seen.
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn each_namespace_has_a_table_of_its_own() {
    let (one, other) = (network(), network());
    execute(&one, &[Command::AddService(Service::new(web(), "rr"))]).unwrap();
    assert_lists(|| listed(&one), &["-A -t 10.96.0.10:80 -s rr"]);
    assert_lists(|| listed(&other), &[] as &[&str]);
}

const SERVICES: u16 = 1000;
const ENDPOINTS: u8 = 10;

fn many() -> Vec<Command> {
    let commands = (0..SERVICES).flat_map(|number| {
        let server = VirtualServer::new(Protocol::Tcp, ([10, 96, 0, 1], 1000 + number).into());
        let destinations = (1..=ENDPOINTS).map(move |last| {
            Command::AddDestination(server, Destination::new(([10, 244, 1, last], 8080).into(), 1))
        });
        std::iter::once(Command::AddService(Service::new(server, "rr"))).chain(destinations)
    });
    commands.collect()
}

/// The second time all 11,000 are refused: more refusals than a receive buffer holds.
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn many_commands_need_few_writes_and_none_is_lost() {
    let namespace = network();
    let commands = many();
    let all_of_them = commands.len() as u64;
    let are_there = |ipvs: &mut KernelIpvs| {
        assert!(eventually(PATIENCE, || all(ipvs).len() == commands.len()), "{} lines", all(ipvs).len());
    };
    with(&namespace, |ipvs| {
        let start = Instant::now();
        ipvs.execute(&commands).unwrap();
        println!("{all_of_them} commands: {:?}", start.elapsed());
        assert_eq!(ipvs.sent(), all_of_them);
        are_there(ipvs);
        let start = Instant::now();
        ipvs.execute(&commands).unwrap();
        println!("each refused and repaired: {:?}", start.elapsed());
        assert_eq!(ipvs.sent(), 3 * all_of_them);
        are_there(ipvs);
        let first = *commands[0].server();
        ipvs.execute(&[Command::SetDestination(first, to("10.244.1.1:8080", 0))]).unwrap();
        assert_eq!(ipvs.sent(), 3 * all_of_them + 1, "one changed destination is one message");
    });
    let is_whole = || saved(&namespace).len() == commands.len();
    assert!(eventually(PATIENCE, is_whole), "{} lines", saved(&namespace).len());
}

/// Statistics are summed every two seconds only (`ip_vs_est.c`).
#[test]
#[ignore = "needs IPVS: run in the guest kernel"]
fn connections_are_counted() {
    let namespace = network();
    run(&namespace, "ip address add 10.96.0.10/32 dev lo");
    let service = Service::new(web(), "rr").persistent(300);
    execute(
        &namespace,
        &[Command::AddService(service), Command::AddDestination(web(), to("127.0.0.1:8080", 1))],
    )
    .unwrap();
    let (connections, is_counted) = namespace
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
            let _client = TcpStream::connect("10.96.0.10:80").unwrap();
            let _server = listener.accept().unwrap();
            let ipvs = &mut KernelIpvs::open().unwrap();
            (connections(ipvs), eventually(PATIENCE, || counted(ipvs) == [1]))
        })
        .unwrap();
    assert_eq!(connections, Connections { active: 1, inactive: 0, persistent: 1 });
    assert!(is_counted);
}

fn connections(ipvs: &mut KernelIpvs) -> Connections {
    let mut seen = Vec::new();
    ipvs.destinations(&web(), &mut |_, connections, _| seen.push(*connections)).unwrap();
    let [connections] = seen[..] else { panic!("{seen:?}") };
    connections
}

/// Of each virtual server.
fn counted(ipvs: &mut KernelIpvs) -> Vec<u64> {
    let mut counted = Vec::new();
    ipvs.services(&mut |_, statistics| counted.push(statistics.connections)).unwrap();
    counted
}

/// On a kernel with IPVS there is nothing to see.
#[test]
fn a_kernel_without_ipvs_is_told_with_what_to_do() {
    if let Err(error) = KernelIpvs::open() {
        let text = error.to_string();
        assert!(text.contains("load the module ip_vs") && text.contains("--proxy-mode"), "{text}");
    }
}
