//! Sockets that listen.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};

use crate::config::OnBindFailure;

/// As often as kube-proxy tries again.
const RETRY: Duration = Duration::from_secs(5);

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 128;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Whether a socket on an IPv6 wildcard address takes IPv4 connections too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    /// As the system is set up, and as it is nearly everywhere.
    Both,
    /// No, so that another socket may have the same port of IPv4.
    One,
}

pub(super) fn listen(address: SocketAddr, families: Families) -> Result<TcpListener, BindError> {
    try_listen(address, families).map_err(|source| BindError { address, source })
}

fn try_listen(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() && families == Families::One {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens, if need be after many attempts.
///
/// # Errors
/// Only where a failure is to end the process.
pub(super) async fn listen_at_last(
    address: SocketAddr,
    on_failure: OnBindFailure,
) -> Result<TcpListener, BindError> {
    loop {
        match listen(address, Families::Both) {
            Ok(listener) => return Ok(listener),
            Err(error) if on_failure == OnBindFailure::Exit => return Err(error),
            Err(error) => {
                tracing::warn!(%address, error = %error.source, "Cannot listen, trying again in 5 s");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
