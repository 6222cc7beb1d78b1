//! Connections through the rules, from the node itself.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::model::{Affinity, Family, Scheduler, ServicePort, Verdict};

use super::node::{Kind, Node, each, run};

/// Answers every connection with the address that it came to.
fn serve(node: &Node, n: u16) {
    let prefix = node.family.bits().to_string();
    for index in 1..=n {
        let address = node.at(Kind::Pod, index);
        run("ip", &["address", "add", &format!("{address}/{prefix}"), "dev", "lo", "nodad"]);
        let listener = TcpListener::bind((address, 8080)).unwrap();
        thread::spawn(move || while listener.accept().is_ok_and(|(stream, _)| answer(stream, address)) {});
    }
    let (own, gateway) = match node.family {
        Family::V4 => ("172.18.0.2/16", "172.18.0.1"),
        Family::V6 => ("fd00:18::2/64", "fd00:18::1"),
    };
    run("ip", &["link", "add", "uplink", "type", "veth", "peer", "far"]);
    run("ip", &["link", "set", "far", "up"]);
    run("ip", &["link", "set", "uplink", "up"]);
    run("ip", &["address", "add", own, "dev", "uplink", "nodad"]);
    let family = if node.family == Family::V4 { "-4" } else { "-6" };
    run("ip", &[family, "route", "add", "default", "via", gateway, "dev", "uplink"]);
}

fn answer(mut stream: TcpStream, address: IpAddr) -> bool {
    stream.write_all(address.to_string().as_bytes()).is_ok()
}

fn ask(to: SocketAddr) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.parse().unwrap())
}

/// How many of `n` connections each endpoint got.
fn spread(node: &Node, index: u16, n: usize) -> Vec<usize> {
    let to = SocketAddr::new(node.at(Kind::Cluster, index), 80);
    let answers: Vec<_> = (0..n).map(|_| ask(to).unwrap()).collect();
    (1..=4).map(|pod| answers.iter().filter(|answer| **answer == node.at(Kind::Pod, pod)).count()).collect()
}

#[test]
fn connections_are_spread_as_the_scheduler_says() {
    each(|mut node| {
        serve(&node, 4);
        let affinity = Some(Affinity { timeout_seconds: 60.try_into().unwrap() });
        node.table.set(ServicePort { scheduler: Scheduler::RoundRobin, ..node.service(1, 4) });
        node.table.set(ServicePort { scheduler: Scheduler::SourceHash, ..node.service(2, 4) });
        node.table.set(ServicePort { affinity, ..node.service(3, 4) });
        node.table.set(node.service(4, 4));
        node.sync();
        assert_eq!(spread(&node, 1, 40), [10, 10, 10, 10]);
        for sticky in [2, 3] {
            let counts = spread(&node, sticky, 40);
            assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1, "{counts:?}");
        }
        // Binomial: 100 of 400, the chance to be outside of 50..150 is below 1 in 10 million.
        assert!(spread(&node, 4, 400).iter().all(|count| (50..150).contains(count)));
    });
}

#[test]
fn e9_affinity_ends_with_its_endpoint_and_outlives_other_changes() {
    each(|mut node| {
        serve(&node, 4);
        let affinity = Some(Affinity { timeout_seconds: 60.try_into().unwrap() });
        let mut port = ServicePort { affinity, ..node.service(3, 3) };
        node.table.set(port.clone());
        node.sync();
        let to = SocketAddr::new(node.at(Kind::Cluster, 3), 80);
        let first = ask(to).unwrap();
        port.cluster = node.endpoints(4);
        node.table.set(port.clone());
        node.sync();
        assert!((0..10).all(|_| ask(to).unwrap() == first), "after another endpoint came");
        port.cluster = port.cluster.iter().copied().filter(|endpoint| endpoint.address != first).collect();
        node.table.set(port);
        node.sync();
        let second = ask(to).unwrap();
        assert_ne!(second, first);
        assert!((0..10).all(|_| ask(to).unwrap() == second));
    });
}

/// k8s#24648: twelve Services, because one alone may choose the same endpoint again.
#[test]
fn e9_affinity_ends_with_its_time() {
    each(|mut node| {
        serve(&node, 4);
        let affinity = Some(Affinity { timeout_seconds: 2.try_into().unwrap() });
        for index in 1..=12 {
            node.table.set(ServicePort { affinity, ..node.service(index, 4) });
        }
        node.sync();
        let ask_all = |times: usize| -> Vec<Vec<IpAddr>> {
            let to = |index| SocketAddr::new(node.at(Kind::Cluster, index), 80);
            (1..=12).map(|index| (0..times).map(|_| ask(to(index)).unwrap()).collect()).collect()
        };
        let before = ask_all(2);
        assert!(before.iter().all(|answers| answers[0] == answers[1]), "{before:?}");
        thread::sleep(Duration::from_secs(3));
        let after = ask_all(1);
        assert!(before.iter().zip(&after).any(|(before, after)| before[0] != after[0]), "{after:?}");
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    each(|mut node| {
        serve(&node, 1);
        node.table.set(node.service(1, 1));
        node.sync();
        let to = SocketAddr::new(node.at(Kind::Cluster, 1), 80);
        assert_eq!(ask(to).unwrap(), node.at(Kind::Pod, 1));
        let reject =
            ServicePort { internal: Verdict::Reject, external: Verdict::Reject, ..node.service(1, 0) };
        node.table.set(reject);
        node.sync();
        let start = Instant::now();
        let error = ask(to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < Duration::from_secs(1));
    });
}
