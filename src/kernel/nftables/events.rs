//! Notifications: what others do to a table. `nft monitor`

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::net::{RecvFlags, recv, sockopt};

use super::chain;
use super::counter;
use super::element;
use super::generation::{self, Generation, Process};
use super::message::{self, Kind};
use super::rule;
use super::set;
use super::socket::PortId;
use super::table::{Name, Table};
use super::wire::Fields;
use crate::kernel::netlink::{Replies, Reply};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// The kernel packs the changes of a transaction into datagrams of up to a page, less what it needs itself.
const DATAGRAM: usize = 64 << 10;
/// A few thousand changes at once; what does not fit is told as lost.
const RECEIVE_BUFFER: usize = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    #[error("cannot subscribe to the changes of nf_tables")]
    Open(#[source] io::Error),
    #[error("cannot receive the changes of nf_tables")]
    Receive(#[source] io::Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Changed(Change, Object),
    /// The changes since the last one were one transaction.
    Committed {
        generation: Generation,
        by: Option<Process>,
    },
    /// There were more changes than could be kept.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Deleted,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Table,
    Chain(Name),
    /// A rule of this chain.
    Rule(Name),
    Set(Name),
    /// Elements of this set.
    Elements(Name),
    /// A counter or another object.
    Named(Name),
}

/// A subscription to what others do to one table.
pub struct Subscription {
    socket: Socket,
    table: Table,
    own: PortId,
    buffer: Vec<u8>,
    /// Whether the transaction that is being told about touches the table.
    concerned: bool,
    /// How many transactions others made, of whatever table.
    transactions: u32,
}

impl Subscription {
    /// What the socket `own` does is not told, and costs no wakening.
    pub fn open(table: &Table, own: PortId) -> Result<Self, SubscriptionError> {
        Self::subscribed(table, own).map_err(SubscriptionError::Open)
    }

    fn subscribed(table: &Table, own: PortId) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        ignore(&socket, own)?;
        let subscription = Subscription {
            socket,
            table: table.clone(),
            own,
            buffer: vec![0; DATAGRAM],
            concerned: false,
            transactions: 0,
        };
        if sockopt::set_socket_recv_buffer_size_force(subscription.as_fd(), RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(subscription.as_fd(), RECEIVE_BUFFER)?;
        }
        subscription.join()?;
        Ok(subscription)
    }

    fn join(&self) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &GROUP)
    }

    /// From now on nothing is told, of whomever, until [`resume`](Self::resume). Where nobody listens, the kernel does not
    /// make a message for each element that comes or goes, own ones included: a fifth of the time that 100,000 take it.
    pub fn pause(&self) -> Result<(), SubscriptionError> {
        let left = set_option(&self.socket, libc::SOL_NETLINK, libc::NETLINK_DROP_MEMBERSHIP, &GROUP);
        left.map_err(SubscriptionError::Open)
    }

    pub fn resume(&self) -> Result<(), SubscriptionError> {
        self.join().map_err(SubscriptionError::Open)
    }

    /// Hands over everything that has been told by now, without waiting.
    pub fn read(&mut self, each: &mut dyn FnMut(Event)) -> Result<(), SubscriptionError> {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = recv(self.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT);
            if let Ok((length, _)) = received {
                Replies(&buffer[..length]).for_each(|reply| self.tell(&reply, each));
            }
            self.buffer = buffer;
            match received {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::NOBUFS) => each(Event::Lost),
                Err(errno) => return Err(SubscriptionError::Receive(errno.into())),
            }
        }
    }

    /// How many transactions of others were told of so far, whatever table they touched.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    fn tell(&mut self, reply: &Reply<'_>, each: &mut dyn FnMut(Event)) {
        if reply.port == self.own.0 {
            return;
        }
        match Kind::from_header(reply.kind) {
            Some(Kind::NewGeneration) => {
                self.transactions = self.transactions.wrapping_add(1);
                if std::mem::take(&mut self.concerned)
                    && let Some(generation) = generation::parse(reply.payload)
                {
                    each(Event::Committed { generation, by: generation::parse_process(reply.payload) });
                }
            }
            Some(kind) => {
                if let Some((change, object)) = parse(kind, reply.payload, &self.table) {
                    self.concerned = true;
                    each(Event::Changed(change, object));
                }
            }
            None => {}
        }
    }
}

/// For waiting until there is something to read.
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// Lets the kernel drop the notifications that another socket caused, before they are queued: loading 100,000 elements
/// would overflow any queue. All messages of a datagram are of one transaction.
fn ignore(socket: &Socket, own: PortId) -> io::Result<()> {
    const PORT_OFFSET: u32 = 12;
    let instruction = |code: u32, when_true, when_false, operand| libc::sock_filter {
        code: code as u16,
        jt: when_true,
        jf: when_false,
        k: operand,
    };
    // Words are loaded as big-endian.
    let port = own.0.to_be();
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PORT_OFFSET),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live C struct of that size, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `None` for other tables.
fn parse(kind: Kind, payload: &[u8], table: &Table) -> Option<(Change, Object)> {
    if message::family(payload)? != table.family {
        return None;
    }
    let name = Fields::after_header(payload).text(TABLE)?;
    (*name == *table.name).then_some(())?;
    let change = match kind {
        Kind::DeleteTable
        | Kind::DeleteChain
        | Kind::DeleteRule
        | Kind::DeleteSet
        | Kind::DeleteElements
        | Kind::DeleteObject => Change::Deleted,
        _ => Change::Added,
    };
    Some((change, object(kind, payload)?))
}

/// The first attribute of each of these messages is the name of the table.
const TABLE: u16 = 1;

fn object(kind: Kind, payload: &[u8]) -> Option<Object> {
    let named = |attribute| Fields::after_header(payload).text(attribute).map(Name::from);
    Some(match kind {
        Kind::NewTable | Kind::DeleteTable => Object::Table,
        Kind::NewChain | Kind::DeleteChain => Object::Chain(named(chain::NAME)?),
        Kind::NewRule | Kind::DeleteRule => Object::Rule(named(rule::CHAIN)?),
        Kind::NewSet | Kind::DeleteSet => Object::Set(named(set::NAME)?),
        Kind::NewElements | Kind::DeleteElements => Object::Elements(element::set_of(payload)?),
        Kind::NewObject | Kind::DeleteObject => Object::Named(named(counter::NAME)?),
        _ => return None,
    })
}
