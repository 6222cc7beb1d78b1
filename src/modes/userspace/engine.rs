//! The threads that carry the connections. Each has listeners of its own, and what it accepted stays with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::figures::Totals;
use super::frontends::Frontends;
use super::handover::{self, Inherited, Predecessor, Role};
use super::sockets::{self, Listeners, Pair, Ports, Replies};
use super::{tcp, udp};
use crate::model::{Family, Protocol};

/// A process that was told to end goes on for so long after its last connection: as long as another one, which found its own
/// rules changed by this one, may take to look again.
const QUIET: Duration = Duration::from_secs(4);
/// How often connections of endpoints that left long ago are looked for.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot listen for {family} {what}")]
    Listen { family: Family, what: &'static str, source: io::Error },
    #[error("cannot start a thread for connections")]
    Thread(#[source] io::Error),
}

/// What the process takes at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Each takes two file descriptors, and four more while it moves much.
    pub connections: usize,
    pub udp_flows: usize,
    /// Pipes for connections that move much.
    pub pipes: usize,
    /// How long connections of an endpoint that left may go on; `None` is as long as they like.
    pub drain: Option<Duration>,
    pub workers: usize,
    pub source: Source,
}

/// Whose address endpoints see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    ThisNode,
    /// The client's, where the model wants it and the answer comes by this node: at endpoints on it.
    ClientWhereAnswersComeBack,
}

impl Limits {
    /// What fits into this many file descriptors.
    pub fn of_descriptors(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX).min(1 << 20);
        // Some are for everything else that the process does.
        let rest = descriptors.saturating_sub(256).max(64);
        Limits {
            connections: rest * 5 / 16,
            udp_flows: (rest / 8).min(32_768),
            pipes: (rest / 16).min(4096),
            drain: None,
            workers: thread::available_parallelism().map_or(1, usize::from),
            source: Source::ThisNode,
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Whether another process accepts in place of this one.
    pub handed_over: watch::Sender<bool>,
    pub frontends: Arc<Frontends>,
    pub totals: Arc<Totals>,
    pub limits: Limits,
    /// One for each connection.
    pub connections: Arc<Semaphore>,
    pub pipes: Arc<Semaphore>,
    draws: AtomicU64,
}

impl Shared {
    /// A number that nobody can guess well, for schedulers that draw.
    pub fn draw(&self) -> u64 {
        let count = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        super::balancer::hash(&count.to_ne_bytes(), 0)
    }
}

/// The listeners, with their threads. They end with the process.
#[derive(Debug)]
pub struct Engine {
    pub shared: Arc<Shared>,
    pub listeners: Listeners,
    /// Those that are listened for.
    pub families: Vec<Family>,
    stop: watch::Sender<bool>,
    /// Of the threads.
    runtimes: Vec<Handle>,
    /// What a successor is handed.
    sockets: Vec<(Role, OwnedFd)>,
}

/// The listeners of one worker and family.
struct Sockets {
    family: Family,
    from: From,
    tcp: std::net::TcpListener,
    udp: socket2::Socket,
}

/// Whose connections a listener gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Everybody,
    /// What came in by an interface of pods.
    Pods,
    /// What was sent to a NodePort on loopback.
    Loopback,
}

