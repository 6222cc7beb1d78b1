//! More than there is room for.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ferrovia::kernel::descriptors;
use ferrovia::model::Protocol;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;

use super::{WEB, metric, start};
use crate::common::clients::{Echo, SYN, segment};
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, PROGRAM, Rig, SOON, address, dns, eventually, ip, web};
use crate::ipvs::lab::shell;

/// For thousands of connections on a machine that has much else to do.
const LONG: Duration = PATIENCE.saturating_mul(4);
const OTHER: &str = "10.96.0.20:80";

/// k8s#5461, #12144, #13709: `ulimit -n 256`. Connections wait for others to end, and those that are open go on.
#[test]
fn p1_without_file_descriptors_accepting_waits_and_connections_live() {
    let mut rig = Rig::without_proxy(DataPlane::Userspace, &[("web.yaml", &web("", &["10.244.1.5"]))], &[]);
    let wanted = rig.command();
    let mut command = rig.lab.here().command("prlimit").unwrap();
    command.args(["--nofile=256:256", PROGRAM]).args(wanted.get_args());
    rig.spawn(command);
    rig.wait_until_healthy();
    let mut served: Vec<Echo> = (0..16).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    let waiting: Vec<TcpStream> =
        (0..100).map(|_| rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap()).collect();
    thread::sleep(Duration::from_secs(1));
    assert!(metric(&rig, "ferrovia_proxy_accept_pauses_total") > 0.0, "{}", rig.log());
    served.iter_mut().for_each(Echo::assert_alive);
    drop(served);
    // All at once: which of them are served first is up to the threads of the proxy.
    thread::scope(|scope| {
        for (number, stream) in waiting.into_iter().enumerate() {
            let rig = &rig;
            scope.spawn(move || {
                let heard = introduction(stream);
                assert!(heard.starts_with("10.244.1.5:8080 "), "{number}: {heard}\n{}", rig.log());
            });
        }
    });
    Echo::connect(&rig, "10.244.1.9", WEB).assert_alive();
}

/// What a server says first, or why nothing was heard of it.
pub fn introduction(stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => line,
        Err(error) => error.to_string(),
    }
}

fn descriptors(process: u32) -> BTreeSet<usize> {
    let all = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn p1_a_limit_on_connections_has_the_next_ones_wait() {
    let flags = ["--userspace-max-connections=3".to_owned()];
    let mut rig =
        Rig::without_proxy(DataPlane::Userspace, &[("web.yaml", &web("", &["10.244.1.5"]))], &flags);
    rig.start_proxy();
    let mut served: Vec<Echo> = (0..3).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    let waiting = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
    assert!(eventually(SOON, || metric(&rig, "ferrovia_proxy_accept_pauses_total") > 0.0), "{}", rig.log());
    assert_eq!(metric(&rig, "ferrovia_proxied_active"), 3.0);
    served.iter_mut().for_each(Echo::assert_alive);
    drop(served.pop());
    let heard = introduction(waiting);
    assert!(heard.starts_with("10.244.1.5:8080 "), "{heard}\n{}", rig.log());
}

/// The last descriptor goes for the client's own socket. No endpoint is at fault, and no attempt is spent.
#[test]
fn p1_a_client_that_was_accepted_without_a_descriptor_for_its_endpoint_waits() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let process = rig.process();
    let mut open = descriptors(process);
    let is_settled = || {
        thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut open, descriptors(process)) == open
    };
    assert!(eventually(SOON, is_settled));
    // The first two that are free: a descriptor has to be below the limit.
    let limit = (0..).filter(|number| !open.contains(number)).nth(1).unwrap();
    let hard = rig.run(&format!("prlimit --pid {process} --nofile --noheadings --output=HARD"));
    rig.run(&format!("prlimit --pid {process} --nofile={limit}:{}", hard.trim()));
    let stream = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
    thread::sleep(Duration::from_secs(2));
    rig.run(&format!("prlimit --pid {process} --nofile={0}:{0}", hard.trim()));
    let heard = introduction(stream);
    assert!(heard.starts_with("10.244.1.5:8080 "), "{heard}\n{}", rig.log());
    assert!(metric(&rig, "ferrovia_proxy_accept_pauses_total") > 0.0);
    assert_eq!(metric(&rig, "ferrovia_proxied_retries_total"), 0.0);
}

