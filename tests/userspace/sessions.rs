//! Ten thousand sessions with random lengths and ends, byte by byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;

use super::{WEB, listen, start};
use crate::common::rig::{PATIENCE, Rig, address, ip, web};

const SESSIONS: u64 = 10_000;
const CLIENTS: u64 = 8;

/// How a session goes, told to the server by its number.
#[derive(Clone, Copy, Debug)]
struct Session {
    number: u64,
    there: usize,
    back: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client ends its direction, then the server answers and ends the other.
    ClientFirst,
    ServerFirst,
    ClientResets,
    ServerResets,
}

fn random(number: u64, salt: u64) -> u64 {
    let mut x = (number << 8 | salt).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Session {
    /// Mostly a few KiB, now and then enough to go through a pipe.
    fn new(number: u64) -> Self {
        let length = |salt| match random(number, salt) % 100 {
            0 => (random(number, salt + 1) % 2_000_000) as usize,
            1..8 => (random(number, salt + 1) % 200_000) as usize,
            8..20 => 0,
            _ => (random(number, salt + 1) % 8_000) as usize,
        };
        let end = match random(number, 1) % 10 {
            0..5 => End::ClientFirst,
            5..8 => End::ServerFirst,
            8 => End::ClientResets,
            _ => End::ServerResets,
        };
        // In the other order both would wait for the other to read.
        let there = if end == End::ServerFirst { length(10) % 8_000 } else { length(10) };
        Session { number, there, back: length(20), end }
    }

    fn byte(&self, way: u64, at: usize) -> u8 {
        (self.number.wrapping_mul(31).wrapping_add(way * 17).wrapping_add(at as u64 * 7)) as u8
            ^ (at >> 8) as u8
    }

    fn write(&self, stream: &mut TcpStream, way: u64, length: usize) -> io::Result<()> {
        let bytes: Vec<u8> = (0..length).map(|at| self.byte(way, at)).collect();
        let mut rest = &bytes[..];
        let mut part = 0;
        while !rest.is_empty() {
            part += 1;
            let piece = (random(self.number, 100 + part) % 20_000 + 1) as usize;
            let (now, later) = rest.split_at(piece.min(rest.len()));
            stream.write_all(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Whether all that there was came, and nothing else, and then the end.
    fn read(&self, stream: &mut TcpStream, way: u64, length: usize) -> Result<(), String> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|error| format!("{self:?}: {error}"))?;
        self.check(&bytes, way)?;
        if bytes.len() == length { Ok(()) } else { Err(format!("{self:?}: {} bytes came", bytes.len())) }
    }

    fn check(&self, bytes: &[u8], way: u64) -> Result<(), String> {
        match bytes.iter().enumerate().position(|(at, byte)| *byte != self.byte(way, at)) {
            Some(at) => Err(format!("{self:?}: byte {at} is another")),
            None => Ok(()),
        }
    }

    /// Whether some of it came, and then a reset.
    fn read_reset(&self, stream: &mut TcpStream, way: u64) -> Result<(), String> {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.check(&bytes, way),
            other => Err(format!("{self:?}: no reset but {other:?}")),
        }
    }
}

fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn serve(mut stream: TcpStream) -> Result<(), String> {
    let broken = |error: io::Error| format!("server: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut number = [0; 8];
    stream.read_exact(&mut number).map_err(broken)?;
    let session = Session::new(u64::from_be_bytes(number));
    match session.end {
        End::ClientFirst => {
            session.read(&mut stream, 0, session.there)?;
            session.write(&mut stream, 1, session.back).map_err(broken)?;
        }
        End::ServerFirst => {
            session.write(&mut stream, 1, session.back).map_err(broken)?;
            stream.shutdown(Shutdown::Write).map_err(broken)?;
            session.read(&mut stream, 0, session.there)?;
        }
        End::ClientResets => {
            stream.write_all(b"!").map_err(broken)?;
            session.read_reset(&mut stream, 0)?;
        }
        End::ServerResets => reset(stream),
    }
    Ok(())
}

fn ask(rig: &Rig, session: Session) -> Result<(), String> {
    let broken = |error: io::Error| format!("{session:?}: {error}");
    let mut stream = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.write_all(&session.number.to_be_bytes()).map_err(broken)?;
    match session.end {
        End::ClientFirst => {
            session.write(&mut stream, 0, session.there).map_err(broken)?;
            stream.shutdown(Shutdown::Write).map_err(broken)?;
            session.read(&mut stream, 1, session.back)
        }
        End::ServerFirst => {
            session.read(&mut stream, 1, session.back)?;
            session.write(&mut stream, 0, session.there).map_err(broken)
        }
        End::ClientResets => {
            stream.read_exact(&mut [0]).map_err(broken)?;
            session.write(&mut stream, 0, session.there).map_err(broken)?;
            reset(stream);
            Ok(())
        }
        End::ServerResets => session.read_reset(&mut stream, 1),
    }
}

fn accept_all(listener: &TcpListener, failures: &Mutex<Vec<String>>, served: &AtomicUsize) {
    thread::scope(|scope| {
        for _ in 0..SESSIONS {
            let (stream, _) = listener.accept().unwrap();
            scope.spawn(move || {
                if let Err(failure) = serve(stream) {
                    failures.lock().unwrap().push(failure);
                }
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
}

#[test]
fn p3_ten_thousand_sessions_are_exact_and_end_as_they_should() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let listener = listen(&rig, "10.244.1.5:8080");
    let (failures, served) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| accept_all(&listener, &failures, &served));
        for client in 0..CLIENTS {
            let (rig, failures) = (&rig, &failures);
            scope.spawn(move || {
                for number in (client..SESSIONS).step_by(CLIENTS as usize) {
                    if let Err(failure) = ask(rig, Session::new(number)) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    assert_eq!(served.into_inner() as u64, SESSIONS);
    let active = || super::metric(&rig, "ferrovia_proxied_active") == 0.0;
    assert!(crate::common::rig::eventually(crate::common::rig::SOON, active), "all of them have ended");
    assert_eq!(super::metric(&rig, "ferrovia_proxied_connections_total") as u64, SESSIONS);
}
