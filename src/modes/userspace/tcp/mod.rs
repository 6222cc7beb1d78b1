//! Connections: accepted, given to an endpoint, relayed.

pub mod connect;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::engine::{From, Shared, abort, is_exhausted};
use connect::Connected;

/// How long accepting waits where there are no file descriptors. What is open goes on meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a listener for ever.
pub async fn accept(
    listener: std::net::TcpListener,
    from: From,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "Cannot accept connections"),
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.totals.accepted.add(1);
                let permit = wait_for_room(&shared).await;
                tokio::spawn(serve(client, from, Arc::clone(&shared), stopped.clone(), permit));
            }
            Err(error) if is_exhausted(&error) => {
                shared.totals.accept_pauses.add(1);
                tokio::time::sleep(PAUSE).await;
            }
            // It was reset before it was accepted.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Others wait in the kernel's queue.
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
    client: TcpStream,
    from: From,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    match connect::connect(&client, from, &shared).await {
        Some(connected) => carry(client, connected, &shared, stopped).await,
        None => abort(&client),
    }
}

/// However it ends, both sides hear of it in the same way: the end of one direction is passed on by the relay, and
/// everything else is a reset.
async fn carry(client: TcpStream, connected: Connected, shared: &Shared, mut stopped: watch::Receiver<bool>) {
    let Connected { upstream, lease, active: _active, service } = connected;
    let relayed = tokio::select! {
        relayed = relay::relay(&client, &upstream, &service.meter, &shared.pipes) => relayed.is_ok(),
        () = lease.member().end.notified() => false,
        _ = stopped.changed() => false,
    };
    if !relayed {
        abort(&client);
        abort(&upstream);
    }
}
