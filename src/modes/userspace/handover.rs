//! Listening sockets, handed from a process to the one that takes its place: whoever waits in their queues is served by the
//! new one, and none is refused.
//!
//! The new process asks, gets a socket with each message (SCM_RIGHTS), and says when it knows what to serve; only then does
//! the old one stop accepting. Where the new one ends before that, the old one goes on. As in HAProxy's `-x`, but by an
//! abstract address: those belong to the network namespace, so that pods of the host's network meet without a directory that
//! both have.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, send, sendmsg, socket_with,
};

use super::engine::From;
use crate::model::{Family, Protocol};

/// Instead of the name of a socket, when there are no more.
const END: &[u8] = b"end";
const READY: &[u8] = b"ready";
/// For each message: both sides have nothing else to do than to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the old process waits for the new one to know what to serve.
const LEARNING: Duration = Duration::from_secs(120);
/// Another process may be about to give up the address.
const RETRY: Duration = Duration::from_secs(1);

/// Sockets that go from process to process together: the mode of the next one need not have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What the userspace mode captures.
    Captured,
    /// NodePorts on loopback, whatever the mode.
    Loopback,
}

impl Group {
    fn address(self) -> io::Result<SocketAddrUnix> {
        let name: &[u8] = match self {
            Group::Captured => b"ferrovia-userspace",
            Group::Loopback => b"ferrovia-loopback",
        };
        Ok(SocketAddrUnix::new_abstract_name(name)?)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Captured => "captured",
            Group::Loopback => "loopback",
        })
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Role {
    pub family: Family,
    pub from: From,
    pub protocol: Protocol,
    /// Of a NodePort. 0 where the kernel chooses, as nobody needs to know it but the rules.
    pub port: u16,
}

impl Role {
    const FROM: [(From, &str); 3] =
        [(From::Everybody, "everybody"), (From::Pods, "pods"), (From::Loopback, "loopback")];
    const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    /// `IPv4/everybody/tcp/0`
    fn name(self) -> String {
        let from = Role::FROM.into_iter().find(|(from, _)| *from == self.from);
        let from = from.map(|(_, name)| name).unwrap_or_default();
        format!("{}/{from}/{}/{}", self.family, self.protocol.lowercase(), self.port)
    }

    /// `None` for one that this version does not know.
    fn parse(name: &[u8]) -> Option<Role> {
        let mut words = std::str::from_utf8(name).ok()?.split('/');
        let (family, from, protocol) = (words.next()?, words.next()?, words.next()?);
        let role = Role {
            family: Family::ALL.into_iter().find(|of| of.to_string() == family)?,
            from: Role::FROM.into_iter().find(|(_, name)| *name == from)?.0,
            protocol: Role::PROTOCOLS.into_iter().find(|of| of.lowercase() == protocol)?,
            port: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(role)
    }
}

/// Sockets of a process before this one.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<Role, Vec<OwnedFd>>);

impl Inherited {
    fn add(&mut self, role: Role, socket: OwnedFd) {
        self.0.entry(role).or_default().push(socket);
    }

    pub fn take(&mut self, role: Role) -> Option<OwnedFd> {
        self.0.get_mut(&role)?.pop()
    }

    pub fn count(&self, role: Role) -> usize {
        self.0.get(&role).map_or(0, Vec::len)
    }

    /// What nobody has taken is closed, with who waits there.
    pub fn forget(&mut self, family: Family) {
        self.0.retain(|role, _| role.family != family);
    }
}

/// The sockets that this process listens on, as they come and go. After they were handed over it has none.
#[derive(Clone, Debug)]
pub struct Listening(Arc<Mutex<Option<Sockets>>>);

/// Threads have several of the same role.
type Sockets = BTreeMap<Role, Vec<Arc<OwnedFd>>>;

impl Default for Listening {
    fn default() -> Self {
        Listening(Arc::new(Mutex::new(Some(Sockets::new()))))
    }
}

impl Listening {
    /// Whether it may be listened on: a socket that is bound and that nobody accepts from would get a share of the clients.
    pub fn add(&self, role: Role, socket: &Arc<OwnedFd>) -> bool {
        let mut sockets = self.sockets();
        let added = sockets.as_mut().map(|sockets| sockets.entry(role).or_default().push(Arc::clone(socket)));
        added.is_some()
    }

    pub fn remove(&self, role: Role) {
        if let Some(sockets) = self.sockets().as_mut() {
            sockets.remove(&role);
        }
    }

    fn all(&self) -> Vec<(Role, Arc<OwnedFd>)> {
        let sockets = self.sockets();
        let of_role = |(role, sockets): (&Role, &Vec<_>)| {
            sockets.iter().map(|socket| (*role, Arc::clone(socket))).collect::<Vec<_>>()
        };
        sockets.iter().flatten().flat_map(of_role).collect()
    }

    fn give_up(&self) {
        *self.sockets() = None;
    }

    fn sockets(&self) -> MutexGuard<'_, Option<Sockets>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of two processes writes to the kernel. They need not capture in the same way, and each would put back what the other
/// takes out.
#[derive(Debug, Default)]
pub struct Turn {
    has_predecessor: AtomicBool,
    is_over: AtomicBool,
}

impl Turn {
    /// Another process writes still: what it captures by must stay.
    pub fn has_predecessor(&self) -> bool {
        self.has_predecessor.load(Ordering::Acquire)
    }

