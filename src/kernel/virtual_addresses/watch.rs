//! Hearing of what others do to routes and addresses.

use std::io::{self, ErrorKind};

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::VirtualAddressError;
use crate::kernel::netlink::{Connection, Replies, Reply};
use crate::model::Family;

/// A notification is a few hundred bytes long.
const LONGEST: usize = 8 << 10;

/// What to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// And whatever else takes the sources of routes away.
    Routes,
    Addresses,
}

impl Topic {
    fn groups(self, family: Family) -> libc::c_int {
        match (self, family) {
            (Topic::Addresses, Family::V4) => libc::RTMGRP_IPV4_IFADDR,
            (Topic::Addresses, Family::V6) => libc::RTMGRP_IPV6_IFADDR,
            (Topic::Routes, Family::V4) => libc::RTMGRP_IPV4_ROUTE,
            // An IPv6 route silently loses a source that is no longer an address of the node (`fib6_remove_prefsrc`; not on
            // every kernel: 6.18 does so, 6.1 does not).
            (Topic::Routes, Family::V6) => libc::RTMGRP_IPV6_ROUTE | libc::RTMGRP_IPV6_IFADDR,
        }
    }
}

/// Notifications of what was not changed through one's own connection.
pub struct Watch {
    socket: Socket,
    own: u32,
    disturbed: bool,
}

impl Watch {
    pub fn open(connection: &Connection, topic: Topic, family: Family) -> Result<Self, VirtualAddressError> {
        Self::subscribed(connection, topic.groups(family)).map_err(VirtualAddressError::Watch)
    }

    fn subscribed(connection: &Connection, groups: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(Watch { socket, own: connection.port()?, disturbed: false })
    }

    /// Reads what there is and remembers whether any of it matters. To be called often enough while many changes are made
    /// that one's own notifications do not crowd out those of others.
    pub fn read(&mut self, matters: impl Fn(&Reply<'_>) -> bool) -> Result<(), VirtualAddressError> {
        let mut buffer = vec![0; LONGEST];
        loop {
            match self.socket.recv(&mut buffer.as_mut_slice(), libc::MSG_DONTWAIT) {
                Ok(length) => {
                    let mut foreign = Replies(&buffer[..length]).filter(|reply| reply.port != self.own);
                    self.disturbed |= foreign.any(|reply| matters(&reply));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some were lost, which may have mattered.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.disturbed = true,
                Err(error) => return Err(VirtualAddressError::Watch(error)),
            }
        }
    }

    /// Whether anything mattered since the last call.
    pub fn take(&mut self) -> bool {
        std::mem::take(&mut self.disturbed)
    }
}
