//! Hearing of what others do to routes, and of links and addresses that come and go.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::codec;
use super::{ROUTE_PROTOCOL, RoutesError};
use crate::kernel::netlink::{Connection, Replies, Reply};
use crate::kernel::rtnetlink::address::InterfaceAddress;

/// A message about a link is 2 KiB long, or more with many virtual functions: what is cut off does not count.
const LONGEST: usize = 32 << 10;
/// Some thousand notifications; what does not fit is told as lost.
const RECEIVE_BUFFER: usize = 2 << 20;

const GROUPS: libc::c_int = libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR;

/// What somebody else did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A route with our number, or one that took the place of some route.
    OwnRoute(IpNet),
    /// A route of another protocol. Addresses in this network may be reached in another way now.
    OtherRoute(IpNet),
    /// This link changed or is gone. An IPv4 route through it may be gone without a word (`fib_sync_down_dev`).
    Link(u32),
    /// The link got or lost this address. An IPv4 route that prefers it may be gone without a word.
    Address { link: u32, address: IpAddr },
    /// Some notices are: everything has to be looked at again.
    Lost,
}

/// A subscription.
pub struct RouteWatch {
    socket: Socket,
    own: u32,
    buffer: Vec<u8>,
}

impl RouteWatch {
    /// What is done through `connection` is not told.
    pub(super) fn open(connection: &Connection) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // SAFETY: the socket is open.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        if sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER)?;
        }
        socket.bind(&SocketAddr::new(0, GROUPS as u32))?;
        Ok(RouteWatch { socket, own: connection.port()?, buffer: vec![0; LONGEST] })
    }

    /// Waits until something happens, and tells all that has happened by then. Never empty.
    pub fn wait(&mut self) -> Result<Vec<Notice>, RoutesError> {
        let mut notices = Vec::new();
        while notices.is_empty() {
            self.receive(0, &mut notices)?;
        }
        while self.receive(libc::MSG_DONTWAIT, &mut notices)? == Received::Something {}
        notices.dedup();
        Ok(notices)
    }

    fn receive(&mut self, flags: libc::c_int, notices: &mut Vec<Notice>) -> Result<Received, RoutesError> {
        match self.socket.recv(&mut self.buffer.as_mut_slice(), flags) {
            Ok(length) => {
                let foreign = Replies(&self.buffer[..length]).filter(|reply| reply.port != self.own);
                notices.extend(foreign.filter_map(|reply| parse(&reply)));
                Ok(Received::Something)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Received::Something),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                notices.push(Notice::Lost);
                Ok(Received::Something)
            }
            Err(error) => Err(RoutesError::Watch(error)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Something,
    Nothing,
}

fn parse(reply: &Reply<'_>) -> Option<Notice> {
    match reply.kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let told = codec::parse(reply.payload)?;
            let replaces = reply.flags & libc::NLM_F_REPLACE as u16 != 0;
            Some(match told.protocol == ROUTE_PROTOCOL || replaces {
                true => Notice::OwnRoute(told.destination),
                false => Notice::OtherRoute(told.destination),
            })
        }
        // `ifi_index` and `ifa_index` stand in the same place.
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Notice::Link(index(reply.payload)?)),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let InterfaceAddress { address, interface, .. } = InterfaceAddress::parse(reply.payload)?;
            Some(Notice::Address { link: interface, address })
        }
        _ => None,
    }
}

fn index(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?))
}
