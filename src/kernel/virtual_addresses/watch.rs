//! Hearing of what others do to routes and addresses.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

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
        let own = connection.port()?;
        // Nothing is wrong with a kernel that lacks this: it only makes more to read.
        let _ = ignore_sender(&socket, own);
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(Watch { socket, own, disturbed: false })
    }

    /// Reads what there is and remembers whether any of it matters. To be called often enough while many changes are made
    /// that one's own notifications, of which the kernel names no sender for addresses of IPv6, do not crowd out those of
    /// others.
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

/// Where a message says whose connection it answers or tells of: `nlmsg_pid`.
const SENDER: u32 = 12;

/// Lets the kernel throw away what tells of changes through a connection: for each of thousands of routes there would be a
/// notification to read, one at a time.
fn ignore_sender(socket: &Socket, port: u32) -> io::Result<()> {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // Numbers are loaded as if they were big-endian (`sk_filter`, classic BPF).
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, SENDER),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port.to_be()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the filter and the program that it points to, both of which live until it has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Existing, add_route};
    use super::*;
    use crate::kernel::netns::Namespace;

    #[test]
    fn what_others_change_is_told_and_what_one_changes_oneself_is_not_even_sent() {
        for (family, address) in [(Family::V4, "10.96.0.10"), (Family::V6, "fd00:96::10")] {
            let namespace = Namespace::new().unwrap();
            let status = namespace.command("ip").unwrap().args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(status.success());
            let told = namespace
                .run(|| {
                    let open = || Connection::open(NETLINK_ROUTE).unwrap();
                    let (mut ours, mut theirs) = (open(), open());
                    let mut watch = Watch::open(&ours, Topic::Routes, family).unwrap();
                    watch.read(|_| true).unwrap();
                    let add = || add_route(address.parse().unwrap(), None, Existing::Refuse);
                    let delete = || super::super::codec::delete_route(address.parse().unwrap(), None);
                    let told = || {
                        let mut count = 0;
                        let mut buffer = vec![0; LONGEST];
                        while watch.socket.recv(&mut buffer.as_mut_slice(), libc::MSG_DONTWAIT).is_ok() {
                            count += 1;
                        }
                        count
                    };
                    told();
                    ours.execute(add()).unwrap();
                    ours.execute(delete()).unwrap();
                    let own = told();
                    theirs.execute(add()).unwrap();
                    theirs.execute(delete()).unwrap();
                    [own, told()]
                })
                .unwrap();
            assert_eq!(told, [0, 2], "{family}");
        }
    }
}
