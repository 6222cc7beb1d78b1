//! The socket over which batches go, and what the kernel says about them.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg, sockopt};

use super::batch::{self, Batch};
use super::generation::Generation;
use super::wire::Fields;
use crate::kernel::netlink::{Replies, Reply};

/// Refusals of a few thousand operations, each with the kernel's explanation.
const RECEIVE_BUFFER: usize = 1 << 20;
/// A datagram is one refusal.
const DATAGRAM: usize = 8 << 10;
/// What the kernel sets aside in a send buffer, see `netlink_sendmsg`.
const SEND_RESERVE: usize = 32;
/// `NLMSGERR_ATTR_*`, after the error number and the request's header.
const ERROR_FIXED: usize = 4 + 16;
const ERROR_MESSAGE: u16 = 1;
const ERROR_OFFSET: u16 = 2;

/// The address of a netlink socket. What a transaction of this socket changes is announced with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId(pub u32);

pub(super) struct BatchSocket {
    socket: Socket,
    port: PortId,
    sequence: u32,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Outcome {
    Committed,
    /// Somebody else made a transaction since.
    Stale,
    Refused(Vec<Complaint>),
    /// Answers did not fit into the receive buffer, and no refusal is among those that did.
    Lost,
}

/// What the kernel says about a message.
#[derive(Debug)]
pub(super) struct Complaint {
    pub sequence: u32,
    pub errno: i32,
    pub explanation: Option<Box<str>>,
    /// Of the attribute to blame, from the beginning of the message.
    pub offset: Option<usize>,
}

impl BatchSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let address = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.12 have neither; they only make errors say more.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let opened = BatchSocket { socket, port: PortId(address.port_number()), sequence: 1 };
        // Without CAP_NET_ADMIN nothing will be committed either.
        let _ = sockopt::set_socket_recv_buffer_size_force(opened.as_fd(), RECEIVE_BUFFER);
        Ok(opened)
    }

    pub(super) fn port(&self) -> PortId {
        self.port
    }

    /// The sequence number for the first message of the next batch.
    pub(super) fn first_sequence(&self) -> u32 {
        self.sequence
    }

    /// Past a batch of so many messages and what frames it.
    pub(super) fn advance(&mut self, messages: usize) {
        self.sequence = self.sequence.wrapping_add(messages as u32).wrapping_add(2);
    }

    /// Makes room for `bytes` in one piece and says how many fit. `SO_SNDBUFFORCE` needs CAP_NET_ADMIN over the network
    /// namespace, before Linux 5.16 over the whole machine.
    pub(super) fn make_room(&self, bytes: usize) -> io::Result<usize> {
        let wanted = bytes + SEND_RESERVE;
        if self.room()? < wanted && sockopt::set_socket_send_buffer_size_force(self.as_fd(), wanted).is_err()
        {
            sockopt::set_socket_send_buffer_size(self.as_fd(), wanted)?;
        }
        self.room()
    }

    fn room(&self) -> io::Result<usize> {
        Ok(sockopt::socket_send_buffer_size(self.as_fd())?.saturating_sub(SEND_RESERVE))
    }

    /// Sends part of a batch as a transaction of its own. The kernel has carried it out, or not, when it returns.
    pub(super) fn send(
        &mut self,
        batch: &Batch,
        part: &Range<usize>,
        after: Generation,
    ) -> io::Result<Outcome> {
        self.discard_answers()?;
        let before = batch.sequence_of(part.start).wrapping_sub(1);
        let (begin, end) = (batch::begin(after, before), batch::end(batch.sequence_of(part.end)));
        let pieces = [IoSlice::new(&begin), IoSlice::new(batch.bytes(part)), IoSlice::new(&end)];
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let sent = sendmsg(self.as_fd(), &pieces, &mut SendAncillaryBuffer::default(), SendFlags::empty())?;
        if sent != length {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        self.outcome(before)
    }

    /// Nothing is said about what succeeds.
    fn outcome(&mut self, begin: u32) -> io::Result<Outcome> {
        let (mut complaints, mut lost) = (Vec::new(), false);
        let mut buffer = [0; DATAGRAM];
        loop {
            match self.receive(&mut buffer) {
                Ok(0) => break,
                Ok(length) => complaints.extend(Replies(&buffer[..length]).filter_map(|reply| parse(&reply))),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return Err(error),
            }
        }
        let is_stale =
            |complaint: &Complaint| complaint.errno == libc::ERESTART && complaint.sequence == begin;
        Ok(match complaints.is_empty() {
            _ if complaints.iter().any(is_stale) => Outcome::Stale,
            false => Outcome::Refused(complaints),
            true if lost => Outcome::Lost,
            true => Outcome::Committed,
        })
    }

    /// Of a batch whose outcome could not be read.
    fn discard_answers(&self) -> io::Result<()> {
        let mut buffer = [0; DATAGRAM];
        loop {
            match self.receive(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// 0 if there is nothing: the kernel answers before it returns from sending.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(length),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for BatchSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// `None` for acknowledgements and what is none.
fn parse(reply: &Reply<'_>) -> Option<Complaint> {
    let code = i32::from_ne_bytes(reply.payload.get(..4)?.try_into().ok()?);
    if reply.kind != libc::NLMSG_ERROR as u16 || code >= 0 {
        return None;
    }
    let has_details = reply.flags & libc::NLM_F_ACK_TLVS as u16 != 0;
    let details = reply.payload.get(ERROR_FIXED..).filter(|_| has_details).unwrap_or_default();
    let details = Fields::of(details);
    let offset = details.get(ERROR_OFFSET).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    Some(Complaint {
        sequence: reply.sequence,
        errno: -code,
        explanation: details.text(ERROR_MESSAGE).map(Box::from),
        offset: offset.map(|offset| offset as usize),
    })
}
