//! What virtual servers and their destinations are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::Flags;
use crate::model::{Family, Protocol};

/// What a virtual server matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualServer {
    /// Packets to an address and port. Port 0 is every port and needs [`Flags::PERSISTENT`].
    Address { address: IpAddr, protocol: Protocol, port: u16 },
    /// Packets with a firewall mark, never 0.
    Mark { family: Family, mark: u32 },
}

impl VirtualServer {
    pub fn new(protocol: Protocol, at: SocketAddr) -> Self {
        VirtualServer::Address { address: at.ip(), protocol, port: at.port() }
    }

    pub fn family(&self) -> Family {
        match self {
            VirtualServer::Address { address, .. } => Family::of(*address),
            VirtualServer::Mark { family, .. } => *family,
        }
    }
}

/// As ipvsadm takes it: `-t 10.96.0.10:80`, `-u [fd00:96::10]:53`, `--sctp-service 10.96.0.10:9999`, `-f 7`, `-f 7 -6`.
impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            VirtualServer::Address { address, protocol, port } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                write!(f, "{option} {}", SocketAddr::new(address, port))
            }
            VirtualServer::Mark { family: Family::V4, mark } => write!(f, "-f {mark}"),
            VirtualServer::Mark { family: Family::V6, mark } => write!(f, "-f {mark} -6"),
        }
    }
}

/// A virtual server and how it chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub server: VirtualServer,
    /// The kernel's name of the scheduler, at most 15 bytes.
    pub scheduler: Box<str>,
    pub flags: Flags,
    /// For how many seconds a client keeps its destination. Means nothing without [`Flags::PERSISTENT`].
    pub timeout: u32,
    /// How many leading bits of the client's address make a client: 32 or 128 unless something else is wanted.
    pub prefix: u8,
}

impl Service {
    /// Without flags.
    pub fn new(server: VirtualServer, scheduler: &str) -> Self {
        let prefix = server.family().bits();
        Service { server, scheduler: scheduler.into(), flags: Flags::default(), timeout: 0, prefix }
    }

    /// With a client staying at its destination for so many seconds.
    pub fn persistent(self, timeout: u32) -> Self {
        Service { flags: self.flags | Flags::PERSISTENT, timeout, ..self }
    }
}

/// How packets get to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardingMethod {
    /// Destination NAT: the only one that changes the port.
    #[default]
    Masquerade,
    /// The destination is this machine itself.
    Local,
    /// IP in IP.
    Tunnel,
    /// Unchanged, over the link layer.
    DirectRoute,
    /// Past IPVS: transparent caches.
    Bypass,
}

/// A real server of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
    /// 0 takes no new connections and keeps those that it has.
    pub weight: u32,
    pub method: ForwardingMethod,
    /// From how many connections on it takes no new ones; 0 is never.
    pub upper_threshold: u32,
    /// Below how many it takes them again; 0 is three quarters of the upper one.
    pub lower_threshold: u32,
}

impl Destination {
    /// Masqueraded, without thresholds.
    pub fn new(at: SocketAddr, weight: u32) -> Self {
        Destination {
            address: at.ip(),
            port: at.port(),
            weight,
            method: ForwardingMethod::Masquerade,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// What tells it from the other destinations of its virtual server.
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}