impl Engine {
    /// Opens the listeners in the network namespace of the calling thread, or goes on with those of an earlier process. A
    /// family that this kernel does not have is left out; without any there is nothing to do.
    pub fn start(
        limits: Limits,
        frontends: Arc<Frontends>,
        mut inherited: Inherited,
    ) -> Result<Self, EngineError> {
        let mut listeners = Listeners::default();
        let mut of_workers: Vec<Vec<Sockets>> = (0..limits.workers.max(1)).map(|_| Vec::new()).collect();
        let mut families = Vec::new();
        for family in Family::ALL {
            match open(family, &mut of_workers, &mut inherited) {
                Ok(ports) => {
                    families.push(family);
                    *listeners.of_mut(family) = ports;
                }
                Err(error) if family == Family::V6 && !families.is_empty() => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "No Services of this family");
                    of_workers.iter_mut().for_each(|sockets| sockets.retain(|of| of.family != family));
                }
                Err(error) => return Err(error),
            }
        }
        let mut engine = Engine { listeners, families, ..Engine::idle(limits, frontends) };
        for of_family in of_workers.iter().flatten() {
            engine.sockets.extend(of_family.copies()?);
        }
        for (number, sockets) in of_workers.into_iter().enumerate() {
            engine.start_worker(number, sockets)?;
        }
        Ok(engine)
    }

    /// One thread, and nobody listens yet.
    pub fn start_for_loopback(limits: Limits) -> Result<Self, EngineError> {
        let mut engine = Engine::idle(Limits { workers: 1, ..limits }, Arc::default());
        engine.start_worker(0, Vec::new())?;
        Ok(engine)
    }

    fn idle(limits: Limits, frontends: Arc<Frontends>) -> Self {
        let shared = Shared {
            frontends,
            totals: Arc::default(),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            pipes: Arc::new(Semaphore::new(limits.pipes.min(Semaphore::MAX_PERMITS))),
            draws: AtomicU64::new(rand::random()),
            handed_over: watch::Sender::default(),
        };
        let (stop, _) = watch::channel(false);
        Engine {
            shared: Arc::new(shared),
            listeners: Listeners::default(),
            families: Vec::new(),
            stop,
            runtimes: Vec::new(),
            sockets: Vec::new(),
        }
    }

    /// Relieves the process whose sockets these were, once all Services are known, and hands them to the next one that asks.
    pub fn prepare_handover(&mut self, predecessor: Option<Predecessor>) -> Result<(), EngineError> {
        let Some(runtime) = self.runtimes.first().cloned() else { return Ok(()) };
        let (shared, families) = (Arc::clone(&self.shared), self.families.clone());
        let sockets = std::mem::take(&mut self.sockets);
        let run = move || {
            for family in families {
                runtime.block_on(shared.frontends.wait_until_open(family));
            }
            handover::run(sockets, predecessor, || {
                shared.handed_over.send_replace(true);
            });
        };
        thread::Builder::new().name("handover".into()).spawn(run).map_err(EngineError::Thread)?;
        Ok(())
    }

    /// Listens for a NodePort until the handle is told to end that.
    ///
    /// # Errors
    /// Where somebody else has the port.
    pub fn listen_on_loopback(
        &self,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> io::Result<AbortHandle> {
        let runtime = self.runtimes.first().ok_or(io::ErrorKind::NotConnected)?;
        let shared = Arc::clone(&self.shared);
        let task = match protocol {
            Protocol::Udp => {
                let socket = sockets::listen_for_datagrams(family, port)?;
                let replies = Arc::new(Replies::open(family)?);
                runtime.spawn(udp::serve(socket, From::Loopback, replies, shared))
            }
            _ => {
                let listener = sockets::listen(family, port)?;
                runtime.spawn(tcp::accept(listener, From::Loopback, shared, self.stop.subscribe()))
            }
        };
        Ok(task.abort_handle())
    }

    fn start_worker(&mut self, number: usize, sockets: Vec<Sockets>) -> Result<(), EngineError> {
        let (shared, stopped) = (Arc::clone(&self.shared), self.stop.subscribe());
        // Before the thread starts, as it may be in another network namespace.
        let mut with_replies = Vec::new();
        for of_family in sockets {
            let family = of_family.family;
            let replies = Replies::open(family).map_err(|source| EngineError::Listen {
                family,
                what: "answers",
                source,
            })?;
            with_replies.push((of_family, Arc::new(replies)));
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(EngineError::Thread)?;
        self.runtimes.push(runtime.handle().clone());
        let run = move || {
            runtime.block_on(async move {
                for (sockets, replies) in with_replies {
                    serve(sockets, replies, &shared, &stopped);
                }
                sweep(number, &shared).await;
            });
        };
        thread::Builder::new().name(format!("proxy-{number}")).spawn(run).map_err(EngineError::Thread)?;
        Ok(())
    }

    /// Waits until there were no connections for a while, for so long at the most. New ones are still accepted: the rules
    /// lead here until another process changes them.
    pub fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (mut accepted, mut quiet_since) = (self.shared.totals.accepted.get(), Instant::now());
        let is_over = |quiet: Duration| match *self.shared.handed_over.borrow() {
            true => !self.has_connections(),
            false => quiet >= QUIET,
        };
        while !is_over(quiet_since.elapsed()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            let now = self.shared.totals.accepted.get();
            if now != accepted || self.has_connections() {
                (accepted, quiet_since) = (now, Instant::now());
            }
        }
        // Whoever is left hears of it.
        let _ = self.stop.send(true);
        thread::sleep(Duration::from_millis(50));
    }
}

