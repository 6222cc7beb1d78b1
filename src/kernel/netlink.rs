//! Netlink messages: writing, reading, and the exchange of them with the kernel.
//!
//! What rtnetlink, ctnetlink and generic netlink have in common. What a message means is the affair of the module that
//! sends it.

pub mod address;
mod batch;
pub mod generic;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

const HEADER: usize = 16;
const ALIGNMENT: usize = 4;
/// The kernel fills dump messages of up to 32 KiB whatever the reader's buffer, see `netlink_dump`.
const RECEIVE_BUFFER: usize = 64 << 10;
/// The kernel answers within the system call; only a lost answer takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
const DUMP_ATTEMPTS: usize = 10;

/// `NLMSGERR_ATTR_MSG`: the sentence in an extended acknowledgement.
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("cannot send to netlink")]
    Send(#[source] io::Error),
    #[error("cannot receive from netlink")]
    Receive(#[source] io::Error),
    #[error("{errno}{}", explanation.as_deref().map(|e| format!(" ({e})")).unwrap_or_default())]
    Refused { errno: io::Error, explanation: Option<Box<str>> },
    #[error("the kernel's table changed during each of {DUMP_ATTEMPTS} attempts to read it")]
    NeverConsistent,
    #[error("the kernel's answer makes no sense")]
    Unintelligible,
}

impl NetlinkError {
    /// The errno with which the kernel refused a request.
    pub fn refusal(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { errno, .. } => errno.raw_os_error(),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.refusal() == Some(libc::ENOENT)
    }

    /// Whether the kernel had more to say than the receive buffer holds (`ENOBUFS`): what it did is not known.
    pub fn is_overrun(&self) -> bool {
        matches!(self, NetlinkError::Receive(error) if error.raw_os_error() == Some(libc::ENOBUFS))
    }
}

/// A request under construction: a header, the fixed part of its kind, attributes.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let mut request = Request { bytes };
        request.fixed(fixed);
        request
    }

    /// Attributes without a message around them, for lists that become part of messages later.
    pub fn bare() -> Self {
        Request { bytes: Vec::new() }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nested(kind, |request| request.bytes.extend_from_slice(value))
    }

    /// A string with its closing zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.nested(kind, |request| {
            request.bytes.extend_from_slice(value.as_bytes());
            request.bytes.push(0);
        })
    }

    /// An attribute whose value is written by `content`. Kinds of nested attributes carry `NLA_F_NESTED` where the
    /// subsystem wants it.
    pub fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        content(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self
    }

    /// A fixed part, at the start of a message or of a nested attribute.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// The whole message, as sent.
    pub fn into_bytes(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of the connection that asked, or in a notification, that made the change. 0 for the kernel itself.
    pub port: u32,
    /// The fixed part and the attributes.
    pub payload: &'a [u8],
}

/// The messages of one datagram, up to the first that is cut off.
#[derive(Clone, Debug)]
pub struct Replies<'a>(pub &'a [u8]);

impl<'a> Iterator for Replies<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let reply = Reply {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            port: u32_at(self.0, 12)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(reply)
    }
}

/// The attributes in a slice, up to the first that is cut off. Kinds come without their flag bits.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes after the fixed part of a payload.
    pub fn after(fixed: usize, payload: &'a [u8]) -> Self {
        Attributes(payload.get(fixed.next_multiple_of(ALIGNMENT)..).unwrap_or_default())
    }

    /// The value of the first attribute of a kind.
    pub fn value(&self, wanted: u16) -> Option<&'a [u8]> {
        self.clone().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & libc::NLA_TYPE_MASK as u16;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// A netlink socket of the network namespace in which it was opened.
