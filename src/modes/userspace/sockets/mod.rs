//! The sockets of the data path. They are transparent (IP_TRANSPARENT): packets to addresses of Services are for them.

mod datagrams;
mod replies;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::model::{Family, Protocol};

pub use datagrams::{Datagram, receive};
pub use replies::Replies;

/// Where TCP and UDP are listened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub everybody: Pair,
    /// Pods that are known by the interface by which their packets come.
    pub pods: Pair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub tcp: u16,
    pub udp: u16,
}

impl Pair {
    pub fn of(self, protocol: Protocol) -> u16 {
        if protocol == Protocol::Udp { self.udp } else { self.tcp }
    }
}

/// Of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    pub v4: Ports,
    pub v6: Ports,
}

impl Listeners {
    pub fn of(&self, family: Family) -> Ports {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Listeners {
    pub fn of_mut(&mut self, family: Family) -> &mut Ports {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// For plans that nobody carries out.
impl Default for Listeners {
    fn default() -> Self {
        let ports = Ports { everybody: Pair { tcp: 1, udp: 1 }, pods: Pair { tcp: 2, udp: 2 } };
        Listeners { v4: ports, v6: ports }
    }
}

/// As many as the kernel lets wait (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Peers that vanished without a word are found after a few minutes.
const KEEPALIVE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// What an endpoint may send before it is read, in bytes: enough for 10 Gbit/s over 0.8 ms. The kernel alone would let as much
/// pile up as `net.ipv4.tcp_rmem` says for each connection of a client that is slower than its endpoint, out of every cache,
/// and endpoints that never have to wait leave the processors to nobody else.
const FROM_ENDPOINT: libc::c_int = 1 << 20;
/// Bursts of datagrams that wait to be read.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Where this process listens: on loopback, so that nobody can ask it but through the rules.
pub fn listening(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// A listener of some workers. All of them have the same port, and the kernel spreads connections over them.
pub fn listen(family: Family, port: u16) -> io::Result<Socket> {
    let socket = bind(family, Type::STREAM, port)?;
    // Accepted sockets have these from the start.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_out_of_band_inline(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL)
}

/// The same for datagrams, which come with the address that they were sent to.
pub fn listen_for_datagrams(family: Family, port: u16) -> io::Result<Socket> {
    let socket = bind(family, Type::DGRAM, port)?;
    datagrams::tell_destinations(&socket, family)?;
    // Only a process that may exceed the system's limit gets all of it.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket)
}

fn bind(family: Family, kind: Type, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(domain(family), kind.nonblocking().cloexec(), None)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    set_transparent(&socket, family)?;
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::new(listening(family), port).into())?;
    Ok(socket)
}

/// Whose address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    ThisNode,
    Client(SocketAddr),
}

/// A socket for one connection to an endpoint. Each option is a system call, and most connections end before they need
/// [`send_at_once`] or [`keep_alive`].
pub fn towards(family: Family, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(domain(family), kind.nonblocking().cloexec(), None)?;
    if kind == Type::STREAM {
        // Later it would keep the window as small as it is then. Where it may not be set, memory is all that is lost.
        let _ = set_option_to(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, FROM_ENDPOINT);
    }
    Ok(socket)
}

/// Whatever is written is sent, also when what was sent before is not acknowledged yet.
pub fn send_at_once(socket: &Socket) {
    // Where it may not be set, time is all that is lost.
    let _ = socket.set_tcp_nodelay(true);
}

/// An end that vanished without a word is found out.
pub fn keep_alive(socket: &Socket) {
    // Where it may not be set, a dead connection stays until somebody writes to it.
    let _ = socket.set_tcp_keepalive(&keepalive());
}

/// Before it is connected.
pub fn show(socket: &Socket, kind: Type, origin: Origin) -> io::Result<()> {
    let Origin::Client(client) = origin else { return Ok(()) };
    set_transparent(socket, Family::of(client.ip()))?;
    if kind == Type::STREAM {
        choose_port_late(socket)?;
    }
    socket.bind(&SocketAddr::new(client.ip(), 0).into())
}

/// Many connections share an address, and need ports that differ only where their endpoints do not.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

fn set_transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT),
        Family::V6 => set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    }
}

/// Options that socket2 does not have for both families.
fn set_option(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    set_option_to(socket, level, option, 1)
}

fn set_option_to(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an integer that lives until the call returns, and `length` is its length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
