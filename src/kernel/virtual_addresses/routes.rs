//! Virtual addresses as routes of type `local`.

mod work;

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_sys::constants::NETLINK_ROUTE;

use self::work::Work;
use super::codec::{self, LocalRoute};
use super::watch::{Topic, Watch};
use super::{AddressChange, VirtualAddressError, VirtualAddresses};
use crate::kernel::netlink::{Connection, NetlinkError, Reply};
use crate::kernel::rtnetlink::address::InterfaceAddress;
use crate::model::Family;

/// Our number in `ip route show proto N`.
pub const ROUTE_PROTOCOL: u8 = 102;

type Sources = BTreeMap<IpAddr, Option<IpAddr>>;

/// `ip route show table local proto 102`
pub struct LocalRoutes {
    connection: Connection,
    watch: Watch,
}

impl LocalRoutes {
    /// The routes of the network namespace of the calling thread, watching those of one family.
    pub fn open(family: Family) -> Result<Self, VirtualAddressError> {
        let mut connection = Connection::open(NETLINK_ROUTE).map_err(VirtualAddressError::Open)?;
        connection.filter_dumps();
        let watch = Watch::open(&connection, Topic::Routes, family)?;
        Ok(LocalRoutes { connection, watch })
    }

    /// Where two routes of the protocol lead to an address, the first counts.
    fn of_protocol(&mut self, family: Family, protocol: u8) -> Result<Sources, NetlinkError> {
        let mut sources = Sources::new();
        let result = self.connection.dump(codec::list_routes(family, protocol), &mut |payload| {
            let route = codec::parse_route(payload).filter(|route| route.protocol == protocol);
            if let Some(LocalRoute { address, source, .. }) = route {
                sources.entry(address).or_insert(source);
            }
        });
        match result {
            // There is no table `local` before there is a route in it.
            Err(error) if error.is_not_found() => Ok(sources),
            result => result.map(|()| sources),
        }
    }

    fn read_notifications(&mut self) -> Result<(), VirtualAddressError> {
        self.watch.read(matters)
    }
}

/// Whether a notification may be of a route of ours that somebody else added, removed or replaced, or of the source of one.
/// Link-local addresses, which come and go with Pods, are no sources.
fn matters(notification: &Reply<'_>) -> bool {
    match notification.kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let replaces = notification.flags & libc::NLM_F_REPLACE as u16 != 0;
            codec::parse_route(notification.payload)
                .is_some_and(|route| route.protocol == ROUTE_PROTOCOL || replaces)
        }
        libc::RTM_DELADDR => InterfaceAddress::parse(notification.payload)
            .is_some_and(|address| address.scope != libc::RT_SCOPE_LINK),
        _ => false,
    }
}

impl VirtualAddresses for LocalRoutes {
    fn list(&mut self, family: Family) -> Result<Sources, VirtualAddressError> {
        self.of_protocol(family, ROUTE_PROTOCOL)
            .map_err(|source| VirtualAddressError::List { family, source })
    }

    fn change(&mut self, family: Family, changes: &[AddressChange]) -> Result<(), VirtualAddressError> {
        Work::new(self, family, changes)?.change_all(changes)
    }

    fn disturbed(&mut self) -> Result<bool, VirtualAddressError> {
        self.read_notifications()?;
        Ok(self.watch.take())
    }
}
