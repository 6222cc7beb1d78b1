//! The door to interface addresses (rtnetlink): what they are, and when they change.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::netlink::{Connection, NetlinkError};
use super::rtnetlink::address::InterfaceAddress;
use super::virtual_addresses::DEVICE;

#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    #[error("cannot list interface addresses")]
    List(#[source] NetlinkError),
    #[error("cannot watch interface addresses")]
    Watch(#[source] io::Error),
}

/// Every address of every interface in the network namespace of the calling thread, both families, sorted. Those of the
/// device that holds virtual addresses are Services', not the node's.
pub fn addresses() -> Result<Vec<IpAddr>, LinksError> {
    let mut addresses = Vec::new();
    let virtual_ones = index_of(DEVICE);
    let mut note = |payload: &[u8]| {
        let found = InterfaceAddress::parse(payload);
        let found = found.filter(|found| virtual_ones != Some(found.interface));
        addresses.extend(found.map(|found| found.address));
    };
    Connection::open(NETLINK_ROUTE)
        .and_then(|mut connection| connection.dump(InterfaceAddress::list(), &mut note))
        .map_err(LinksError::List)?;
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Whether the network namespace of the calling thread has an interface of this name.
pub fn exists(name: &str) -> bool {
    index_of(name).is_some()
}

fn index_of(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` ends with a zero.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

/// Tells when addresses may have changed.
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Watches the network namespace of the calling thread. What changes from now on will be told, so list afterwards.
    pub fn open() -> Result<Self, LinksError> {
        Self::subscribed().map_err(LinksError::Watch)
    }

    fn subscribed() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(AddressWatch { socket })
    }

    /// Blocks until something changes. Many changes at once are told once; list the addresses to see which.
    pub fn wait(&mut self) -> Result<(), LinksError> {
        self.receive(0).map_err(LinksError::Watch)?;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(LinksError::Watch(error)),
            }
        }
    }

    /// Takes one notification. That some were lost (`ENOBUFS`) says as much as one that was not.
    fn receive(&mut self, flags: libc::c_int) -> io::Result<()> {
        loop {
            // Whatever does not fit is cut off: only that there was something counts.
            let mut buffer = [0; 16];
            match self.socket.recv(&mut buffer.as_mut_slice(), flags) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                received => return received.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::kernel::netlink::Replies;
    use crate::kernel::netns::Namespace;

    /// Linux 6.18, `ip address show` after `ip address add 172.18.0.2/16 dev lo`, taken with a raw socket.
    const IPV4: &[u8] = b"\x4c\0\0\0\x14\0\x02\0\x01\0\0\0\x3f\x5e\0\0\x02\x10\x80\0\x01\0\0\0\
        \x08\0\x01\0\xac\x12\0\x02\x08\0\x02\0\xac\x12\0\x02\x07\0\x03\0lo\0\0\x08\0\x08\0\x80\0\0\0\
        \x14\0\x06\0\xff\xff\xff\xff\xff\xff\xff\xff\xaa\xb9\x03\0\xaa\xb9\x03\0";
    /// The same, after `ip -6 address add fd00:18::2/64 dev lo nodad`.
    const IPV6: &[u8] = b"\x48\0\0\0\x14\0\x02\0\x01\0\0\0\x3f\x5e\0\0\x0a\x40\x82\0\x01\0\0\0\
        \x14\0\x01\0\xfd\0\0\x18\0\0\0\0\0\0\0\0\0\0\0\x02\
        \x14\0\x06\0\xff\xff\xff\xff\xff\xff\xff\xff\xaa\xb9\x03\0\xaa\xb9\x03\0\x08\0\x08\0\x82\0\0\0";

    fn ip(line: &str) -> impl Fn(&Namespace) + '_ {
        move |namespace| {
            let status = namespace.command("ip").unwrap().args(line.split_whitespace()).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn reads_addresses_of_both_families() {
        let parse = |message: &[u8]| {
            InterfaceAddress::parse(Replies(message).next().unwrap().payload).unwrap().address
        };
        assert_eq!(parse(IPV4).to_string(), "172.18.0.2");
        assert_eq!(parse(IPV6).to_string(), "fd00:18::2");
        assert_eq!(InterfaceAddress::parse(&IPV4[16..26]), None, "cut off");
    }

    #[test]
    fn lists_the_addresses_of_this_namespace_and_not_those_of_peers() {
        let namespace = Namespace::new().unwrap();
        assert_eq!(namespace.run(|| addresses().unwrap()).unwrap(), [] as [IpAddr; 0]);
        ip("link set lo up")(&namespace);
        ip("address add 172.18.0.2 peer 172.18.0.3 dev lo")(&namespace);
        ip("address add fd00:18::2/64 dev lo nodad")(&namespace);
        let listed = namespace.run(|| addresses().unwrap()).unwrap();
        assert_eq!(texts(&listed), ["127.0.0.1", "172.18.0.2", "::1", "fd00:18::2"]);
    }

    #[test]
    fn tells_of_each_change() {
        let namespace = Namespace::new().unwrap();
        ip("link set lo up")(&namespace);
        let mut watch = namespace.run(|| AddressWatch::open().unwrap()).unwrap();
        let (sender, told) = mpsc::channel();
        std::thread::spawn(move || while watch.wait().is_ok() && sender.send(()).is_ok() {});
        for change in [
            "address add 172.18.0.2/16 dev lo",
            "address del 172.18.0.2/16 dev lo",
            "address add fd00:18::2/64 dev lo nodad",
        ] {
            ip(change)(&namespace);
            told.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("not told of {change}"));
        }
    }

    #[test]
    fn lost_notifications_are_told_as_a_change() {
        let namespace = Namespace::new().unwrap();
        ip("link set lo up")(&namespace);
        let mut watch = namespace.run(|| AddressWatch::open().unwrap()).unwrap();
        watch.socket.set_rx_buf_sz(1).unwrap();
        for number in 1..=40 {
            ip(&format!("address add 172.18.0.{number}/16 dev lo"))(&namespace);
        }
        watch.wait().unwrap();
    }
}