/// Datagrams from 50,000 addresses: the oldest flows go, memory does not grow, and other Services do not notice.
#[test]
fn p1_a_flood_of_udp_clients_is_bounded() {
    let manifests = [("dns.yaml", &*dns(&["10.244.1.5"])), ("web.yaml", &web("", &["10.244.1.6"]))];
    let rig = start(&manifests);
    shell(&rig, "ip route add 10.99.0.0/16 via 172.18.0.100");
    let outside = rig.lab.host_of(ip("172.18.0.100")).unwrap();
    let flood = || {
        let mut command = std::process::Command::new("ip");
        assert!(
            command.args(["route", "add", "local", "10.99.0.0/16", "dev", "lo"]).status().unwrap().success()
        );
        for number in 0..50_000u32 {
            let source = Ipv4Addr::from(0x0a63_0000 + number);
            let socket = UdpSocket::bind(SocketAddr::new(source.into(), 4000)).unwrap();
            let _ = socket.send_to(b"?", "172.18.0.2:30053");
        }
    };
    outside.namespace.run(flood).unwrap();
    let mut echo = Echo::connect(&rig, "10.244.1.9", WEB);
    echo.assert_alive();
    let memory = metric(&rig, "process_resident_memory_bytes");
    assert!(memory < 150e6, "{memory}");
    let flows = metric(&rig, "ferrovia_proxied_active");
    assert!(flows < 33_000.0, "{flows}");
    let is_answered = || {
        matches!(
            rig.ask("10.244.1.9", Protocol::Udp, "10.96.0.53:53"),
            ferrovia::lab::Observed::Answered { .. }
        )
    };
    assert!(eventually(SOON, is_answered), "{}", rig.log());
}

/// An endpoint's answer is one that comes from where the client's datagram went: the kernel drops what anybody else sends to
/// the socket.
#[test]
fn udp_answers_of_strangers_are_dropped() {
    let rig = start(&[("dns.yaml", &dns(&["10.244.1.5"]))]);
    let bind = |at: &str| {
        let host = rig.lab.host_of(address(at).ip()).unwrap();
        host.namespace.run(|| UdpSocket::bind(address(at))).unwrap()
    };
    rig.lab.stop_listening(address("10.244.1.5:8080"), Protocol::Udp);
    let mut server = None;
    assert!(eventually(SOON, || {
        server = bind("10.244.1.5:8080").ok();
        server.is_some()
    }));
    let (server, stranger) = (server.unwrap(), bind("10.244.1.6:9999").unwrap());
    let client = bind("10.244.1.9:9999").unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send_to(b"question", "10.96.0.53:53").unwrap();
    let mut buffer = [0; 64];
    let (length, proxy) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    for _ in 0..10 {
        stranger.send_to(b"forged", proxy).unwrap();
    }
    thread::sleep(Duration::from_millis(200));
    server.send_to(b"answer", proxy).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"answer"[..], address("10.96.0.53:53")));
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.recv_from(&mut buffer).is_err(), "a forged answer came after the right one");
}

/// Half-open connections of 64 clients that do not exist: the kernel answers with cookies once its queue is full, and this
/// process does not hear of them.
#[test]
fn p1_a_flood_of_half_open_connections_harms_nobody() {
    let rig = start(&[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
    shell(&rig, "ip route add 10.99.0.0/16 via 172.18.0.100");
    let before = metric(&rig, "ferrovia_proxied_connections_total");
    let flood = || {
        use socket2::{Domain, Socket, Type};
        let to = address("172.18.0.2:30080");
        for host in 0..64 {
            let from = Ipv4Addr::new(10, 99, 0, host);
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::TCP)).unwrap();
            socket.set_freebind_v4(true).unwrap();
            socket.bind(&SocketAddr::new(from.into(), 0).into()).unwrap();
            for port in 1..=300 {
                let segment = segment(SocketAddr::new(from.into(), port), to, 1, SYN);
                let _ = socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into());
            }
        }
    };
    rig.lab.host_of(ip("172.18.0.100")).unwrap().namespace.run(flood).unwrap();
    for _ in 0..20 {
        Echo::connect(&rig, "172.18.0.100", "172.18.0.2:30080").assert_alive();
    }
    assert_eq!(metric(&rig, "ferrovia_proxied_connections_total") - before, 20.0, "{}", rig.log());
}

/// As many as `ulimit -Hn` allows for, 20,000 at the most. On a kernel whose limits can be raised it is
/// [`older_kernel`](super::older_kernel) that has all of them.
#[test]
fn p1_thousands_of_connections_are_held_at_once() {
    let room = (descriptors::raise_limit() as usize - 256) * 5 / 16;
    check_connections_at_once(DataPlane::Userspace, (room - 64).min(20_000));
}

