//! Datagrams with the address that they were sent to.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::set_option;
use crate::model::Family;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub client: SocketAddr,
    pub destination: SocketAddr,
    pub length: usize,
}

/// A control message with a socket address of either family, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// `IP_RECVORIGDSTADDR`, `IPV6_RECVORIGDSTADDR`
pub(super) fn tell_destinations(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_option(socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
        Family::V6 => set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR),
    }
}

/// Takes one datagram, if there is one. What does not fit into the buffer is cut off, which cannot happen to UDP in 64 KiB.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut client = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a header of zeros is valid: it has no addresses and no parts.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = client.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: everything that the header points to is as long as it says and lives until the call returns.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    // SAFETY: it was zeroed, and the kernel wrote no more than its length.
    let client = unsafe { client.assume_init() };
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a datagram without its destination");
    let client = parse(bytes_of(&client)).ok_or_else(missing)?;
    let destination = destination(&control.0[..message.msg_controllen.min(128)]).ok_or_else(missing)?;
    Ok(Datagram { client, destination, length })
}

fn bytes_of(address: &libc::sockaddr_storage) -> &[u8] {
    // SAFETY: any initialised value may be read as bytes.
    unsafe { std::slice::from_raw_parts((&raw const *address).cast(), size_of::<libc::sockaddr_storage>()) }
}

/// The address in the first control message of that kind: `struct cmsghdr` is a length, a level and a kind.
fn destination(mut control: &[u8]) -> Option<SocketAddr> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    loop {
        let length = usize::from_ne_bytes(control.get(..8)?.try_into().ok()?);
        let level = i32::from_ne_bytes(control.get(8..12)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(control.get(12..16)?.try_into().ok()?);
        match (level, kind) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                return parse(control.get(HEADER..length)?);
            }
            _ => control = control.get(length.max(HEADER).next_multiple_of(8)..)?,
        }
    }
}

/// `struct sockaddr_in` and `struct sockaddr_in6`
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}
