//! The threads that carry the connections. A few share a listener, and what one accepted stays with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::figures::Totals;
use super::frontends::Frontends;
use super::handover::{self, Group, Inherited, Listening, Predecessor, Role, Turn};
use super::sockets::{self, Listeners, Pair, Ports, Replies};
use super::{tcp, udp};
use crate::kernel::scheduling;
use crate::model::{Family, Protocol};

/// A process that was told to end goes on for so long after its last connection: as long as another one, which found its own
/// rules changed by this one, may take to look again.
const QUIET: Duration = Duration::from_secs(4);
/// Threads that accept from the same listener. Whoever has time takes the next client: a client that waits for one thread,
/// as with a listener for each, waits longer. The kernel wakes all of them for each client, so they must not be many.
const WORKERS_OF_A_LISTENER: usize = 4;
/// How long a thread runs before others get their turn, and so how soon it gets its own: on a busy node, where it would wait
/// for milliseconds, that is what the slowest connections take. The shortest that the kernel takes; for what comes at once it is
/// enough.
const SLICE: Duration = Duration::from_micros(100);
/// How often connections of endpoints that left long ago are looked for, and new ones get what only lasting ones need.
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
    /// Changes with each sweep.
    pub sweeps: Arc<watch::Sender<()>>,
    draws: AtomicU64,
}

impl Shared {
    fn new(limits: Limits, frontends: Arc<Frontends>) -> Self {
        Shared {
            frontends,
            totals: Arc::default(),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            pipes: Arc::new(Semaphore::new(limits.pipes.min(Semaphore::MAX_PERMITS))),
            sweeps: Arc::default(),
            draws: AtomicU64::new(rand::random()),
            handed_over: watch::Sender::default(),
        }
    }

    /// The same, but for whether its listeners were handed over, and that no answer goes to an address that every node has.
    fn for_loopback(&self) -> Self {
        Shared {
            frontends: Arc::clone(&self.frontends),
            totals: Arc::clone(&self.totals),
            limits: Limits { source: Source::ThisNode, ..self.limits },
            connections: Arc::clone(&self.connections),
            pipes: Arc::clone(&self.pipes),
            sweeps: Arc::clone(&self.sweeps),
            draws: AtomicU64::new(rand::random()),
            handed_over: watch::Sender::default(),
        }
    }

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
    stop: Arc<watch::Sender<bool>>,
    /// Of the threads.
    runtimes: Vec<Handle>,
    group: Group,
    /// What an earlier process listened on, and nobody asked for yet.
    inherited: Mutex<Inherited>,
    /// What a successor is handed.
    listening: Listening,
    /// Whether this process writes the rules.
    pub turn: Arc<Turn>,
}

/// A socket that a worker serves, alone or with others.
#[derive(Clone)]
struct Served {
    role: Role,
    socket: Arc<OwnedFd>,
}

/// A NodePort on loopback that is listened for. Dropped, it is not any more; connections go on.
#[derive(Debug)]
pub struct LoopbackListener {
    role: Role,
    task: AbortHandle,
    listening: Listening,
}

impl Drop for LoopbackListener {
    fn drop(&mut self) {
        self.listening.remove(self.role);
        self.task.abort();
    }
}

