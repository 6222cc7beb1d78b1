//! The door to the connection tracking table (ctnetlink): reading the flows of one protocol, deleting a flow.

mod codec;
#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;

use netlink_sys::constants::NETLINK_NETFILTER;

use super::netlink::{Connection, NetlinkError};
use crate::model::{Family, Protocol};

/// A tracked flow, as far as it matters for finding and deleting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: Protocol,
    /// As its first packet was sent.
    pub original: Tuple,
    /// As replies come in. Where the destination was translated, its source is the endpoint.
    pub reply: Tuple,
    /// The conntrack zone, 0 for nearly everybody.
    pub zone: u16,
    /// The kernel's own name for this entry. A later flow with the same addresses has another one, unless it happens to
    /// get the same memory.
    pub id: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Flow {
    /// Who answers.
    pub fn endpoint(&self) -> SocketAddr {
        self.reply.source
    }

    /// Whether packets go somewhere else than their sender wrote.
    pub fn is_translated(&self) -> bool {
        self.reply.source != self.original.destination
    }
}

/// `udp 10.244.1.9:40001 -> 10.96.0.10:53 (10.244.1.5:5353)`
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuple { source, destination } = self.original;
        write!(f, "{} {source} -> {destination} ({})", self.protocol.lowercase(), self.endpoint())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("cannot reach the connection tracking table")]
    Open(#[source] NetlinkError),
    #[error("cannot list the tracked {family} {protocol} flows")]
    List { family: Family, protocol: Protocol, source: NetlinkError },
    #[error("cannot delete the tracked flow {flow}")]
    Delete { flow: Box<Flow>, source: NetlinkError },
}

/// The connection tracking table of one network namespace.
pub trait Conntrack {
    /// Hands every flow of a protocol to `each`, one after the other: there may be millions. `each` may see a flow twice.
    fn flows(
        &mut self,
        family: Family,
        protocol: Protocol,
        each: &mut dyn FnMut(&Flow),
    ) -> Result<(), ConntrackError>;

    /// Deletes a flow and says whether it was there. Another one that has its addresses by now is left alone.
    fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError>;
}

/// The kernel's table.
pub struct KernelConntrack {
    connection: Connection,
}

impl KernelConntrack {
    /// The table of the network namespace of the calling thread.
    pub fn open() -> Result<Self, ConntrackError> {
        let connection = Connection::open(NETLINK_NETFILTER).map_err(ConntrackError::Open)?;
        Ok(KernelConntrack { connection })
    }
}

impl Conntrack for KernelConntrack {
    fn flows(
        &mut self,
        family: Family,
        protocol: Protocol,
        each: &mut dyn FnMut(&Flow),
    ) -> Result<(), ConntrackError> {
        // Kernels before 5.8 do not know the filter, ignore it and send everything.
        let mut matching = |payload: &[u8]| {
            if let Some(flow) = codec::parse_flow(payload).filter(|flow| flow.protocol == protocol) {
                each(&flow);
            }
        };
        self.connection
            .dump(codec::list(family, protocol), &mut matching)
            .map_err(|source| ConntrackError::List { family, protocol, source })
    }

    fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        match self.connection.execute(codec::delete(flow)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(source) => Err(ConntrackError::Delete { flow: Box::new(*flow), source }),
        }
    }
}
