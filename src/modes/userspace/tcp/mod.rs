//! Connections: accepted, given to an endpoint, relayed.

pub mod connect;
mod relay;
mod stream;

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::coop::consume_budget;

use super::engine::{From, Shared, abort, is_exhausted};
use super::sockets;
use connect::Connected;
use relay::{End, Side};
use stream::Stream;

/// How long accepting waits where there are no file descriptors. What is open goes on meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Who connected.
pub struct Client {
    stream: Stream,
    address: SocketAddr,
}

/// Serves a listener until another process does. What there is no room for waits in the kernel's queue: a client that was
/// accepted is one that can be served.
pub async fn accept(listener: Arc<OwnedFd>, from: From, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    // SAFETY: the listener is an owner of its descriptor, which stays the same and open until it is dropped.
    let listener = match unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) } {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "Cannot accept connections"),
    };
    let mut handed_over = shared.handed_over.subscribe();
    loop {
        let waiting = tokio::select! {
            waiting = listener.readable() => waiting,
            _ = handed_over.wait_for(|is| *is) => return,
        };
        let Ok(mut waiting) = waiting else { return };
        let room = tokio::select! {
            room = wait_for_room(&shared) => room,
            _ = handed_over.wait_for(|is| *is) => return,
        };
        match waiting.try_io(|listener| take(listener.get_ref())) {
            Ok(Ok(client)) => {
                shared.totals.accepted.add(1);
                tokio::spawn(serve(client, from, Arc::clone(&shared), stopped.clone(), room));
            }
            Ok(Err(error)) if is_exhausted(&error) => {
                drop(room);
                shared.totals.accept_pauses.add(1);
                tokio::time::sleep(PAUSE).await;
            }
            // It was reset before it was accepted, or there is nobody any more.
            Ok(Err(_)) | Err(_) => {}
        }
        consume_budget().await;
    }
}

fn take(listener: &OwnedFd) -> io::Result<Client> {
    let (socket, address) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let address = address.and_then(|address| address.try_into().ok()).ok_or(io::ErrorKind::NotConnected)?;
    Ok(Client { stream: Stream::new(socket.into())?, address })
}

async fn wait_for_room(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    let connections = &shared.connections;
    if let Ok(permit) = Arc::clone(connections).try_acquire_owned() {
        return Some(permit);
    }
    shared.totals.accept_pauses.add(1);
    Arc::clone(connections).acquire_owned().await.ok()
}

/// One connection, from its beginning to its end.
async fn serve(
    client: Client,
    from: From,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    _room: Option<OwnedSemaphorePermit>,
) {
    let connected = tokio::select! {
        connected = connect::connect(&client, from, &shared) => connected,
        () = has_gone(&client.stream) => None,
    };
    match connected {
        Some(connected) => carry(client.stream, connected, &shared, stopped).await,
        None => abort(client.stream.socket()),
    }
}

/// Whether a client reset its connection and left nothing that an endpoint could be told.
async fn has_gone(client: &Stream) {
    client.broken().await;
    let mut any = [MaybeUninit::uninit()];
    if client.socket().peek(&mut any).is_ok_and(|length| length > 0) {
        std::future::pending().await
    }
}

/// However it ends, both sides hear of it in the same way: the end of one direction is passed on by the relay, and
/// everything else is a reset.
async fn carry(client: Stream, connected: Connected, shared: &Shared, mut stopped: watch::Receiver<bool>) {
    let Connected { upstream, lease, active: _active, service } = connected;
    let gone = tokio::select! {
        end = relay::relay(&client, &upstream, service.meter(), &shared.pipes) => match end {
            End::Both => return,
            End::Broken(side) => Some(side),
            End::Failed => None,
        },
        () = lease.member().end.notified() => None,
        _ = stopped.changed() => None,
        never = keep_alive(&upstream, shared) => match never {},
    };
    if gone != Some(Side::Client) {
        abort(client.socket());
    }
    if gone != Some(Side::Endpoint) {
        abort(upstream.socket());
    }
}

/// Only what lasts for a while needs it. The client's socket has it from its listener.
async fn keep_alive(upstream: &Stream, shared: &Shared) -> Infallible {
    let mut sweeps = shared.sweeps.subscribe();
    // The sender lives as long as the workers.
    let _ = sweeps.changed().await;
    sockets::keep_alive(upstream.socket());
    std::future::pending().await
}
