//! The clients of the lab: what becomes of one request.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::sctp;
use crate::model::Protocol;

/// What a client saw become of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observed {
    /// `server` answered and saw the request come from `client`.
    Answered { server: SocketAddr, client: SocketAddr },
    /// A reset or "port unreachable".
    Refused,
    /// "Network unreachable" or "host unreachable": it left the lab by the gateway.
    Unroutable,
    /// Nothing came back.
    Silence,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observed::Answered { server, client } => write!(f, "{server} answers and sees {}", client.ip()),
            Observed::Refused => f.write_str("refused"),
            Observed::Unroutable => f.write_str("left the lab"),
            Observed::Silence => f.write_str("no answer"),
        }
    }
}

/// A socket that is bound to its source address and not connected yet.
pub enum Socket {
    Tcp(OwnedFd),
    Udp(UdpSocket),
    Sctp(sctp::Client),
}

impl Socket {
    /// In the network namespace of the calling thread.
    pub fn open(from: IpAddr, protocol: Protocol) -> io::Result<Self> {
        match protocol {
            Protocol::Tcp => open_tcp(from).map(Socket::Tcp),
            Protocol::Udp => open_udp(from).map(Socket::Udp),
            Protocol::Sctp => sctp::Client::open(from).map(Socket::Sctp),
        }
    }

    pub fn ask(self, to: SocketAddr, patience: Duration) -> io::Result<Observed> {
        let asked = match self {
            Socket::Tcp(socket) => ask_tcp(socket, to, patience),
            Socket::Udp(socket) => ask_udp(&socket, to, patience),
            Socket::Sctp(socket) => socket.ask(to, patience).and_then(|answer| parse_introduction(&answer)),
        };
        asked.or_else(|error| classify(&error).ok_or(error))
    }

    pub fn connect(self, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        match self {
            Socket::Tcp(socket) => connect(socket, to, patience),
            Socket::Udp(_) | Socket::Sctp(_) => Err(ErrorKind::Unsupported.into()),
        }
    }
}

/// What an error of a socket says about the network; `None` where it says something about the lab.
fn classify(error: &io::Error) -> Option<Observed> {
    // "Protocol unreachable", of IPv4 and of IPv6: nobody serves SCTP there.
    if [Some(libc::ENOPROTOOPT), Some(libc::EPROTO)].contains(&error.raw_os_error()) {
        return Some(Observed::Refused);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Some(Observed::Refused),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Observed::Unroutable),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Observed::Silence),
        _ => None,
    }
}

fn open_tcp(from: IpAddr) -> io::Result<OwnedFd> {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    Ok(socket)
}

pub fn open_udp(from: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    report_icmp(&socket, from)?;
    Ok(socket)
}

/// Without `IP_RECVERR` a socket without connections hears of "port unreachable" only, not of "network unreachable".
pub fn report_icmp(socket: &impl AsRawFd, from: IpAddr) -> io::Result<()> {
    let (level, option) = match from {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: `on` outlives the call and `length` is its size.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ask_tcp(socket: OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<Observed> {
    let mut stream = connect(socket, to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    read_introduction(&mut stream)
}

fn connect(socket: OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    wait(&socket, PollFlags::OUT, patience)?;
    sockopt::socket_error(&socket)??;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn read_introduction(stream: &mut TcpStream) -> io::Result<Observed> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    parse_introduction(&line)
}

fn ask_udp(socket: &UdpSocket, to: SocketAddr, patience: Duration) -> io::Result<Observed> {
    socket.connect(to)?;
    let deadline = Instant::now() + patience;
    match socket.send(b"who are you?\n") {
        // netfilter dropped or rejected it in OUTPUT. A rejection follows as an error of the socket.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        sent => sent.map(drop)?,
    }
    let mut buffer = [0; 512];
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.set_read_timeout(Some(left))?;
    let length = socket.recv(&mut buffer)?;
    parse_introduction(&String::from_utf8_lossy(&buffer[..length]))
}

fn parse_introduction(line: &str) -> io::Result<Observed> {
    let parsed = line.trim_end().split_once(' ').and_then(|(server, client)| {
        Some(Observed::Answered { server: server.parse().ok()?, client: client.parse().ok()? })
    });
    parsed.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("not the lab's server: {line:?}")))
}

/// Also when there is an error to be read.
pub fn wait_readable(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    wait(socket, PollFlags::IN, patience)
}

fn wait(socket: impl AsFd, flags: PollFlags, patience: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(&socket, flags)], Some(&timeout))? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
