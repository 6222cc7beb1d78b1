//! Finding an endpoint that answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Socket, Type};
use tokio::time::{sleep, timeout};

use super::stream::Stream;
use super::{Client, PAUSE};
use crate::model::route::{self, Packet, Ruling};
use crate::model::{Family, Locality, NodePolicy, Protocol, TrafficPolicy};
use crate::modes::userspace::balancer::{Choice, Lease, Service};
use crate::modes::userspace::engine::{self, Shared, Source};
use crate::modes::userspace::figures::Active;
use crate::modes::userspace::frontends::Reached;
use crate::modes::userspace::sockets::{self, Origin};

/// How long each attempt may take, as in kube-proxy's userspace mode.
const ATTEMPTS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// How long an accepted client waits for a file descriptor towards an endpoint.
const WAIT_FOR_SOCKET: Duration = Duration::from_secs(30);

pub struct Connected {
    pub upstream: Stream,
    pub lease: Lease,
    pub active: Active,
    pub service: Arc<Service>,
}

/// What a client may have.
pub struct Admitted {
    pub service: Arc<Service>,
    pub policy: TrafficPolicy,
    pub source: route::Source,
}

/// `None` if there is no such Service for this client.
pub fn admit(
    shared: &Shared,
    protocol: Protocol,
    client: SocketAddr,
    destination: SocketAddr,
    from: engine::From,
) -> Option<Admitted> {
    let Reached { service, frontend } = find(shared, protocol, destination, from)?;
    let node = shared.frontends.node(Family::of(destination.ip()));
    let packet = Packet {
        source: client.ip(),
        interface: interface(&node, from),
        protocol,
        destination: destination.ip(),
        port: destination.port(),
    };
    match route::judge(&node, &service.port, &frontend, &packet) {
        Ruling::Forward(policy, source) => Some(Admitted { service, policy, source }),
        Ruling::Reject | Ruling::Drop => None,
    }
}

/// What a listener got a packet for.
pub fn find(
    shared: &Shared,
    protocol: Protocol,
    destination: SocketAddr,
    from: engine::From,
) -> Option<Reached> {
    let family = Family::of(destination.ip());
    match from {
        engine::From::Loopback => shared.frontends.of_node_port(family, protocol, destination.port()),
        _ => shared.frontends.reached(destination.ip(), protocol, destination.port()),
    }
}

/// The kernel has compared the interface: any that would be right will do.
fn interface(node: &NodePolicy, from: engine::From) -> Option<&str> {
    match from {
        engine::From::Pods => node.local_traffic.interface(),
        engine::From::Everybody | engine::From::Loopback => None,
    }
}

/// `None` if there is no endpoint for it, or none that answers.
pub async fn connect(client: &Client, from: engine::From, shared: &Shared) -> Option<Connected> {
    let (peer, destination) = (client.address, client.stream.socket().local_addr().ok()?.as_socket()?);
    let admitted = admit(shared, Protocol::Tcp, peer, destination, from)?;
    let meter = admitted.service.meter();
    let active = Active::new(meter);
    let mut tried = Vec::new();
    for patience in ATTEMPTS {
        // Before an endpoint is chosen, as this may have to wait.
        let Some(socket) = wait_for_socket(shared, Family::of(destination.ip())).await else { break };
        let choice = Choice { policy: admitted.policy, client: peer, tried: &tried, draw: shared.draw() };
        let Some(lease) = admitted.service.choose(choice, Instant::now()) else { break };
        let origin = origin(shared, &admitted, &lease, peer);
        match attempt(shared, &lease, (socket, origin), patience, &admitted.service).await {
            Ok(upstream) => return Some(Connected { upstream, lease, active, service: admitted.service }),
            Err(_) => tried.push(lease.member().address),
        }
        meter.retries.add(1);
    }
    meter.refused.add(1);
    None
}

/// A client that was accepted must not hear of it when this process has no file descriptors for a while: no endpoint is at
/// fault, and each could be the right one later.
async fn wait_for_socket(shared: &Shared, family: Family) -> Option<Socket> {
    let deadline = Instant::now() + WAIT_FOR_SOCKET;
    loop {
        match sockets::towards(family, Type::STREAM) {
            Ok(socket) => return Some(socket),
            Err(error) if engine::is_exhausted(&error) && Instant::now() < deadline => {
                shared.totals.accept_pauses.add(1);
                sleep(PAUSE).await;
            }
            Err(_) => return None,
        }
    }
}

/// The client's address is kept where the model says so, and the answer is sure to come by this node.
pub fn origin(shared: &Shared, admitted: &Admitted, lease: &Lease, client: SocketAddr) -> Origin {
    let member = lease.member();
    let is_kept = shared.limits.source == Source::ClientWhereAnswersComeBack
        && admitted.source == route::Source::Kept
        && member.locality == Locality::Local
        && member.address.ip() != client.ip();
    if is_kept { Origin::Client(client) } else { Origin::ThisNode }
}

async fn attempt(
    shared: &Shared,
    lease: &Lease,
    (socket, origin): (Socket, Origin),
    patience: Duration,
    service: &Service,
) -> io::Result<Stream> {
    let member = lease.member();
    let started = Instant::now();
    let connected = match leads_back(shared, Protocol::Tcp, member.address) {
        true => Err(io::Error::other("the endpoint is a frontend")),
        false => open(socket, member.address, origin, patience).await,
    };
    match &connected {
        Ok(_) => {
            member.succeeded();
            service.meter().connected(started.elapsed());
        }
        // That this process has no memory or no ports towards it is not the endpoint's fault.
        Err(error) if engine::is_exhausted(error) || error.kind() == io::ErrorKind::AddrNotAvailable => {}
        Err(_) => service.failed(member, Instant::now()),
    }
    connected
}

/// An endpoint at a frontend's address would be captured again, and again.
pub fn leads_back(shared: &Shared, protocol: Protocol, endpoint: SocketAddr) -> bool {
    shared.frontends.reached(endpoint.ip(), protocol, endpoint.port()).is_some()
}

async fn open(
    socket: Socket,
    endpoint: SocketAddr,
    origin: Origin,
    patience: Duration,
) -> io::Result<Stream> {
    sockets::show(&socket, Type::STREAM, origin)?;
    match socket.connect(&endpoint.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let connecting = Connecting(Some(Stream::new(socket)?));
    connecting.wait(patience).await
}

/// Dropped, it ends with a reset: its endpoint may have accepted already, and must not take the end for a client's.
struct Connecting(Option<Stream>);

impl Connecting {
    async fn wait(mut self, patience: Duration) -> io::Result<Stream> {
        let Some(stream) = &self.0 else { return Err(io::ErrorKind::NotConnected.into()) };
        timeout(patience, stream.writable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.iter().for_each(|stream| engine::abort(stream.socket()));
    }
}
