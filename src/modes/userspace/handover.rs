//! Listening sockets, handed from a process to the one that takes its place: whoever waits in their queues is served by the
//! new one, and none is refused.
//!
//! The new process asks, gets a socket with each message (SCM_RIGHTS), and says when it knows what to serve; only then does
//! the old one stop accepting. Where the new one ends before that, the old one goes on. As in HAProxy's `-x`, but by an
//! abstract address: those belong to the network namespace, so that pods of the host's network meet without a directory that
//! both have.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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

const ADDRESS: &[u8] = b"ferrovia-userspace";
/// Instead of the name of a socket, when there are no more.
const END: &[u8] = b"end";
const READY: &[u8] = b"ready";
/// For each message: both sides have nothing else to do than to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the old process waits for the new one to know what to serve.
const LEARNING: Duration = Duration::from_secs(120);
/// Another process may be about to give up the address.
const RETRY: Duration = Duration::from_secs(1);

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    pub family: Family,
    pub from: From,
    pub protocol: Protocol,
}

impl Role {
    const FROM: [(From, &str); 2] = [(From::Everybody, "everybody"), (From::Pods, "pods")];

    /// `IPv4/everybody/tcp`
    fn name(self) -> String {
        let from = Role::FROM.into_iter().find(|(from, _)| *from == self.from);
        let from = from.map(|(_, name)| name).unwrap_or_default();
        format!("{}/{from}/{}", self.family, self.protocol.lowercase())
    }

    fn all() -> impl Iterator<Item = Role> {
        let of = |family| Role::FROM.into_iter().map(move |(from, _)| (family, from));
        Family::ALL.into_iter().flat_map(of).flat_map(|(family, from)| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| Role { family, from, protocol })
        })
    }

    /// `None` for one that this version does not know.
    fn parse(name: &[u8]) -> Option<Role> {
        Role::all().find(|role| role.name().as_bytes() == name)
    }
}

/// Sockets of a process before this one.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Role, OwnedFd)>);

impl Inherited {
    pub fn take(&mut self, role: Role) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(of, _)| *of == role)?;
        Some(self.0.remove(at).1)
    }

    pub fn count(&self, role: Role) -> usize {
        self.0.iter().filter(|(of, _)| *of == role).count()
    }
}

/// The process whose sockets these are, which accepts until it hears that this one is ready.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

impl Predecessor {
    /// Returns when it accepts no more and has given up the address.
    fn relieve(self) -> io::Result<()> {
        send(&self.0, READY, SendFlags::NOSIGNAL)?;
        let mut buffer = [0; 1];
        rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        Ok(())
    }
}

/// Asks the process that listens now, if there is one.
pub fn ask() -> Option<(Inherited, Predecessor)> {
    match try_ask() {
        Ok(taken) => {
            tracing::info!(sockets = taken.0.0.len(), "Takes the place of another process");
            Some(taken)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        Err(error) => {
            tracing::warn!(%error, "Cannot take over the sockets of another process");
            None
        }
    }
}

fn try_ask() -> io::Result<(Inherited, Predecessor)> {
    let socket = open()?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(ADDRESS)?)?;
    require_own_kind(&socket)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut sockets = Vec::new();
    loop {
        let mut name = [0; 64];
        let (length, received) = receive(&socket, &mut name)?;
        match (&name[..length], received) {
            (END, _) => return Ok((Inherited(sockets), Predecessor(socket))),
            ([], None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (name, Some(received)) => sockets.extend(Role::parse(name).map(|role| (role, received))),
            (_, None) => {}
        }
    }
}

/// Relieves the predecessor, then waits for a successor, hands the sockets to it and tells when it is ready.
pub fn run(sockets: Vec<(Role, OwnedFd)>, predecessor: Option<Predecessor>, hand_over: impl FnOnce()) {
    if let Some(Err(error)) = predecessor.map(Predecessor::relieve) {
        tracing::warn!(%error, "The process before this one did not say that it accepts no more");
    }
    let listener = loop {
        match offer() {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(RETRY),
            Err(error) => {
                return tracing::warn!(%error, "Nobody will be able to take over this process's sockets");
            }
        }
    };
    loop {
        let successor = accept_with(&listener, SocketFlags::CLOEXEC);
        match successor
            .map_err(io::Error::from)
            .and_then(|successor| hand(&successor, &sockets).map(|()| successor))
        {
            Ok(successor) => {
                tracing::info!("Another process takes the place of this one; accepts no more");
                hand_over();
                drop(listener);
                // That the connection ends tells the successor.
                return drop(successor);
            }
            Err(error) => {
                tracing::warn!(%error, "A process asked for the sockets and did not take them");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?)
}

fn offer() -> io::Result<OwnedFd> {
    let listener = open()?;
    bind(&listener, &SocketAddrUnix::new_abstract_name(ADDRESS)?)?;
    listen(&listener, 4)?;
    Ok(listener)
}

/// Until the successor has said that it knows what to serve.
fn hand(successor: &OwnedFd, sockets: &[(Role, OwnedFd)]) -> io::Result<()> {
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
        let roles: Vec<_> = Role::all().collect();
        assert_eq!(roles.len(), 8);
        for role in roles {
            assert_eq!(Role::parse(role.name().as_bytes()), Some(role));
        }
        assert_eq!(Role::parse(b"IPv4/everybody/sctp"), None);
    }
}
