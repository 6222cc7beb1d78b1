//! The first two packets of SCTP associations, written and read by the lab itself.
//!
//! Many kernels have no SCTP sockets while their netfilter does translate SCTP. INIT and INIT ACK (RFC 9260) over raw
//! sockets are enough to see who answers; the answer is in the ACK's state cookie.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recvfrom, send,
    sendto, socket_with,
};

const HEADER: usize = 12;
const CHUNK: usize = 20;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const STATE_COOKIE: u16 = 7;
/// Ephemeral ports, out of the way of NodePorts.
const CLIENT_PORTS: std::ops::Range<u16> = 40_000..60_000;

/// INIT or INIT ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    source_port: u16,
    destination_port: u16,
    /// What the receiver chose in its INIT; 0 in an INIT itself. Connection tracking looks at it.
    verification_tag: u32,
    kind: u8,
    /// What the sender wants to find in `verification_tag` from now on.
    initiate_tag: u32,
    cookie: Vec<u8>,
}

impl Packet {
    fn encode(&self) -> Vec<u8> {
        let mut chunk = vec![self.kind, 0, 0, 0];
        chunk.extend(self.initiate_tag.to_be_bytes());
        let (window, streams, sequence) = (65_536u32, 1u16, 1u32);
        chunk.extend(window.to_be_bytes());
        chunk.extend(streams.to_be_bytes());
        chunk.extend(streams.to_be_bytes());
        chunk.extend(sequence.to_be_bytes());
        if !self.cookie.is_empty() {
            chunk.extend(STATE_COOKIE.to_be_bytes());
            chunk.extend((4 + self.cookie.len() as u16).to_be_bytes());
            chunk.extend(&self.cookie);
        }
        let length = chunk.len() as u16;
        chunk[2..4].copy_from_slice(&length.to_be_bytes());
        chunk.resize(chunk.len().next_multiple_of(4), 0);
        self.with_header(&chunk)
    }

    fn with_header(&self, chunk: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(HEADER + chunk.len());
        packet.extend(self.source_port.to_be_bytes());
        packet.extend(self.destination_port.to_be_bytes());
        packet.extend(self.verification_tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(chunk);
        let checksum = crc32c(&packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
        packet
    }

    fn decode(bytes: &[u8]) -> Option<Packet> {
        let chunk = bytes.get(HEADER..)?;
        let length = usize::from(u16_at(chunk, 2)?);
        let cookie = match chunk.get(CHUNK..length)? {
            [] => Vec::new(),
            parameter if u16_at(parameter, 0)? == STATE_COOKIE => {
                parameter.get(4..usize::from(u16_at(parameter, 2)?))?.to_vec()
            }
            _ => return None,
        };
        Some(Packet {
            source_port: u16_at(bytes, 0)?,
            destination_port: u16_at(bytes, 2)?,
            verification_tag: u32_at(bytes, 4)?,
            kind: chunk[0],
            initiate_tag: u32_at(chunk, 4)?,
            cookie,
        })
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        }
    }
    !crc
}

/// Answers every INIT that comes to its address and port.
pub struct Server {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Server {
    /// In the network namespace of the calling thread.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Server { socket: raw_socket(address.ip(), SocketFlags::NONBLOCK)?, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers one packet, if it is for this server, with a text made of its client's address.
    pub fn answer(&self, text: impl FnOnce(SocketAddr) -> String) -> io::Result<()> {
        let (from, packet) = receive(&self.socket)?;
        let Some(init) =
            packet.filter(|packet| packet.kind == INIT && packet.destination_port == self.address.port())
        else {
            return Ok(());
        };
        let ack = Packet {
            source_port: init.destination_port,
            destination_port: init.source_port,
            verification_tag: init.initiate_tag,
            kind: INIT_ACK,
            initiate_tag: 1,
            cookie: text(SocketAddr::new(from, init.source_port)).into_bytes(),
        };
        sendto(&self.socket, &ack.encode(), SendFlags::empty(), &SocketAddr::new(from, 0))?;
        Ok(())
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A client that has not asked yet.
pub struct Client {
    socket: OwnedFd,
    port: u16,
}

impl Client {
    /// In the network namespace of the calling thread.
    pub fn open(from: IpAddr) -> io::Result<Self> {
        let socket = raw_socket(from, SocketFlags::empty())?;
        super::client::report_icmp(&socket, from)?;
        Ok(Client { socket, port: rand::random_range(CLIENT_PORTS) })
    }

    /// The text of the answer.
    pub fn ask(&self, to: SocketAddr, patience: Duration) -> io::Result<String> {
        let init = Packet {
            source_port: self.port,
            destination_port: to.port(),
            verification_tag: 0,
            kind: INIT,
            initiate_tag: 1,
            cookie: Vec::new(),
        };
        connect(&self.socket, &SocketAddr::new(to.ip(), 0))?;
        match send(&self.socket, &init.encode(), SendFlags::empty()) {
            // As with UDP: netfilter said no in OUTPUT, and a rejection follows.
            Ok(_) | Err(rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + patience;
        loop {
            super::client::wait_readable(&self.socket, deadline.saturating_duration_since(Instant::now()))?;
            // Other clients of this host may talk to the same server.
            let (_, packet) = receive(&self.socket)?;
            if let Some(ack) =
                packet.filter(|packet| packet.kind == INIT_ACK && packet.destination_port == self.port)
            {
                return String::from_utf8(ack.cookie)
                    .map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }
}

fn raw_socket(address: IpAddr, flags: SocketFlags) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::RAW, flags | SocketFlags::CLOEXEC, Some(ipproto::SCTP))?;
    bind(&socket, &SocketAddr::new(address, 0))?;
    Ok(socket)
}

/// The sender of a packet, and the packet if it is one of the two kinds.
fn receive(socket: &OwnedFd) -> io::Result<(IpAddr, Option<Packet>)> {
    let mut buffer = [0; 2048];
    let (length, _, from) = recvfrom(socket, &mut buffer, RecvFlags::empty())?;
    let from = from.ok_or(ErrorKind::InvalidData)?;
    let from = SocketAddr::try_from(from)?.ip();
    let bytes = &buffer[..length];
    let packet = match from {
        // Raw IPv4 sockets hand out the IP header too; its length is in words of 32 bits.
        IpAddr::V4(_) => bytes.first().and_then(|first| bytes.get(usize::from(first & 0xf) * 4..)),
        IpAddr::V6(_) => Some(bytes),
    };
    Ok((from, packet.and_then(Packet::decode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the CRC catalogue for CRC-32/ISCSI.
    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_are_read_as_they_were_written() {
        for cookie in ["", "x", "10.244.1.5:8080 10.244.1.9:40000\n"] {
            let packet = Packet {
                source_port: 40_000,
                destination_port: 8080,
                verification_tag: 7,
                kind: INIT_ACK,
                initiate_tag: 9,
                cookie: cookie.into(),
            };
            let bytes = packet.encode();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Packet::decode(&bytes), Some(packet));
            for length in 0..HEADER + CHUNK + cookie.len() {
                assert_eq!(Packet::decode(&bytes[..length]), None, "{length} bytes");
            }
        }
    }
}
