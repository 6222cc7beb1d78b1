//! Clients that stay: for what becomes of flows while rules change.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt;

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
    pub fn ask(&self) -> Result<String, std::io::ErrorKind> {
        let mut buffer = [0; 200];
        let kind = |error: std::io::Error| error.kind();
        self.socket.send(b"?").map_err(kind)?;
        let length = self.socket.recv(&mut buffer).map_err(kind)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(text.split(' ').next().unwrap().to_owned())
    }

    pub fn port(&self) -> u16 {
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

impl From<UdpSocket> for UdpClient {
    fn from(socket: UdpSocket) -> Self {
        UdpClient { socket }
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

    pub fn address(&self) -> SocketAddr {
        self.lines.get_ref().local_addr().unwrap()
    }

    /// Ends it with a reset, so that nobody remembers it for long.
    pub fn reset(self) {
        let stream = self.lines.get_ref();
        sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
    }

    /// Whether the server still repeats what it hears.
    pub fn is_alive(&mut self) -> bool {
        let stream = self.lines.get_mut();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut line = String::new();
        stream.write_all(b"still there?\n").is_ok()
            && self.lines.read_line(&mut line).is_ok_and(|length| length > 0)
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

/// Sends TCP segments of a connection's server to its client with sequence numbers all over the place, of which at most
/// one is where it may be.
pub fn send_out_of_window(rig: &Rig, server: &str, client: SocketAddr) {
    use rustix::net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with,
    };
    let server = address(server);
    let send = || {
        let socket =
            socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP));
        let socket = socket.expect("this test needs root: a raw socket");
        bind(&socket, &SocketAddr::new(server.ip(), 0)).unwrap();
        for sequence in [0u32, 1 << 30, 1 << 31] {
            let segment = segment(server, client, sequence, ACK);
            sendto(&socket, &segment, SendFlags::empty(), &SocketAddr::new(client.ip(), 0)).unwrap();
        }
    };
    rig.lab.host_of(server.ip()).unwrap().namespace.run(send).unwrap();
}

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

/// A TCP header and its checksum: a wrong one would be INVALID too.
pub fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 6, 0, 20], &bytes].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// What an ICMP rejection makes of a request.
pub fn refused() -> Result<String, std::io::ErrorKind> {
    Err(std::io::ErrorKind::ConnectionRefused)
}
