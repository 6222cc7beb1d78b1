//! A cluster of network namespaces on one machine, for the demo and the tests.
//!
//! ```text
//!   10.244.1.5 … 9                                              10.244.2.5 … 9
//!   pods of "here" ── here ─────────┐             ┌─ elsewhere ── pods of "elsewhere"
//!                  172.18.0.2    ┌──┴─────────────┴──┐ 172.18.0.3
//!                                │ 172.18.0.0/16     │
//!                                └──┬─────────────┬──┘
//!                        client ────┘             └──── gateway
//!                        172.18.0.100                   172.18.0.1
//! ```
//!
//! Each has IPv6 addresses too. A proxy under test runs in "here", and all traffic crosses "here", both ways: it is the
//! default route of everybody, and so meets Service addresses as the node of a client or the target of a load balancer
//! does. What nobody has an address for ends at the gateway, which says so.

mod client;
pub mod flows;
pub mod mesh;
pub mod proxy;
mod responder;
pub mod runner;
pub mod runtime;
mod sctp;
mod topology;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

pub use client::Observed;
pub use topology::Host;

use crate::kernel::netns::{Namespace, NamespaceError};
use crate::kernel::rtnetlink::NetworkError;
use crate::model::Protocol;
use responder::Responder;
use runtime::CniFailure;

/// The node on which the proxy runs.
pub const HERE: &str = "here";
pub const ELSEWHERE: &str = "elsewhere";
pub const CLIENT: &str = "client";
/// Where every pod serves TCP and UDP.
pub const POD_PORT: u16 = 8080;
/// The last parts of the pods' addresses on each node.
pub const PODS: std::ops::RangeInclusive<u8> = 5..=9;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot set {path} to {value}")]
    Sysctl { path: String, value: &'static str, source: io::Error },
    #[error("no host of the lab has the address {0}")]
    NoSuchHost(IpAddr),
    #[error("there is no pod {0}")]
    NoSuchPod(String),
    #[error("cannot serve {protocol} on {address}")]
    Listen { address: SocketAddr, protocol: Protocol, source: io::Error },
    #[error("cannot open a socket on {from}")]
    Socket { from: IpAddr, source: io::Error },
    #[error("cannot send {protocol} from {from} to {to}")]
    Probe { from: IpAddr, to: SocketAddr, protocol: Protocol, source: io::Error },
    #[error("cannot start the servers of the lab")]
    Responder(#[source] io::Error),
    #[error("cannot write manifests for the proxy")]
    Manifests(#[source] io::Error),
    #[error("cannot run the proxy")]
    Proxy(#[source] io::Error),
    #[error("the proxy ended. Its last words:\n{log}")]
    ProxyEnded { log: String },
    #[error("the proxy is not healthy after {patience:?}: {answer}. Its last words:\n{log}")]
    NotHealthy { patience: Duration, answer: String, log: String },
    #[error(transparent)]
    Cni(#[from] CniFailure),
    #[error("cannot get http://{server}")]
    Get { server: SocketAddr, source: io::Error },
}

/// A running lab. Dropping it removes everything.
pub struct Lab {
    hosts: Vec<Host>,
    responder: Responder,
}

impl Lab {
    /// Sets up all hosts and lets every pod serve on [`POD_PORT`].
    pub fn new() -> Result<Self, LabError> {
        Lab::of(topology::build()?)
    }

    fn of(hosts: Vec<Host>) -> Result<Self, LabError> {
        let lab = Lab { hosts, responder: Responder::start().map_err(LabError::Responder)? };
        lab.hosts.iter().filter(|host| host.is_pod()).try_for_each(|pod| lab.serve(pod))?;
        Ok(lab)
    }

    /// On [`POD_PORT`] of all addresses of a host.
    fn serve(&self, host: &Host) -> Result<(), LabError> {
        for address in host.addresses.clone() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.listen(SocketAddr::new(address, POD_PORT), protocol)?;
            }
        }
        Ok(())
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The namespace of the node on which the proxy runs.
    pub fn here(&self) -> &Namespace {
        &self.hosts[0].namespace
    }

    /// The addresses of the node on which the proxy runs.
    pub fn node_addresses(&self) -> &[IpAddr] {
        &self.hosts[0].addresses
    }

    pub fn host_of(&self, address: IpAddr) -> Option<&Host> {
        self.hosts.iter().find(|host| host.addresses.contains(&address))
    }

    /// Serves on an address of the lab: the answer to a client says which server this is and whom it sees.
    /// Listening twice is listening.
    pub fn listen(&self, address: SocketAddr, protocol: Protocol) -> Result<(), LabError> {
        let host = self.host_of(address.ip()).ok_or(LabError::NoSuchHost(address.ip()))?;
        let failed = |source| LabError::Listen { address, protocol, source };
        if self.responder.serves(address, protocol) {
            return Ok(());
        }
        host.namespace.run(|| self.responder.listen(address, protocol))?.map_err(failed)
    }

    /// Stops serving on an address, as a server that is gone.
    pub fn stop_listening(&self, address: SocketAddr, protocol: Protocol) {
        self.responder.close(address, protocol);
    }

    /// Sends one request and waits for what becomes of it. Silence is what lasts for `patience`.
    pub fn probe(
        &self,
        from: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Observed, LabError> {
        let failed = |source| LabError::Probe { from, to, protocol, source };
        self.socket(from, protocol)?.ask(to, patience).map_err(failed)
    }

    /// A connection that stays, to a server that introduces itself and then repeats what it hears.
    pub fn connect(&self, from: IpAddr, to: SocketAddr, patience: Duration) -> Result<TcpStream, LabError> {
        let failed = |source| LabError::Probe { from, to, protocol: Protocol::Tcp, source };
        self.socket(from, Protocol::Tcp)?.connect(to, patience).map_err(failed)
    }

    /// A client that keeps its address and port, connected to nobody. It hears of every ICMP error.
    pub fn datagrams(&self, from: IpAddr) -> Result<UdpSocket, LabError> {
        let host = self.host_of(from).ok_or(LabError::NoSuchHost(from))?;
        host.namespace.run(|| client::open_udp(from))?.map_err(|source| LabError::Socket { from, source })
    }

    fn socket(&self, from: IpAddr, protocol: Protocol) -> Result<client::Socket, LabError> {
        let host = self.host_of(from).ok_or(LabError::NoSuchHost(from))?;
        let opened = host.namespace.run(|| client::Socket::open(from, protocol))?;
        opened.map_err(|source| LabError::Socket { from, source })
    }
}

#[cfg(test)]
mod tests;
