//! The door to the interface that holds an address of the node (rtnetlink): its name, and how large packets may be.

use std::net::IpAddr;

use netlink_sys::constants::NETLINK_ROUTE;

use super::netlink::{Attributes, Connection, NetlinkError, Request};
use super::rtnetlink::address::InterfaceAddress;

/// `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("cannot find the interface that has {address}")]
pub struct UplinkError {
    address: IpAddr,
    source: NetlinkError,
}

/// The interface through which a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its number.
    pub link: u32,
    pub name: String,
    /// In bytes.
    pub mtu: u32,
}

/// Which interface has an address, in the network namespace of the calling thread. `None` if none has it.
pub fn of(address: IpAddr) -> Result<Option<Uplink>, UplinkError> {
    find(address).map_err(|source| UplinkError { address, source })
}

fn find(address: IpAddr) -> Result<Option<Uplink>, NetlinkError> {
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    let mut index = None;
    connection.dump(InterfaceAddress::list(), &mut |payload| {
        let found = InterfaceAddress::parse(payload).filter(|found| found.address == address);
        index = index.or(found.map(|found| found.interface));
    })?;
    let Some(index) = index else { return Ok(None) };
    let mut fixed = [0; LINK_MESSAGE];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut uplink = None;
    connection.query(Request::new(libc::RTM_GETLINK, 0, &fixed), &mut |payload| uplink = parse(payload))?;
    Ok(uplink)
}

fn parse(payload: &[u8]) -> Option<Uplink> {
    let attributes = Attributes::after(LINK_MESSAGE, payload);
    let name =
        String::from_utf8_lossy(attributes.value(libc::IFLA_IFNAME)?).trim_end_matches('\0').to_owned();
    let mtu = u32::from_ne_bytes(attributes.value(libc::IFLA_MTU)?.try_into().ok()?);
    let link = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    Some(Uplink { link, name, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netns::Namespace;

    #[test]
    fn the_interface_of_an_address_is_found_with_its_mtu() {
        let namespace = Namespace::new().unwrap();
        for line in [
            "link add eth0 type veth peer name peer",
            "link set eth0 mtu 1400 up",
            "address add 172.18.0.2/16 dev eth0",
            "address add fd00:18::2/64 dev eth0 nodad",
        ] {
            let status = namespace.command("ip").unwrap().args(line.split_whitespace()).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        let find = |text: &str| {
            let address = text.parse().unwrap();
            namespace.run(|| of(address).unwrap()).unwrap()
        };
        let found = find("172.18.0.2").unwrap();
        assert_eq!((found.name.as_str(), found.mtu), ("eth0", 1400));
        assert_eq!(find("fd00:18::2"), Some(found));
        assert_eq!(find("172.18.0.3"), None);
    }
}
