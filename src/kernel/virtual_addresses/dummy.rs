//! Virtual addresses as addresses of a device that nothing is behind, as kube-proxy has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_sys::constants::NETLINK_ROUTE;

use super::codec;
use super::watch::{Topic, Watch};
use super::{AddressChange, AddressRefusal, Failures, VirtualAddressError, VirtualAddresses};
use crate::kernel::netlink::{Connection, NetlinkError, Reply, Request};
use crate::kernel::rtnetlink::address::InterfaceAddress;
use crate::model::Family;

/// kube-proxy's name for it, which network plugins and tools know.
pub const DEVICE: &str = "kube-ipvs0";

/// Changes in one write. The notifications of so many fit into the receive buffer of the watch.
const MOST_CHANGES: usize = 128;
const INTERFACE_MESSAGE: usize = 16;

/// `ip address show dev kube-ipvs0`. The device stays down: addresses are the node's in either state, and a device that is
/// up would get a link-local address.
pub struct DummyDevice {
    connection: Connection,
    watch: Watch,
    /// What should be there, as far as it was listed or changed here: the kernel does not say who changed an IPv6 address.
    /// One that is added and removed in quick succession may therefore be told as a disturbance.
    expected: BTreeSet<IpAddr>,
    index: u32,
}

impl DummyDevice {
    /// Creates the device if it is missing in the network namespace of the calling thread, and watches its addresses of
    /// one family.
    pub fn open(family: Family) -> Result<Self, VirtualAddressError> {
        let mut connection = Connection::open(NETLINK_ROUTE).map_err(VirtualAddressError::Open)?;
        connection.filter_dumps();
        let watch = Watch::open(&connection, Topic::Addresses, family)?;
        let index = ensure(&mut connection)?;
        Ok(DummyDevice { connection, watch, expected: BTreeSet::new(), index })
    }

    fn read_notifications(&mut self) -> Result<(), VirtualAddressError> {
        let (index, expected) = (self.index, &self.expected);
        self.watch.read(|notification| matters(notification, index, expected))
    }

    fn of_interface(
        &mut self,
        family: Family,
        interface: u32,
    ) -> Result<Vec<InterfaceAddress>, VirtualAddressError> {
        let mut addresses = Vec::new();
        self.connection
            .dump(codec::list_addresses(family, interface), &mut |payload| {
                addresses.extend(InterfaceAddress::parse(payload));
            })
            .map_err(|source| VirtualAddressError::List { family, source })?;
        Ok(addresses)
    }

    /// The addresses that other interfaces have and the device has not.
    fn taken(
        &mut self,
        family: Family,
        changes: &[AddressChange],
    ) -> Result<BTreeSet<IpAddr>, VirtualAddressError> {
        if !changes.iter().any(|change| matches!(change, AddressChange::Add { .. })) {
            return Ok(BTreeSet::new());
        }
        let all = self.of_interface(family, 0)?;
        let (ours, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|found| found.interface == self.index && found.is_host());
        let ours: BTreeSet<IpAddr> = ours.into_iter().map(|found| found.address).collect();
        Ok(others.into_iter().map(|found| found.address).filter(|address| !ours.contains(address)).collect())
    }

    fn change_part(
        &mut self,
        part: &[(usize, AddressChange)],
        failures: &mut Failures,
    ) -> Result<(), NetlinkError> {
        let requests: Vec<Request> =
            part.iter().map(|(_, change)| codec::change_address(change, self.index)).collect();
        for (_, change) in part {
            match change {
                AddressChange::Add { address, .. } => self.expected.insert(*address),
                AddressChange::Remove(address) => self.expected.remove(address),
            };
        }
        for (place, error) in self.connection.execute_all(&requests)? {
            let (index, change) = &part[place];
            match (change, error.refusal()) {
                (AddressChange::Add { .. }, Some(libc::EEXIST))
                | (AddressChange::Remove(_), Some(libc::EADDRNOTAVAIL)) => {}
                _ => {
                    failures.add(*index, change.address(), change.on_device(), AddressRefusal::Netlink(error))
                }
            }
        }
        Ok(())
    }
}

/// Whether a notification says that the device has an address that it should not have, or lacks one.
fn matters(notification: &Reply<'_>, index: u32, expected: &BTreeSet<IpAddr>) -> bool {
    let Some(found) = InterfaceAddress::parse(notification.payload) else { return false };
    let is_expected = expected.contains(&found.address);
    let agrees = match notification.kind {
        libc::RTM_NEWADDR => is_expected,
        libc::RTM_DELADDR => !is_expected,
        _ => true,
    };
    found.interface == index && found.is_host() && !agrees
}