/// Whose connections a listener gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        let mut sockets = Vec::new();
        let mut families = Vec::new();
        for family in Family::ALL {
            match open(family, limits.workers.max(1), &mut inherited) {
                Ok((ports, opened)) => {
                    families.push(family);
                    *listeners.of_mut(family) = ports;
                    sockets.extend(opened);
                }
                Err(error) if family == Family::V6 && !families.is_empty() => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "No Services of this family");
                }
                Err(error) => return Err(error),
            }
        }
        let idle = Engine::idle(Shared::new(limits, frontends), Group::Captured);
        let mut engine = Engine { listeners, families, ..idle };
        for Served { role, socket } in &sockets {
            engine.listening.add(*role, socket);
        }
        for (number, sockets) in share_out(&sockets, limits.workers.max(1)).into_iter().enumerate() {
            engine.start_worker(number, sockets)?;
        }
        Ok(engine)
    }

    /// For NodePorts on loopback beside a mode of the kernel: one thread, with Services of its own. Nobody listens yet.
    pub fn start_for_loopback(
        limits: Limits,
        families: Vec<Family>,
        inherited: Inherited,
    ) -> Result<Self, EngineError> {
        let limits = Limits { workers: 1, source: Source::ThisNode, ..limits };
        Engine::idle(Shared::new(limits, Arc::default()), Group::Loopback).start_alone(families, inherited)
    }

    /// For NodePorts on loopback beside the userspace mode: they count as what that mode serves, within its limits, and end with
    /// it.
    pub fn start_loopback_beside(&self, inherited: Inherited) -> Result<Self, EngineError> {
        let engine = Engine::idle(self.shared.for_loopback(), Group::Loopback);
        let engine = Engine { stop: Arc::clone(&self.stop), ..engine };
        engine.start_alone(self.families.clone(), inherited)
    }

    fn start_alone(self, families: Vec<Family>, inherited: Inherited) -> Result<Self, EngineError> {
        let mut engine = Engine { families, inherited: Mutex::new(inherited), ..self };
        engine.start_worker(0, Vec::new())?;
        Ok(engine)
    }

    fn idle(shared: Shared, group: Group) -> Self {
        Engine {
            shared: Arc::new(shared),
            listeners: Listeners::default(),
            families: Vec::new(),
            stop: Arc::default(),
            runtimes: Vec::new(),
            group,
            inherited: Mutex::default(),
            listening: Listening::default(),
            turn: Arc::default(),
        }
    }

    /// Relieves the process whose sockets these were, once all Services are known, and hands them to the next one that asks.
    pub fn prepare_handover(&self, predecessor: Option<Predecessor>) -> Result<(), EngineError> {
        let Some(runtime) = self.runtimes.first().cloned() else { return Ok(()) };
        let (shared, families) = (Arc::clone(&self.shared), self.families.clone());
        let (group, listening, turn) = (self.group, self.listening.clone(), Arc::clone(&self.turn));
        turn.note_predecessor(predecessor.is_some());
        let run = move || {
            for family in families {
                runtime.block_on(shared.frontends.wait_until_open(family));
            }
            if let Some(predecessor) = predecessor {
                predecessor.relieve();
                turn.note_predecessor(false);
            }
            handover::run(group, &listening, || {
                turn.end();
                shared.handed_over.send_replace(true);
            });
        };
        thread::Builder::new().name("handover".into()).spawn(run).map_err(EngineError::Thread)?;
        Ok(())
    }

    /// Listens for a NodePort, with the socket of an earlier process where it had one. `None` where another process does by
    /// now.
    ///
    /// # Errors
    /// Where somebody else has the port.
    pub fn listen_on_loopback(
        &self,
        family: Family,
        protocol: Protocol,
        port: u16,
    ) -> io::Result<Option<LoopbackListener>> {
        if self.is_handed_over() {
            return Ok(None);
        }
        let runtime = self.runtimes.first().ok_or(io::ErrorKind::NotConnected)?;
        let role = Role { family, from: From::Loopback, protocol, port };
        let inherited = self.inherited().take(role);
        let socket = match inherited {
            Some(socket) => socket,
            None if protocol == Protocol::Udp => sockets::listen_for_datagrams(family, port)?.into(),
            None => sockets::listen(family, port)?.into(),
        };
        let socket = Arc::new(socket);
        if !self.listening.add(role, &socket) {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        let task = match protocol {
            Protocol::Udp => {
                let replies = Arc::new(Replies::open(family)?);
                runtime.spawn(udp::serve(socket, From::Loopback, replies, shared))
            }
            _ => runtime.spawn(tcp::accept(socket, From::Loopback, shared, self.stop.subscribe())),
        };
        Ok(Some(LoopbackListener { role, task: task.abort_handle(), listening: self.listening.clone() }))
    }

    /// All NodePorts of a family are listened for. What an earlier process listened on beside them is closed.
    pub fn open_loopback(&self, family: Family) {
        self.inherited().forget(family);
        self.shared.frontends.open(family);
    }

    fn inherited(&self) -> std::sync::MutexGuard<'_, Inherited> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_worker(&mut self, number: usize, sockets: Vec<Served>) -> Result<(), EngineError> {
        let (shared, stopped) = (Arc::clone(&self.shared), self.stop.subscribe());
        // Before the thread starts, as it may be in another network namespace.
        let mut replies = BTreeMap::new();
        for family in sockets.iter().map(|served| served.role.family).collect::<BTreeSet<_>>() {
            let failed = |source| EngineError::Listen { family, what: "answers", source };
            replies.insert(family, Arc::new(Replies::open(family).map_err(failed)?));
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(EngineError::Thread)?;
        self.runtimes.push(runtime.handle().clone());
        let run = move || {
            if let Err(error) = scheduling::run_in_slices_of(SLICE) {
                tracing::debug!(%error, "The kernel refuses short slices");
            }
            runtime.block_on(async move {
                for served in sockets {
                    serve(served, &replies, &shared, &stopped);
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
        let is_over = |quiet: Duration| match self.is_handed_over() {
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
    /// Whether another process accepts in place of this one.
    pub fn is_handed_over(&self) -> bool {
        *self.shared.handed_over.borrow()
    }

    fn has_connections(&self) -> bool {
        let all = self.shared.limits.connections.min(Semaphore::MAX_PERMITS);
        self.shared.connections.available_permits() < all
    }
}

fn open(
    family: Family,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(Ports, Vec<Served>), EngineError> {
    let mut sockets = Vec::new();
    let mut open = |from, protocol| {
        let role = Role { family, from, protocol, port: 0 };
        let what = if protocol == Protocol::Udp { "datagrams" } else { "connections" };
        let failed = |source| EngineError::Listen { family, what, source };
        open_all(role, workers, inherited, &mut sockets).map_err(failed)
    };
    let mut pair = |from| Ok(Pair { tcp: open(from, Protocol::Tcp)?, udp: open(from, Protocol::Udp)? });
    let ports = Ports { everybody: pair(From::Everybody)?, pods: pair(From::Pods)? };
    Ok((ports, sockets))
}

/// All with the same port.
fn open_all(
    role: Role,
    workers: usize,
    inherited: &mut Inherited,
    sockets: &mut Vec<Served>,
) -> io::Result<u16> {
    let wanted = workers.div_ceil(workers_of(role.protocol, workers));
    let mut port = 0;
    // A process with more threads may have had more, and each has clients in its queue.
    for _ in 0..wanted.max(inherited.count(role)) {
        let socket: socket2::Socket = match (inherited.take(role), role.protocol) {
            (Some(socket), _) => socket.into(),
            (None, Protocol::Udp) => sockets::listen_for_datagrams(role.family, port)?,
            (None, _) => sockets::listen(role.family, port)?,
        };
        port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        sockets.push(Served { role, socket: Arc::new(socket.into()) });
    }
    Ok(port)
}

/// What each of the workers serves: something of each role, and together all of it.
fn share_out(sockets: &[Served], workers: usize) -> Vec<Vec<Served>> {
    let mut of_workers = vec![Vec::new(); workers];
    for of_role in sockets.chunk_by(|one, next| one.role == next.role) {
        for (number, served) in of_role.iter().enumerate() {
            let share = workers_of(served.role.protocol, workers);
            let those = (number * share..).take(share);
            those.for_each(|worker| of_workers[worker % workers].push(served.clone()));
        }
    }
    of_workers
}

/// How many workers serve the same socket.
fn workers_of(protocol: Protocol, workers: usize) -> usize {
    match protocol {
        // A client's datagrams must all come to the worker that knows its flow.
        Protocol::Udp => 1,
        _ => WORKERS_OF_A_LISTENER.min(workers),
    }
}

fn serve(
    Served { role, socket }: Served,
    replies: &BTreeMap<Family, Arc<Replies>>,
    shared: &Arc<Shared>,
    stopped: &watch::Receiver<bool>,
) {
    let (shared, stopped) = (Arc::clone(shared), stopped.clone());
    let replies = replies.get(&role.family).cloned();
    tokio::spawn(async move {
        shared.frontends.wait_until_open(role.family).await;
        match (role.protocol, replies) {
            (Protocol::Udp, Some(replies)) => udp::serve(socket, role.from, replies, shared).await,
            (Protocol::Udp, None) => {}
            _ => tcp::accept(socket, role.from, shared, stopped).await,
        }
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
        shared.sweeps.send_replace(());
    }
}

/// Whether there are no file descriptors, no memory or no room among what is watched: to be waited for.
pub fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC];
    error.raw_os_error().is_some_and(|errno| EXHAUSTED.contains(&errno))
}

/// Ends a connection with a reset when it is dropped.
pub fn abort(socket: &impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the number of sockets of an earlier process: a socket that is bound and that nobody serves would get a share of
    /// the clients.
    #[test]
    fn each_worker_serves_something_of_each_role_and_every_socket_is_served() {
        let role = |protocol| Role { family: Family::V4, from: From::Everybody, protocol, port: 0 };
        for (workers, of_tcp, of_udp) in [(1, 1, 1), (2, 1, 2), (8, 2, 8), (3, 5, 4), (2, 8, 2)] {
            let socket = || Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
            let some = |protocol, count| {
                std::iter::repeat_with(move || Served { role: role(protocol), socket: socket() }).take(count)
            };
            let sockets: Vec<Served> =
                some(Protocol::Tcp, of_tcp).chain(some(Protocol::Udp, of_udp)).collect();
            let shares = share_out(&sockets, workers);
            assert_eq!(shares.len(), workers);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let serves = |share: &Vec<Served>| share.iter().any(|served| served.role == role(protocol));
                assert!(shares.iter().all(serves), "{workers} {protocol}");
            }
            let is_served = |socket: &Served| {
                shares.iter().flatten().filter(|served| Arc::ptr_eq(&served.socket, &socket.socket)).count()
                    > 0
            };
            assert!(sockets.iter().all(is_served), "{workers} {of_tcp} {of_udp}");
        }
    }

    #[test]
    fn listeners_for_connections_are_shared_and_those_for_datagrams_are_not() {
        let mut none = Inherited::default();
        let (_, sockets) = open(Family::V4, 6, &mut none).unwrap();
        let count = |protocol| sockets.iter().filter(|served| served.role.protocol == protocol).count();
        // For everybody and for pods.
        assert_eq!((count(Protocol::Tcp), count(Protocol::Udp)), (4, 12));
    }
}
