//! Ends and pauses of single connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::SockRef;

use super::{WEB, listen, start};
use crate::common::rig::{PATIENCE, Rig, SOON, address, eventually, ip, web};

/// A client's connection through the Service, and the server's end of it.
fn pair(rig: &Rig, listener: &std::net::TcpListener) -> (TcpStream, TcpStream) {
    let client = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (client, server)
}

#[test]
fn p3_half_closed_connections_stay_half_closed() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let (mut client, mut server) = pair(&rig, &listener);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        server.write_all(b"answer ").unwrap();
        let mut answer = [0; 7];
        client.read_exact(&mut answer).unwrap();
    }
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// Also of a side that has said all that it had to say.
#[test]
fn p3_resets_travel_both_ways_also_through_half_closed_connections() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    for closes in [false, true] {
        for client_resets in [false, true] {
            let (client, server) = pair(&rig, &listener);
            let (resetting, mut other) = if client_resets { (client, server) } else { (server, client) };
            if closes {
                resetting.shutdown(Shutdown::Write).unwrap();
                assert_eq!(other.read(&mut [0]).unwrap(), 0);
            }
            sockopt::set_socket_linger(&resetting, Some(Duration::ZERO)).unwrap();
            drop(resetting);
            let is_reset = |other: &mut TcpStream| match closes {
                // Its end was read before: only writing tells.
                true => eventually(SOON, || other.write_all(b"x").is_err()),
                false => other.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            };
            assert!(is_reset(&mut other), "half closed {closes}, by the client {client_resets}");
        }
    }
}

/// envoyproxy/envoy#45190: an answer, then a reset, as of a server that closes before it has read everything.
#[test]
fn p3_what_came_before_a_reset_is_passed_on() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    for number in 0..200 {
        let (mut client, mut server) = pair(&rig, &listener);
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let (mut resetting, mut other) = if number % 2 == 0 { (client, server) } else { (server, client) };
        // Less than goes without being acknowledged.
        resetting.write_all(&[7; 8000]).unwrap();
        sockopt::set_socket_linger(&resetting, Some(Duration::ZERO)).unwrap();
        drop(resetting);
        let mut heard = Vec::new();
        let end = other.read_to_end(&mut heard).expect_err("a reset, after all that was said");
        assert_eq!((heard.len(), end.kind()), (8000, ErrorKind::ConnectionReset), "{number}\n{}", rig.log());
    }
}

/// A read ends before an urgent byte, and so does splice(2), also where more comes after it.
#[test]
fn p3_urgent_bytes_arrive_among_the_others() {
    const URGENT: u8 = b'!';
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    for length in [0, 100, 300_000] {
        for client_sends in [true, false] {
            let (client, server) = pair(&rig, &listener);
            let (mut sender, mut receiver) = if client_sends { (client, server) } else { (server, client) };
            let block = vec![b'.'; length];
            let mut said: Vec<u8> = Vec::new();
            for _ in 0..3 {
                said.extend(block.iter().chain(&[URGENT]).chain(&block));
            }
            let send = || {
                for _ in 0..3 {
                    sender.write_all(&block).unwrap();
                    SockRef::from(&sender).send_out_of_band(&[URGENT]).unwrap();
                    sender.write_all(&block).unwrap();
                    // The kernel knows of one at a time: another one would take its place.
                    thread::sleep(Duration::from_millis(50));
                }
                sender.shutdown(Shutdown::Write).unwrap();
            };
            let heard = thread::scope(|scope| {
                scope.spawn(send);
                let mut heard = Vec::new();
                receiver.read_to_end(&mut heard).map(|_| heard)
            });
            assert!(heard.unwrap() == said, "{length} bytes, by the client {client_sends}");
        }
    }
}