impl VirtualAddresses for DummyDevice {
    /// The sources are always `None`.
    fn list(&mut self, family: Family) -> Result<BTreeMap<IpAddr, Option<IpAddr>>, VirtualAddressError> {
        self.index = ensure(&mut self.connection)?;
        let ours = self.of_interface(family, self.index)?.into_iter();
        let ours = ours.filter(|found| found.interface == self.index && found.is_host());
        self.expected = ours.map(|found| found.address).collect();
        Ok(self.expected.iter().map(|address| (*address, None)).collect())
    }

    fn change(&mut self, family: Family, changes: &[AddressChange]) -> Result<(), VirtualAddressError> {
        self.index = ensure(&mut self.connection)?;
        let taken = self.taken(family, changes)?;
        let (mut failures, mut allowed) = (Failures::default(), Vec::with_capacity(changes.len()));
        for (index, change) in changes.iter().enumerate() {
            let address = change.address();
            let adds = matches!(change, AddressChange::Add { .. });
            if Family::of(address) != family {
                failures.add(index, address, change.on_device(), AddressRefusal::OtherFamily(family));
            } else if adds && taken.contains(&address) {
                failures.add(index, address, change.on_device(), AddressRefusal::Occupied);
            } else {
                allowed.push((index, *change));
            }
        }
        for part in allowed.chunks(MOST_CHANGES) {
            self.change_part(part, &mut failures)
                .map_err(|source| VirtualAddressError::Change { family, source })?;
            self.read_notifications()?;
        }
        failures.into_result()
    }

    fn disturbed(&mut self) -> Result<bool, VirtualAddressError> {
        self.read_notifications()?;
        Ok(self.watch.take())
    }
}

/// `ip link add kube-ipvs0 type dummy`, if it is missing. Returns its number.
fn ensure(connection: &mut Connection) -> Result<u32, VirtualAddressError> {
    if let Some(index) = find(connection)? {
        return Ok(index);
    }
    let mut request =
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &[0; INTERFACE_MESSAGE]);
    request.text(libc::IFLA_IFNAME, DEVICE).nested(libc::IFLA_LINKINFO, |link| {
        link.text(libc::IFLA_INFO_KIND, "dummy");
    });
    match connection.execute(request) {
        Err(error) if error.refusal() == Some(libc::EOPNOTSUPP) => {
            return Err(VirtualAddressError::NoDummyDevice(error));
        }
        // The plane of the other family was quicker.
        Err(error) if error.refusal() == Some(libc::EEXIST) => {}
        result => result.map_err(device("ip link add type dummy name"))?,
    }
    find(connection)?.ok_or_else(|| {
        let errno = std::io::Error::from_raw_os_error(libc::ENODEV);
        device("ip link show")(NetlinkError::Refused { errno, explanation: None })
    })
}

fn find(connection: &mut Connection) -> Result<Option<u32>, VirtualAddressError> {
    let mut request = Request::new(libc::RTM_GETLINK, 0, &[0; INTERFACE_MESSAGE]);
    request.text(libc::IFLA_IFNAME, DEVICE);
    let mut index = None;
    let result = connection.query(request, &mut |payload| {
        index = payload.get(4..8).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
    });
    match result {
        Err(error) if error.refusal() == Some(libc::ENODEV) => Ok(None),
        result => result.map(|()| index).map_err(device("ip link show")),
    }
}

fn device(command: &'static str) -> impl Fn(NetlinkError) -> VirtualAddressError {
    move |source| VirtualAddressError::Device { command: format!("{command} {DEVICE}").into(), source }
}

/// `ip link del kube-ipvs0`, if it is there: its addresses go with it.
pub fn remove_device() -> Result<(), VirtualAddressError> {
    let mut connection = Connection::open(NETLINK_ROUTE).map_err(VirtualAddressError::Open)?;
    let mut request = Request::new(libc::RTM_DELLINK, 0, &[0; INTERFACE_MESSAGE]);
    request.text(libc::IFLA_IFNAME, DEVICE);
    match connection.execute(request) {
        Err(error) if error.refusal() == Some(libc::ENODEV) => Ok(()),
        result => result.map_err(device("ip link del")),
    }
}
