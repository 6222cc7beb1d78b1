//! Datagrams: each client has an endpoint for as long as it is not silent for too long.

mod flow;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use super::balancer::{BoundedMap, Choice, Service};
use super::engine::{From, Shared, is_exhausted};
use super::sockets::{self, Datagram, Replies};
use super::tcp::connect::{Admitted, admit, find, leads_back, origin};
use crate::model::Protocol;
use flow::Flow;

/// Datagrams that are taken before others of the thread get their turn.
const BATCH: usize = 64;

/// A client, and what it sent to.
type Key = (SocketAddr, SocketAddr);
type Flows = Arc<Mutex<BoundedMap<Key, Flow>>>;

/// Serves a listener until another process does.
pub async fn serve(socket: Arc<OwnedFd>, from: From, replies: Arc<Replies>, shared: Arc<Shared>) {
    // SAFETY: the socket is an owner of its descriptor, which stays the same and open until it is dropped.
    let socket = match unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) } {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "Cannot receive datagrams"),
    };
    // Each worker has two listeners for each family.
    let limit = (shared.limits.udp_flows / shared.limits.workers.max(1) / 2).max(16);
    let flows = Arc::new(Mutex::new(BoundedMap::new(limit)));
    let listener = Listener { from, replies, shared, flows };
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut handed_over = listener.shared.handed_over.subscribe();
    loop {
        let readable = tokio::select! {
            readable = socket.readable() => readable,
            _ = handed_over.wait_for(|is| *is) => break,
        };
        let Ok(mut readable) = readable else { break };
        for _ in 0..BATCH {
            match readable.try_io(|socket| sockets::receive(socket.get_ref(), &mut buffer)) {
                Ok(Ok(datagram)) => listener.forward(&datagram, &buffer[..datagram.length]),
                Ok(Err(error)) => tracing::debug!(%error, "A datagram was not received"),
                // There is none.
                Err(_) => break,
            }
        }
        tokio::task::yield_now().await;
    }
    drop(socket);
    // Answers to what was sent on are passed on still.
    std::future::pending().await
}

struct Listener {
    from: From,
    replies: Arc<Replies>,
    shared: Arc<Shared>,
    flows: Flows,
}

impl Listener {
    fn forward(&self, datagram: &Datagram, payload: &[u8]) {
        let key = (datagram.client, datagram.destination);
        let reached = find(&self.shared, Protocol::Udp, key.1, self.from).map(|found| found.service);
        let is_sent = reached.is_some_and(|service| {
            self.send_on(key, &service, payload)
                || self.begin(key).is_some_and(|()| self.send_on(key, &service, payload))
        });
        if !is_sent {
            self.shared.totals.dropped_datagrams.add(1);
        }
    }

    /// By the flow that the client has, if it has one that may go on.
    fn send_on(&self, key: Key, service: &Arc<Service>, payload: &[u8]) -> bool {
        let mut flows = self.flows();
        let Some(flow) = flows.get(&key) else { return false };
        if !flow.may_go_on(service) {
            flows.remove(&key);
            return false;
        }
        match SockRef::from(&*flow.upstream).send(payload) {
            Ok(_) => {
                flow.sent(payload.len());
                true
            }
            // Too fast for the network: datagrams may get lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_exhausted(&error) => true,
            Err(_) => {
                flow.failed();
                flows.remove(&key);
                false
            }
        }
    }

    /// Gives the client an endpoint. `None` if there is none for it, or no room.
    fn begin(&self, key: Key) -> Option<()> {
        let (client, destination) = key;
        let shared = &self.shared;
        let admitted = admit(shared, Protocol::Udp, client, destination, self.from)?;
        let choice = Choice { policy: admitted.policy, client, tried: &[], draw: shared.draw() };
        let lease = admitted.service.choose(choice, Instant::now())?;
        if leads_back(shared, Protocol::Udp, lease.member().address) {
            admitted.service.failed(lease.member(), Instant::now());
            return None;
        }
        let origin = origin(shared, &admitted, &lease, client);
        let upstream = self.open(lease.member().address, origin)?;
        let Admitted { service, .. } = admitted;
        let flow = Flow::begin(key, upstream, service, lease, &self.replies, &self.flows);
        if self.flows().insert(key, flow).is_some() {
            shared.totals.evicted_flows.add(1);
        }
        Some(())
    }

    /// Where there is no file descriptor left, a flow that was silent for long goes for the new one.
    fn open(&self, endpoint: SocketAddr, origin: sockets::Origin) -> Option<Arc<UdpSocket>> {
        let opened = flow::open(endpoint, origin).or_else(|error| {
            if is_exhausted(&error) && self.flows().evict().is_some() {
                self.shared.totals.evicted_flows.add(1);
            }
            flow::open(endpoint, origin)
        });
        opened.ok()
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, BoundedMap<Key, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
