//! Clients that stay: of UDP, with one port for all requests, and of TCP, with one connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use super::rig::{PATIENCE, Rig, address, ip};

/// A client that goes on sending from the same port.
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    pub fn new(rig: &Rig, from: &str, to: &str) -> Self {
        let socket = rig.lab.datagrams(ip(from)).unwrap();
        socket.connect(address(to)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        UdpClient { socket }
    }

    /// The server that answers, or the error.
    pub fn ask(&self) -> Result<String, ErrorKind> {
        let mut buffer = [0; 200];
        let kind = |error: io::Error| error.kind();
        self.socket.send(b"?").map_err(kind)?;
        let length = self.socket.recv(&mut buffer).map_err(kind)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(text.split(' ').next().unwrap().to_owned())
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Its line in the connection tracking table.
    pub fn tracked(&self, rig: &Rig) -> Option<String> {
        let port = format!("sport={} ", self.port());
        let table = rig.tracked("udp");
        let line = table.lines().find(|line| line.contains(&port))?;
        // The time left and [ASSURED] change; addresses and the id do not.
        let kept = |word: &&str| word.contains('=');
        Some(line.split_whitespace().filter(kept).collect::<Vec<_>>().join(" "))
    }
}

/// A connection to a server that repeats what it hears.
pub struct Echo {
    lines: BufReader<TcpStream>,
    pub server: String,
}

impl Echo {
    pub fn connect(rig: &Rig, from: &str, to: &str) -> Self {
        let stream = rig.lab.connect(ip(from), address(to), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut echo = Echo { lines: BufReader::new(stream), server: String::new() };
        let introduction = echo.hear();
        echo.server = introduction.split(' ').next().unwrap().to_owned();
        echo
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    pub fn assert_alive(&mut self) {
        self.lines.get_mut().write_all(b"still there?\n").unwrap();
        assert_eq!(self.hear(), "still there?\n");
    }
}

/// What an ICMP rejection makes of a request.
pub fn refused() -> Result<String, ErrorKind> {
    Err(ErrorKind::ConnectionRefused)
}