impl Engine {
    fn has_connections(&self) -> bool {
        let all = self.shared.limits.connections.min(Semaphore::MAX_PERMITS);
        self.shared.connections.available_permits() < all
    }
}

/// The same ports for all workers.
fn open(
    family: Family,
    of_workers: &mut [Vec<Sockets>],
    inherited: &mut Inherited,
) -> Result<Ports, EngineError> {
    let everybody = open_pair(family, From::Everybody, of_workers, inherited)?;
    let pods = open_pair(family, From::Pods, of_workers, inherited)?;
    Ok(Ports { everybody, pods })
}

fn open_pair(
    family: Family,
    from: From,
    of_workers: &mut [Vec<Sockets>],
    inherited: &mut Inherited,
) -> Result<Pair, EngineError> {
    let failed = |what| move |source| EngineError::Listen { family, what, source };
    let role = |protocol| Role { family, from, protocol };
    let mut pair = Pair { tcp: 0, udp: 0 };
    // A process with more threads may have had more, and each has clients in its queue.
    let workers = of_workers.len();
    for number in 0..workers.max(inherited.count(role(Protocol::Tcp))) {
        let tcp = match inherited.take(role(Protocol::Tcp)) {
            Some(socket) => socket.into(),
            None => sockets::listen(family, pair.tcp).map_err(failed("connections"))?,
        };
        let udp = match inherited.take(role(Protocol::Udp)) {
            Some(socket) => socket.into(),
            None => sockets::listen_for_datagrams(family, pair.udp).map_err(failed("datagrams"))?,
        };
        pair.tcp = tcp.local_addr().map_err(failed("connections"))?.port();
        let bound = udp.local_addr().map_err(failed("datagrams"))?;
        pair.udp = bound.as_socket().map_or(0, |address| address.port());
        of_workers[number % workers].push(Sockets { family, from, tcp, udp });
    }
    Ok(pair)
}

impl Sockets {
    fn copies(&self) -> Result<[(Role, OwnedFd); 2], EngineError> {
        let role = |protocol| Role { family: self.family, from: self.from, protocol };
        let copied = |copy: io::Result<OwnedFd>| {
            copy.map_err(|source| EngineError::Listen { family: self.family, what: "a successor", source })
        };
        Ok([
            (role(Protocol::Tcp), copied(self.tcp.as_fd().try_clone_to_owned())?),
            (role(Protocol::Udp), copied(self.udp.as_fd().try_clone_to_owned())?),
        ])
    }
}

fn serve(sockets: Sockets, replies: Arc<Replies>, shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) {
    let Sockets { family, from, tcp, udp } = sockets;
    let (of_tcp, of_udp, stopped) = (Arc::clone(shared), Arc::clone(shared), stopped.clone());
    tokio::spawn(async move {
        of_tcp.frontends.wait_until_open(family).await;
        tcp::accept(tcp, from, of_tcp, stopped).await;
    });
    tokio::spawn(async move {
        of_udp.frontends.wait_until_open(family).await;
        udp::serve(udp, from, replies, of_udp).await;
    });
}

/// One of the workers looks for what has to end.
async fn sweep(number: usize, shared: &Shared) {
    if number != 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(SWEEP).await;
        shared.frontends.end_drains(Instant::now(), shared.limits.drain);
    }
}

/// Whether there are no file descriptors or no memory: to be waited for.
pub fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| EXHAUSTED.contains(&errno))
}

/// Ends a connection with a reset when it is dropped.
pub fn abort(socket: &impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