/// They take less than 4 KiB of the proxy's memory each, and another Service is served as if they were not there.
pub fn check_connections_at_once(plane: DataPlane, connections: usize) {
    let descriptors = descriptors::raise_limit() as usize;
    assert!(
        descriptors >= 2 * connections + 256,
        "{descriptors} file descriptors are too few for the clients and servers"
    );
    let pods = ["10.244.1.5", "10.244.1.6"];
    let other = endpoints_of_another();
    let rig = Rig::start(plane, &[("web.yaml", &web("", &pods)), ("other.yaml", &other)]);
    let listeners = pods.map(|pod| super::listen(&rig, &format!("{pod}:8080")));
    // What is there for later is there by now.
    let mut of_another = Echo::connect(&rig, "10.244.1.9", OTHER);
    let (memory, active) =
        (|| metric(&rig, "process_resident_memory_bytes"), || metric(&rig, "ferrovia_proxied_active"));
    assert!(eventually(SOON, || active() == 1.0), "{}", rig.log());
    let before = memory();
    let are_there = AtomicBool::new(false);
    let (held, clients) = thread::scope(|scope| {
        let (are_there, rig, active) = (&are_there, &rig, &active);
        let accepting =
            listeners.each_ref().map(|listener| scope.spawn(|| accept_until(are_there, listener)));
        // Whatever fails, those who accept have to hear of it.
        let connected = catch_unwind(AssertUnwindSafe(|| {
            // Of two pods: one that has used most of its ports is slow to find another.
            let connect =
                || (0..connections / 2).map(|_| TcpStream::connect(WEB).unwrap()).collect::<Vec<_>>();
            let from = |pod| rig.lab.host_of(ip(pod)).unwrap().namespace.run(connect).unwrap();
            let clients = [from("10.244.1.8"), from("10.244.1.9")].into_iter().flatten().collect::<Vec<_>>();
            assert!(eventually(LONG, || active() as usize > clients.len()), "{}", rig.log());
            clients
        }));
        are_there.store(true, Ordering::Relaxed);
        let held = accepting.map(|accepting| accepting.join().unwrap());
        (held, connected.unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let each = (memory() - before) / connections as f64;
    println!("{connections} connections, {each:.0} bytes of process memory for each");
    assert!(each < 4096.0, "{each} bytes for each connection");
    assert_eq!(metric(&rig, "ferrovia_proxy_accept_pauses_total"), 0.0, "no limit was met");
    of_another.assert_alive();
    Echo::connect(&rig, "10.244.1.9", OTHER).assert_alive();
    // Those that are there are no pretence: the first, the last, and whoever is between.
    let mut servers: Vec<_> = held.into_iter().flatten().collect();
    for client in clients.iter().step_by(connections / 4) {
        assert!(is_carried(client, &mut servers), "{client:?}\n{}", rig.log());
    }
    // All at once, and with no more packets than it takes.
    clients.iter().for_each(|client| sockopt::set_socket_linger(client, Some(Duration::ZERO)).unwrap());
    drop(clients);
    assert!(eventually(LONG, || active() == 1.0), "{} are left", active());
}

/// Whether what a client says comes to one of the servers. Those whose connect took the proxy too long, on a busy machine, have
/// an end to read instead.
fn is_carried(mut client: &TcpStream, servers: &mut Vec<TcpStream>) -> bool {
    client.write_all(b"?").unwrap();
    loop {
        let mut polled: Vec<_> = servers.iter().map(|server| PollFd::new(server, PollFlags::IN)).collect();
        poll(&mut polled, Some(&PATIENCE.try_into().unwrap())).unwrap();
        let ready = |number: &usize| !polled[*number].revents().is_empty();
        let Some(ready) = (0..polled.len()).find(ready) else { return false };
        match (&servers[ready]).read(&mut [0; 2]) {
            Ok(1) => return true,
            _ => drop(servers.swap_remove(ready)),
        }
    }
}

fn accept_until(are_there: &AtomicBool, listener: &TcpListener) -> Vec<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    loop {
        let is_last = are_there.load(Ordering::Relaxed);
        match listener.accept() {
            Ok((stream, _)) => held.push(stream),
            Err(_) if is_last => return held,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn endpoints_of_another() -> String {
    crate::common::rig::service("other", "clusterIP: 10.96.0.20, ports: [{port: 80}]")
        + &crate::common::rig::endpoints("other", "TCP", 8080, &["10.244.2.5"])
}