/// What lasts is looked after at both sides: an end that vanished without a word is found out.
#[test]
fn p3_connections_that_last_are_kept_alive() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let _pair = pair(&rig, &listener);
    let established = || rig.run("ss -Htno state established dport = :8080 or sport = :80");
    let are_kept_alive =
        || established().lines().filter(|line| line.contains("timer:(keepalive")).count() == 2;
    assert!(eventually(SOON, are_kept_alive), "{}", established());
}

/// Nobody is looked for any more, and no endpoint is to blame.
#[test]
fn a_client_that_resets_before_an_endpoint_was_found_is_let_go() {
    let silent = ["10.244.2.77", "10.244.2.78", "10.244.2.79", "10.244.2.80"];
    let rig = start(&[("web.yaml", &web("", &silent))]);
    let figure = |name| super::metric(&rig, name);
    let is_let_go = || {
        let [begun, refused] =
            ["ferrovia_proxied_connections_total", "ferrovia_proxied_refused_total"].map(figure);
        let client = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
        assert!(eventually(SOON, || figure("ferrovia_proxied_connections_total") > begun));
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(eventually(SOON, || figure("ferrovia_proxied_active") == 0.0), "{}", rig.log());
        figure("ferrovia_proxied_refused_total") == refused
    };
    // A machine that is busy may take the 4 s after which it is refused.
    assert!(eventually(PATIENCE, is_let_go), "{}", rig.log());
}

/// It asked something, so an endpoint gets it, and hears of the end.
#[test]
fn p3_a_client_that_asks_and_resets_before_an_endpoint_was_found_is_gone_for_its_endpoint_too() {
    let rig = start(&[("web.yaml", &web("", &["10.244.2.77", "10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    for _ in 0..4 {
        let mut client = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        let (mut server, _) = listener.accept().unwrap();
        let mut question = [0; 8];
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        assert!(eventually(SOON, || super::metric(&rig, "ferrovia_proxied_active") == 0.0), "{}", rig.log());
        assert!(eventually(SOON, || server.write_all(b"answer").is_err()));
    }
}

/// A server that has much to say to a client that does not listen has to wait, and nothing is lost.
#[test]
fn p3_a_slow_reader_slows_its_server_and_fills_no_memory() {
    const LENGTH: usize = 200 << 20;
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let (mut client, mut server) = pair(&rig, &listener);
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![7; 1 << 16];
            while sent.load(Ordering::Relaxed) < LENGTH {
                server.write_all(&block).unwrap();
                sent.fetch_add(block.len(), Ordering::Relaxed);
            }
            server.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(Duration::from_secs(2));
        let waiting = sent.load(Ordering::Relaxed);
        assert!(waiting < 64 << 20, "{waiting} bytes were taken for a client that reads nothing");
        let memory = super::metric(&rig, "process_resident_memory_bytes");
        assert!(memory < 150e6, "{memory}");
        let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            match client.read(&mut buffer).unwrap() {
                0 => break,
                length => {
                    assert!(buffer[..length].iter().all(|byte| *byte == 7));
                    total += length;
                }
            }
        }
        assert_eq!(total, LENGTH);
    });
}

/// The endpoint accepts and never says a word; others are served meanwhile.
#[test]
fn silent_endpoints_harm_nobody() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let silent: Vec<_> = (0..200).map(|_| pair(&rig, &listener)).collect();
    let (mut client, mut server) = pair(&rig, &listener);
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(silent);
}

/// SIGTERM: connections go on until they end, and new ones are served as well.
#[test]
fn a_process_that_is_told_to_end_waits_for_its_connections() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let (mut client, mut server) = pair(&rig, &listener);
    let id = rig.process();
    rig.run(&format!("kill -TERM {id}"));
    thread::sleep(Duration::from_millis(500));
    client.write_all(b"still").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let (late, late_server) = pair(&rig, &listener);
    drop((late, late_server));
    drop((client, server));
    // It stays as a zombie, which has no program any more.
    let has_ended = || std::fs::read_link(format!("/proc/{id}/exe")).is_err();
    assert!(eventually(SOON, has_ended));
}