    /// Another process has taken over.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    pub fn note_predecessor(&self, is_there: bool) {
        self.has_predecessor.store(is_there, Ordering::Release);
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// The process whose sockets these are, which accepts until it hears that this one is ready.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

impl Predecessor {
    /// Returns when it accepts and writes no more and has given up the address.
    pub fn relieve(self) {
        if let Err(error) = self.try_relieve() {
            tracing::warn!(%error, "The process before this one did not say that it accepts no more");
        }
    }

    fn try_relieve(self) -> io::Result<()> {
        send(&self.0, READY, SendFlags::NOSIGNAL)?;
        let mut buffer = [0; 1];
        rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        Ok(())
    }
}

/// Asks the process that listens now, if there is one.
pub fn ask(group: Group) -> Option<(Inherited, Predecessor)> {
    match try_ask(group) {
        Ok(taken) => {
            let sockets: usize = taken.0.0.values().map(Vec::len).sum();
            tracing::info!(%group, sockets, "Takes the place of another process");
            Some(taken)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        Err(error) => {
            tracing::warn!(%group, %error, "Cannot take over the sockets of another process");
            None
        }
    }
}

fn try_ask(group: Group) -> io::Result<(Inherited, Predecessor)> {
    let socket = open()?;
    connect(&socket, &group.address()?)?;
    require_own_kind(&socket)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut inherited = Inherited::default();
    loop {
        let mut name = [0; 64];
        let (length, received) = receive(&socket, &mut name)?;
        match (&name[..length], received) {
            (END, _) => return Ok((inherited, Predecessor(socket))),
            ([], None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (name, Some(received)) => {
                if let Some(role) = Role::parse(name) {
                    inherited.add(role, received);
                }
            }
            (_, None) => {}
        }
    }
}

/// Waits for a successor, hands the sockets to it and tells when it is ready.
pub fn run(group: Group, listening: &Listening, hand_over: impl FnOnce()) {
    let listener = loop {
        match offer(group) {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(RETRY),
            Err(error) => {
                return tracing::warn!(%group, %error, "Nobody will be able to take over this process's sockets");
            }
        }
    };
    loop {
        let successor = accept_with(&listener, SocketFlags::CLOEXEC);
        match successor
            .map_err(io::Error::from)
            .and_then(|successor| hand(&successor, &listening.all()).map(|()| successor))
        {
            Ok(successor) => {
                tracing::info!(%group, "Another process takes the place of this one; accepts no more");
                hand_over();
                listening.give_up();
                drop(listener);
                // That the connection ends tells the successor.
                return drop(successor);
            }
            Err(error) => {
                tracing::warn!(%group, %error, "A process asked for the sockets and did not take them");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?)
}

fn offer(group: Group) -> io::Result<OwnedFd> {
    let listener = open()?;
    bind(&listener, &group.address()?)?;
    listen(&listener, 4)?;
    Ok(listener)
}

/// Until the successor has said that it knows what to serve.
fn hand(successor: &OwnedFd, sockets: &[(Role, Arc<OwnedFd>)]) -> io::Result<()> {
    require_own_kind(successor)?;
    set_socket_timeout(successor, Timeout::Send, Some(PATIENCE))?;
    for (role, socket) in sockets {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let socket = [socket.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&socket));
        let name = role.name();
        sendmsg(successor, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    }
    send(successor, END, SendFlags::NOSIGNAL)?;
    set_socket_timeout(successor, Timeout::Recv, Some(LEARNING))?;
    let mut answer = [0; 16];
    match receive(successor, &mut answer)? {
        (length, None) if &answer[..length] == READY => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn receive(from: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let length = recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut received = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            received = sockets.last();
        }
    }
    Ok((length, received))
}

/// Anybody in the network namespace may use the address: only the same user is believed, either way.
fn require_own_kind(peer: &OwnedFd) -> io::Result<()> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to what lives until the call returns. Any bytes are valid there,
    // also the process number 0 of a peer in another namespace, for which rustix has no room.
    let result = unsafe {
        libc::getsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    match credentials.uid == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the process at the other end is of user {}", credentials.uid),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_sockets_are_for() {
        for family in Family::ALL {
            for (from, port) in [(From::Everybody, 0), (From::Pods, 0), (From::Loopback, 30080)] {
                for protocol in Role::PROTOCOLS {
                    let role = Role { family, from, protocol, port };
                    assert_eq!(Role::parse(role.name().as_bytes()), Some(role));
                }
            }
        }
        for unknown in
            [&b"IPv4/everybody/sctp/0"[..], b"IPv4/everybody/tcp", b"IPv4/pods/tcp/0/1", b"", b"\xff"]
        {
            assert_eq!(Role::parse(unknown), None);
        }
    }

    #[test]
    fn what_was_handed_over_is_not_listened_on_again() {
        let role = Role { family: Family::V4, from: From::Loopback, protocol: Protocol::Tcp, port: 30080 };
        let (listening, socket) = (Listening::default(), Arc::new(open().unwrap()));
        assert!(listening.add(role, &socket));
        assert_eq!(listening.all().len(), 1);
        listening.remove(role);
        assert_eq!((listening.all().len(), Arc::strong_count(&socket)), (0, 1));
        assert!(listening.add(role, &socket));
        listening.give_up();
        assert_eq!(Arc::strong_count(&socket), 1);
        assert!(!listening.add(role, &socket));
    }
}