pub struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket for a protocol family such as `NETLINK_ROUTE`.
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        Self::configured(protocol).map_err(NetlinkError::Open)
    }

    fn configured(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.12 have neither; they only make errors say more.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let connection = Connection { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] };
        sockopt::set_socket_timeout(connection.as_fd(), sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(connection)
    }

    /// Lets the kernel send only what a dump asks for (`NETLINK_GET_STRICT_CHK`, Linux 4.20). Older kernels send everything.
    pub fn filter_dumps(&mut self) {
        let _ = self.socket.set_netlink_get_strict_chk(true);
    }

    /// The number by which notifications tell what this connection changed.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Sends a request and waits until the kernel says that it is done.
    pub fn execute(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.query(request, &mut |_| {})
    }

    /// Sends a request, hands the payload of each message that answers it to `each`, and waits until the kernel says that
    /// it is done.
    pub fn query(&mut self, mut request: Request, each: &mut dyn FnMut(&[u8])) -> Result<(), NetlinkError> {
        set_flags(&mut request, libc::NLM_F_ACK);
        let sequence = self.send(request)?;
        loop {
            let length = self.receive()?;
            for reply in Replies(&self.buffer[..length]).filter(|reply| reply.sequence == sequence) {
                match verdict(&reply) {
                    Some(result) => return result,
                    None => each(reply.payload),
                }
            }
        }
    }

    /// Asks for all objects of a table and hands the payload of each to `each`, never holding more than one datagram.
    ///
    /// A dump during which the table changed is repeated, so `each` may see an object twice.
    pub fn dump(&mut self, request: Request, each: &mut dyn FnMut(&[u8])) -> Result<(), NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if self.dump_once(request.clone(), each)? == Dump::Complete {
                return Ok(());
            }
        }
        Err(NetlinkError::NeverConsistent)
    }

    fn dump_once(&mut self, mut request: Request, each: &mut dyn FnMut(&[u8])) -> Result<Dump, NetlinkError> {
        set_flags(&mut request, libc::NLM_F_DUMP);
        let sequence = self.send(request)?;
        let mut dump = Dump::Complete;
        loop {
            let length = match self.receive() {
                Err(error) if error.is_overrun() => {
                    dump = Dump::Torn;
                    continue;
                }
                received => received?,
            };
            for reply in Replies(&self.buffer[..length]).filter(|reply| reply.sequence == sequence) {
                if reply.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                    dump = Dump::Torn;
                }
                match verdict(&reply) {
                    Some(Err(error)) if error.refusal() == Some(libc::EINTR) => return Ok(Dump::Torn),
                    Some(result) => return result.map(|()| dump),
                    None => each(reply.payload),
                }
            }
        }
    }

    fn send(&mut self, request: Request) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let bytes = request.into_bytes(self.sequence);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Send)?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> Result<usize, NetlinkError> {
        loop {
            let mut buffer = self.buffer.as_mut_slice();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received.map_err(NetlinkError::Receive),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dump {
    Complete,
    /// Something changed or got lost meanwhile.
    Torn,
}

fn set_flags(request: &mut Request, flags: i32) {
    let flags = u16::from_ne_bytes([request.bytes[6], request.bytes[7]]) | flags as u16;
    request.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
}

/// What a message says about the whole request, if it is one that does.
fn verdict(reply: &Reply<'_>) -> Option<Result<(), NetlinkError>> {
    let is_final = [libc::NLMSG_ERROR as u16, libc::NLMSG_DONE as u16].contains(&reply.kind);
    if !is_final {
        return None;
    }
    let code = u32_at(reply.payload, 0).unwrap_or_default() as i32;
    if code >= 0 {
        return Some(Ok(()));
    }
    let errno = io::Error::from_raw_os_error(-code);
    Some(Err(NetlinkError::Refused { errno, explanation: explanation(reply) }))
}

/// The kernel's own words, where it has any (`NETLINK_EXT_ACK`). They follow the request's header, which is capped.
fn explanation(reply: &Reply<'_>) -> Option<Box<str>> {
    if reply.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
        return None;
    }
    let fixed = if reply.kind == libc::NLMSG_DONE as u16 { 4 } else { 4 + HEADER };
    let text = Attributes::after(fixed, reply.payload).value(ERROR_ATTRIBUTE_MESSAGE)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_as_it_was_written() {
        let mut request = Request::new(20, libc::NLM_F_ACK, &[1, 2, 3]);
        request.attribute(1, &[9; 5]).nested(2, |inner| {
            inner.text(3, "eth0");
        });
        let bytes = request.into_bytes(7);

        let reply = Replies(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.sequence), (20, 7));
        let attributes: Vec<_> = Attributes::after(3, reply.payload).collect();
        assert_eq!(attributes[0], (1, &[9u8; 5][..]));
        assert_eq!(Attributes(attributes[1].1).next(), Some((3, &b"eth0\0"[..])));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    #[test]
    fn cut_off_messages_end_the_iteration() {
        let mut request = Request::new(20, 0, &[]);
        request.attribute(1, &[9; 8]);
        let bytes = request.into_bytes(7);
        for length in 0..bytes.len() {
            assert_eq!(Replies(&bytes[..length]).count(), 0, "{length} bytes");
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its own header");
        assert_eq!(Attributes(&[8, 0, 1, 0, 5]).count(), 0, "value cut off");
    }

    #[test]
    fn the_kernel_explains_its_refusal() {
        let mut connection = Connection::open(netlink_sys::constants::NETLINK_ROUTE).unwrap();
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE, &[0; 16]);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "no-such-kind");
        });
        let error = connection.execute(request).unwrap_err();
        assert_eq!(error.refusal(), Some(libc::EOPNOTSUPP));
        assert!(error.to_string().contains("Unknown device type"), "{error}");
    }

    fn message(kind: u16, flags: i32, payload: &[u8]) -> Vec<u8> {
        Request::new(kind, flags, payload).into_bytes(0)
    }

    /// A kernel that answers each request with the next of these datagrams.
    fn scripted(answers: Vec<Vec<u8>>) -> Connection {
        use std::os::fd::{FromRawFd, IntoRawFd};
        let (ours, kernel) = std::os::unix::net::UnixDatagram::pair().unwrap();
        std::thread::spawn(move || {
            let mut request = [0; 256];
            for mut answer in answers {
                kernel.recv(&mut request).unwrap();
                let mut at = 0;
                while at < answer.len() {
                    answer[at + 8..at + 12].copy_from_slice(&request[8..12]);
                    at += u32_at(&answer, at).unwrap() as usize;
                }
                kernel.send(&answer).unwrap();
            }
        });
        // SAFETY: the descriptor was open and is nobody else's.
        let socket = unsafe { Socket::from_raw_fd(ours.into_raw_fd()) };
        Connection { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] }
    }

    #[test]
    fn c5_a_torn_dump_is_repeated_and_given_up_if_none_is_whole() {
        let object = |number: u8, flags| message(100, flags, &[number; 4]);
        let done = |code: i32| message(libc::NLMSG_DONE as u16, 0, &code.to_ne_bytes());
        let torn = [object(1, libc::NLM_F_DUMP_INTR), done(0)].concat();
        let interrupted = done(-libc::EINTR);
        let whole = [object(1, 0), object(2, 0), done(0)].concat();
        let dump = |answers| {
            let mut seen = Vec::new();
            let result =
                scripted(answers).dump(Request::new(1, 0, &[]), &mut |payload| seen.push(payload[0]));
            (result.map_err(|error| error.to_string()), seen)
        };
        assert_eq!(dump(vec![torn.clone(), interrupted, whole]), (Ok(()), vec![1, 1, 2]));
        let (result, seen) = dump(vec![torn; DUMP_ATTEMPTS]);
        assert_eq!((result, seen.len()), (Err(NetlinkError::NeverConsistent.to_string()), DUMP_ATTEMPTS));
    }
}
