//! Interfaces: `ip link add`, `ip link set`, `ip link delete`, `ip link show`.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::change::Change;
use super::{
    HardwareAddress, INTERFACE_MESSAGE, Link, Network, NetworkError, VETH_INFO_PEER, interface_message,
};
use crate::kernel::netlink::{Attributes, NetlinkError, Request};

/// `IFLA_INET6_ADDR_GEN_MODE` of `linux/if_link.h` and the mode in which the kernel makes up no address.
const INET6_ADDRESS_GENERATION: u16 = 8;
const GENERATE_NO_ADDRESS: u8 = 1;
/// `IFALIASZ` of `linux/if.h`, with the closing zero.
const ALIAS_LIMIT: usize = 255;

/// One end of a pair of virtual Ethernet devices.
///
/// A hardware address that is given at birth is nobody's to change: systemd-udevd gives another one to devices that have a
/// random one (`MACAddressPolicy=`, systemd 242, flannel#1155).
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub hardware_address: Option<HardwareAddress>,
    pub mtu: Option<u32>,
}

impl<'a> VethEnd<'a> {
    pub fn named(name: &'a str) -> Self {
        VethEnd { name, hardware_address: None, mtu: None }
    }

    fn put(&self, request: &mut Request) {
        request.text(libc::IFLA_IFNAME, self.name);
        if let Some(HardwareAddress(bytes)) = self.hardware_address {
            request.attribute(libc::IFLA_ADDRESS, &bytes);
        }
        if let Some(mtu) = self.mtu {
            request.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
    }
}

/// `ip link add NAME address MAC mtu MTU type veth peer name PEER address MAC mtu MTU netns NAMESPACE`
pub fn add_veth(here: &VethEnd<'_>, there: &VethEnd<'_>, namespace: BorrowedFd<'_>) -> Change {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new(libc::RTM_NEWLINK, flags, &[0; INTERFACE_MESSAGE]);
    here.put(&mut request);
    request.nested(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |attributes| {
                attributes.fixed(&[0; INTERFACE_MESSAGE]);
                there.put(attributes);
                attributes.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    Change::new(request, format!("add veth {} with peer {}", here.name, there.name))
}

/// `ip link set LINK up`
pub fn up(link: Link) -> Change {
    let request = Request::new(libc::RTM_SETLINK, 0, &interface_message(link, libc::IFF_UP as u32));
    Change::new(request, format!("set link {} up", link.0))
}

/// `ip link set LINK addrgenmode none`: a link-local address is given by hand, or there is none.
pub fn without_link_local_address(link: Link) -> Change {
    let mut request = Request::new(libc::RTM_SETLINK, 0, &interface_message(link, 0));
    request.nested(libc::IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET6 as u16, |inet6| {
            inet6.attribute(INET6_ADDRESS_GENERATION, &[GENERATE_NO_ADDRESS]);
        });
    });
    Change::new(request, format!("keep link {} without a link-local address", link.0))
}

/// `ip link set LINK alias ALIAS`
pub fn alias(link: Link, alias: &str) -> Change {
    let end = (0..=alias.len().min(ALIAS_LIMIT)).rev().find(|end| alias.is_char_boundary(*end));
    let alias = &alias[..end.unwrap_or_default()];
    let mut request = Request::new(libc::RTM_SETLINK, 0, &interface_message(link, 0));
    request.attribute(libc::IFLA_IFALIAS, alias.as_bytes());
    Change::new(request, format!("give link {} the alias {alias}", link.0))
}

/// `ip link delete`, by number. One that is not there is deleted. A pair of veth goes together.
///
/// The kernel takes its time: [`Network::delete_link`] does not wait for it.
pub fn delete(link: Link) -> Change {
    let request = Request::new(libc::RTM_DELLINK, 0, &interface_message(link, 0));
    Change::new(request, format!("delete link {}", link.0)).if_there(libc::ENODEV)
}

/// An interface that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledLink {
    pub link: Link,
    pub name: String,
    pub hardware_address: Option<HardwareAddress>,
    pub mtu: u32,
    pub is_up: bool,
    /// What an administrator sees as `ip link` prints it.
    pub alias: Option<String>,
}

impl Network {
    /// `ip link show NAME`, `None` where there is no such interface.
    pub fn find_link(&mut self, name: &str) -> Result<Option<InstalledLink>, NetworkError> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, &[0; INTERFACE_MESSAGE]);
        request.text(libc::IFLA_IFNAME, name);
        let mut found = None;
        match self.connection.query(request, &mut |payload| found = parse(payload)) {
            Ok(()) => Ok(found),
            Err(error) if error.refusal() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(failed(format!("find link {name}"), source)),
        }
    }

    /// `ip link show`
    pub fn links(&mut self) -> Result<Vec<InstalledLink>, NetworkError> {
        let mut found = Vec::new();
        let request = Request::new(libc::RTM_GETLINK, 0, &[0; INTERFACE_MESSAGE]);
        self.connection
            .dump(request, &mut |payload| found.extend(parse(payload)))
            .map_err(|source| failed("list links".into(), source))?;
        Ok(found)
    }
}

fn failed(attempted: String, source: NetlinkError) -> NetworkError {
    NetworkError { attempted, source }
}

fn parse(payload: &[u8]) -> Option<InstalledLink> {
    let number = |at: usize| Some(u32::from_ne_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let mut link = InstalledLink {
        link: Link(number(4)?),
        name: String::new(),
        hardware_address: None,
        mtu: 0,
        is_up: number(8)? & libc::IFF_UP as u32 != 0,
        alias: None,
    };
    for (kind, value) in Attributes::after(INTERFACE_MESSAGE, payload) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.hardware_address = value.try_into().ok().map(HardwareAddress),
            libc::IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
            libc::IFLA_IFALIAS => link.alias = Some(text(value)),
            _ => {}
        }
    }
    Some(link)
}
