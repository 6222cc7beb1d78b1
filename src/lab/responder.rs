//! The servers of the lab: one thread that serves every socket of every host.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::sctp;
use crate::model::Protocol;

const STOP: u64 = 0;

/// Serves until it is dropped. To a new connection and for every datagram it says `SERVER CLIENT`, both as it sees
/// them; on a connection it then repeats what it hears.
pub struct Responder {
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    by_token: BTreeMap<u64, Served>,
    last_token: u64,
}

enum Served {
    Listener(SocketAddr, TcpListener),
    Connection(SocketAddr, TcpStream),
    Datagrams(SocketAddr, UdpSocket),
    Associations(sctp::Server),
}

impl Served {
    fn is_at(&self, address: SocketAddr, protocol: Protocol) -> bool {
        match self {
            Served::Listener(at, _) => *at == address && protocol == Protocol::Tcp,
            Served::Connection(..) => false,
            Served::Datagrams(at, _) => *at == address && protocol == Protocol::Udp,
            Served::Associations(server) => server.address() == address && protocol == Protocol::Sctp,
        }
    }

    fn belongs_to(&self, address: SocketAddr, protocol: Protocol) -> bool {
        self.is_at(address, protocol)
            || matches!(self, Served::Connection(at, _) if *at == address && protocol == Protocol::Tcp)
    }
}

impl AsFd for Served {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Served::Listener(_, socket) => socket.as_fd(),
            Served::Connection(_, socket) => socket.as_fd(),
            Served::Datagrams(_, socket) => socket.as_fd(),
            Served::Associations(server) => server.as_fd(),
        }
    }
}

impl Responder {
    pub fn start() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, sockets: Mutex::default() });
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("responder".into()).spawn(move || serving.serve())?;
        Ok(Responder { shared, stop, thread: Some(thread) })
    }

    /// Starts to serve, in the network namespace of the calling thread.
    pub fn listen(&self, address: SocketAddr, protocol: Protocol) -> io::Result<()> {
        let served = match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Served::Listener(address, listener)
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                Served::Datagrams(address, socket)
            }
            Protocol::Sctp => Served::Associations(sctp::Server::bind(address)?),
        };
        self.shared.add(&mut self.shared.lock(), served)
    }

    pub fn serves(&self, address: SocketAddr, protocol: Protocol) -> bool {
        self.shared.lock().by_token.values().any(|served| served.is_at(address, protocol))
    }

    /// Closes what serves there, connections too.
    pub fn close(&self, address: SocketAddr, protocol: Protocol) {
        self.shared.lock().by_token.retain(|_, served| !served.belongs_to(address, protocol));
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let stopped = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (stopped, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, sockets: &mut Sockets, served: Served) -> io::Result<()> {
        sockets.last_token += 1;
        let token = sockets.last_token;
        epoll::add(&self.epoll, &served, EventData::new_u64(token), EventFlags::IN)?;
        sockets.by_token.insert(token, served);
        Ok(())
    }

    fn serve(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "the servers of the lab stop"),
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    token => self.attend(token),
                }
            }
        }
    }

    fn attend(&self, token: u64) {
        let mut sockets = self.lock();
        let outcome = match sockets.by_token.get_mut(&token) {
            None => return,
            Some(Served::Listener(address, listener)) => {
                let address = *address;
                accept(address, listener).and_then(|connection| self.add(&mut sockets, connection))
            }
            Some(Served::Connection(_, connection)) => repeat(connection),
            Some(Served::Datagrams(address, socket)) => answer(*address, socket),
            Some(Served::Associations(server)) => {
                server.answer(|client| introduction(server.address(), client))
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                // A client that has gone: its connection ends. Listeners and datagram sockets go on.
                if matches!(sockets.by_token.get(&token), Some(Served::Connection(..))) {
                    sockets.by_token.remove(&token);
                }
            }
        }
    }
}

fn accept(address: SocketAddr, listener: &TcpListener) -> io::Result<Served> {
    let (mut connection, client) = listener.accept()?;
    connection.set_nonblocking(true)?;
    connection.write_all(introduction(address, client).as_bytes())?;
    Ok(Served::Connection(address, connection))
}

fn repeat(connection: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match connection.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => connection.write_all(&buffer[..length]),
    }
}

fn answer(address: SocketAddr, socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 512];
    let (_, client) = socket.recv_from(&mut buffer)?;
    socket.send_to(introduction(address, client).as_bytes(), client)?;
    Ok(())
}

fn introduction(server: SocketAddr, client: SocketAddr) -> String {
    format!("{server} {client}\n")
}
