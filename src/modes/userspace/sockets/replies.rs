//! Answers to datagrams, which must come from where the client sent its own.
//!
//! A socket bound to that address would do as well, but there may be one: of a process on this node whose own port has the
//! number of a NodePort (k8s#111682). So the header is written here, and the kernel adds that of IP with any source that
//! is asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{domain, set_option_to, set_transparent};
use crate::model::Family;

/// Of one family. It receives nothing.
#[derive(Debug)]
pub struct Replies {
    socket: Socket,
    family: Family,
}

const HEADER: usize = 8;
/// Where the checksum is in the header.
const CHECKSUM: usize = 6;

/// `struct in_pktinfo` and `struct in6_pktinfo` behind a `struct cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; 40]);

impl Replies {
    pub fn open(family: Family) -> io::Result<Self> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(domain(family), kind, Some(Protocol::UDP))?;
        set_transparent(&socket, family)?;
        // A raw socket gets a copy of whatever is sent to its address. Nobody sends to these: the last one of 127/8, and
        // one of the range for discarding (RFC 6666).
        let nowhere: IpAddr = match domain(family) {
            Domain::IPV4 => [127, 255, 255, 254].into(),
            _ => [0x100, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        socket.bind(&SocketAddr::new(nowhere, 0).into())?;
        socket.set_recv_buffer_size(0)?;
        if family == Family::V6 {
            set_option_to(&socket, libc::SOL_IPV6, libc::IPV6_CHECKSUM, CHECKSUM as i32)?;
        }
        Ok(Replies { socket, family })
    }

    /// Sends the datagram in `packet`, which has room for a header before it.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, packet: &mut [u8]) -> io::Result<()> {
        let length = packet.len() as u16;
        packet[..2].copy_from_slice(&from.port().to_be_bytes());
        packet[2..4].copy_from_slice(&to.port().to_be_bytes());
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[CHECKSUM..HEADER].fill(0);
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (from.ip(), to.ip()) {
            let checksum = checksum(&[&from.octets(), &to.octets(), &[0, 17], &length.to_be_bytes(), packet]);
            packet[CHECKSUM..HEADER].copy_from_slice(&checksum.to_be_bytes());
        }
        let mut control = Control([0; 40]);
        let used = self.write_source(from.ip(), &mut control.0);
        self.send_with(&control.0[..used], to.ip(), packet)
    }

    /// `IP_PKTINFO` or `IPV6_PKTINFO`. Tells its length.
    fn write_source(&self, from: IpAddr, control: &mut [u8; 40]) -> usize {
        let (level, kind) = match self.family {
            Family::V4 => (libc::SOL_IP, libc::IP_PKTINFO),
            Family::V6 => (libc::SOL_IPV6, libc::IPV6_PKTINFO),
        };
        let length = match from {
            // The interface comes first, then the source.
            IpAddr::V4(from) => {
                control[20..24].copy_from_slice(&from.octets());
                16 + 12
            }
            IpAddr::V6(from) => {
                control[16..32].copy_from_slice(&from.octets());
                16 + 20
            }
        };
        control[..8].copy_from_slice(&usize::to_ne_bytes(length));
        control[8..12].copy_from_slice(&level.to_ne_bytes());
        control[12..16].copy_from_slice(&kind.to_ne_bytes());
        length.next_multiple_of(8)
    }

    fn send_with(&self, control: &[u8], to: IpAddr, packet: &[u8]) -> io::Result<()> {
        // The port of a raw socket's peer has to be 0 in IPv6.
        let to = SockAddr::from(SocketAddr::new(to, 0));
        let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
        // SAFETY: a header of zeros is valid: it has no addresses and no parts.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len();
        // SAFETY: everything that the header points to is as long as it says and lives until the call returns, and the
        // kernel only reads it.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// RFC 768, RFC 1071: none is written as all ones.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let word = |bytes: &[u8]| u32::from(bytes[0]) << 8 | bytes.get(1).map_or(0, |low| u32::from(*low));
    let sum: u64 = words.map(word).map(u64::from).sum();
    let folded = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    match !(((folded & 0xffff) + (folded >> 16)) as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::checksum;

    /// Taken from a packet of Linux 6.18: `10.0.0.1:7 > 10.0.0.2:9`, "abc", of odd length.
    #[test]
    fn the_checksum_of_what_it_is_in_is_none() {
        let header = [0, 7, 0, 9, 0, 11, 0, 0];
        let pseudo = [10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11];
        let sum = checksum(&[&pseudo, &header, b"abc"]);
        let with = [0, 7, 0, 9, 0, 11, (sum >> 8) as u8, sum as u8];
        assert_eq!(checksum(&[&pseudo, &with, b"abc"]), 0xffff);
    }
}
