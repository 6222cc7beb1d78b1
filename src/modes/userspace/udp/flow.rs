//! One client's datagrams to one endpoint and back.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::Type;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{Flows, Key};
use crate::model::Family;
use crate::modes::userspace::balancer::{BoundedMap, Lease, Service};
use crate::modes::userspace::figures::Active;
use crate::modes::userspace::sockets::{self, Origin, Replies};

/// How long a flow stays without datagrams: as long as in connection tracking (`nf_conntrack_udp_timeout`), longer once an
/// endpoint has answered.
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(120);

/// Room for the header of UDP before a datagram.
const HEADER: usize = 8;

thread_local! {
    static PACKET: RefCell<Vec<u8>> = RefCell::new(vec![0; HEADER + usize::from(u16::MAX)]);
}

/// Its end ends the task that waits for answers.
pub struct Flow {
    pub upstream: Arc<UdpSocket>,
    service: Arc<Service>,
    lease: Lease,
    life: Arc<Life>,
    reader: AbortHandle,
    _active: Active,
}

/// What both directions tell each other.
struct Life {
    begun: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    is_answered: AtomicBool,
}

impl Life {
    fn note(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long until it has been silent for too long.
    fn left(&self) -> Duration {
        let allowed = if self.is_answered.load(Ordering::Relaxed) { ANSWERED } else { UNANSWERED };
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        (last + allowed).saturating_sub(self.begun.elapsed())
    }
}

/// A socket that hears of its endpoint only: what strangers send is dropped by the kernel.
pub fn open(endpoint: SocketAddr, origin: Origin) -> io::Result<Arc<UdpSocket>> {
    let socket = sockets::towards(Family::of(endpoint.ip()), Type::DGRAM)?;
    sockets::show(&socket, Type::DGRAM, origin)?;
    socket.connect(&endpoint.into())?;
    UdpSocket::from_std(socket.into()).map(Arc::new)
}

impl Flow {
    pub fn begin(
        key: Key,
        upstream: Arc<UdpSocket>,
        service: Arc<Service>,
        lease: Lease,
        replies: &Arc<Replies>,
        flows: &Flows,
    ) -> Self {
        let life = Arc::new(Life {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            is_answered: AtomicBool::new(false),
        });
        let reader = Reader {
            key,
            upstream: Arc::clone(&upstream),
            service: Arc::clone(&service),
            life: Arc::clone(&life),
            replies: Arc::clone(replies),
            flows: Arc::downgrade(flows),
        };
        let active = Active::new(service.meter());
        let reader = tokio::spawn(reader.run()).abort_handle();
        Flow { upstream, service, lease, life, reader, _active: active }
    }

    /// Whether its endpoint still serves the Service as it is now.
    pub fn may_go_on(&mut self, service: &Arc<Service>) -> bool {
        if Arc::ptr_eq(&self.service, service) {
            return true;
        }
        let endpoint = self.lease.member().address;
        let is_same = self.service.port.name == service.port.name;
        let serves = is_same && service.port.serves(endpoint.ip(), endpoint.port());
        if serves {
            self.service = Arc::clone(service);
        }
        serves
    }

    pub fn sent(&self, length: usize) {
        self.life.note();
        self.service.meter().received.add(length as u64);
    }

    /// The endpoint's node said that nobody listens.
    pub fn failed(&self) {
        self.service.failed(self.lease.member(), Instant::now());
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Passes answers on.
struct Reader {
    key: Key,
    upstream: Arc<UdpSocket>,
    service: Arc<Service>,
    life: Arc<Life>,
    replies: Arc<Replies>,
    flows: Weak<std::sync::Mutex<BoundedMap<Key, Flow>>>,
}

impl Reader {
    async fn run(self) {
        while !self.life.left().is_zero() {
            // Somebody else may have given a sign of life when the time is over.
            if let Ok(Err(_)) = timeout(self.life.left(), self.upstream.readable()).await {
                break;
            }
            if PACKET.with_borrow_mut(|packet| self.pass_on(packet)).is_err() {
                break;
            }
            tokio::task::coop::consume_budget().await;
        }
        self.end();
    }

    /// One answer, if there is one.
    fn pass_on(&self, packet: &mut [u8]) -> io::Result<()> {
        let length = match self.upstream.try_recv(&mut packet[HEADER..]) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let (client, destination) = self.key;
        self.life.is_answered.store(true, Ordering::Relaxed);
        self.life.note();
        self.service.meter().sent.add(length as u64);
        if let Err(error) = self.replies.send(destination, client, &mut packet[..HEADER + length]) {
            tracing::debug!(%client, %destination, %error, "An answer was not sent");
        }
        Ok(())
    }

    /// The client may have another flow by now.
    fn end(self) {
        let Some(flows) = self.flows.upgrade() else { return };
        let mut flows = flows.lock().unwrap_or_else(PoisonError::into_inner);
        if flows.get(&self.key).is_some_and(|flow| Arc::ptr_eq(&flow.life, &self.life)) {
            flows.remove(&self.key);
        }
    }
}
