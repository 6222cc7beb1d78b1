//! Changing many routes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::codec::{self, Existing};
use super::super::{AddressChange, AddressRefusal, Failures, VirtualAddressError};
use super::{LocalRoutes, ROUTE_PROTOCOL, Sources};
use crate::kernel::netlink::{NetlinkError, Request};
use crate::model::Family;

/// Changes in one write. The notifications of so many fit into the receive buffer of the watch.
const MOST_CHANGES: usize = 128;

/// A change and its number among all.
type Numbered = (usize, AddressChange);

/// The changes of one call.
pub struct Work<'a> {
    routes: &'a mut LocalRoutes,
    family: Family,
    /// The routes of ours, once they had to be read.
    ours: Option<Sources>,
    /// IPv6 addresses of the node. An IPv4 route to one of its addresses is refused by the kernel, an IPv6 route is not,
    /// as it has another metric.
    taken: BTreeSet<IpAddr>,
}

impl<'a> Work<'a> {
    pub fn new(
        routes: &'a mut LocalRoutes,
        family: Family,
        changes: &[AddressChange],
    ) -> Result<Self, VirtualAddressError> {
        let mut work = Work { routes, family, ours: None, taken: BTreeSet::new() };
        let adds = changes.iter().any(|change| matches!(change, AddressChange::Add { .. }));
        if adds && family == Family::V6 {
            let taken = work.routes.of_protocol(family, libc::RTPROT_KERNEL);
            let taken = taken.map_err(|source| VirtualAddressError::List { family, source })?;
            work.taken = taken.into_keys().collect();
        }
        Ok(work)
    }

    pub fn change_all(mut self, changes: &[AddressChange]) -> Result<(), VirtualAddressError> {
        let mut failures = Failures::default();
        let mut allowed = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            match self.check(change) {
                Ok(()) => allowed.push((index, *change)),
                Err(reason) => failures.add(index, change.address(), change, reason),
            }
        }
        let family = self.family;
        for part in parts(&allowed) {
            self.change_part(part, &mut failures)
                .map_err(|source| VirtualAddressError::Change { family, source })?;
            self.routes.read_notifications()?;
        }
        failures.into_result()
    }

    fn check(&mut self, change: &AddressChange) -> Result<(), AddressRefusal> {
        let address = change.address();
        if Family::of(address) != self.family {
            return Err(AddressRefusal::OtherFamily(self.family));
        }
        let adds = matches!(change, AddressChange::Add { .. });
        if adds && self.taken.contains(&address) && self.source_of_ours(address)?.is_none() {
            return Err(AddressRefusal::Occupied);
        }
        Ok(())
    }

    fn change_part(&mut self, part: &[Numbered], failures: &mut Failures) -> Result<(), NetlinkError> {
        let requests: Vec<Request> = part.iter().map(|(_, change)| request(change)).collect();
        let mut refused: BTreeMap<usize, NetlinkError> =
            self.routes.connection.execute_all(&requests)?.into_iter().collect();
        for (place, (index, change)) in part.iter().enumerate() {
            let done = match refused.remove(&place) {
                None => Ok(*change),
                Some(error) => self.try_again(*change, error),
            };
            match done {
                Ok(done) => self.remember(&done),
                Err(reason) => failures.add(*index, change.address(), change, reason),
            }
        }
        Ok(())
    }

    /// What to do about a refused change. Returns the change that was made in its place.
    fn try_again(
        &mut self,
        change: AddressChange,
        error: NetlinkError,
    ) -> Result<AddressChange, AddressRefusal> {
        match (change, error.refusal()) {
            (AddressChange::Remove(_), Some(libc::ESRCH | libc::ENOENT)) => Ok(change),
            (AddressChange::Add { address, source }, Some(libc::EEXIST)) => self.give_source(address, source),
            // The source is not an address of this node, or not yet.
            (AddressChange::Add { address, source: Some(_) }, Some(libc::EINVAL)) => {
                let plain = AddressChange::Add { address, source: None };
                match self.routes.connection.execute(request(&plain)) {
                    Ok(()) => Ok(plain),
                    Err(error) => self.try_again(plain, error),
                }
            }
            _ => Err(AddressRefusal::Netlink(error)),
        }
    }

    /// Gives a route that is there another source, if it is ours.
    fn give_source(
        &mut self,
        address: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<AddressChange, AddressRefusal> {
        let Some(before) = self.source_of_ours(address)? else { return Err(AddressRefusal::Occupied) };
        let done = AddressChange::Add { address, source };
        if before == source {
            return Ok(done);
        }
        match self.replace(address, before, source) {
            Err(error) if error.refusal() == Some(libc::EINVAL) && source.is_some() => {
                self.give_source(address, None)
            }
            result => result.map(|()| done).map_err(AddressRefusal::Netlink),
        }
    }

    /// Without a moment in which there is no route.
    fn replace(
        &mut self,
        address: IpAddr,
        before: Option<IpAddr>,
        source: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let connection = &mut self.routes.connection;
        match self.family {
            Family::V4 => {
                connection.execute(codec::add_route(address, source, Existing::Keep))?;
                connection.execute(codec::delete_route(address, before))
            }
            Family::V6 => connection.execute(codec::add_route(address, source, Existing::Replace)),
        }
    }

    /// `None` if there is no route of ours, and the route's source if there is.
    fn source_of_ours(&mut self, address: IpAddr) -> Result<Option<Option<IpAddr>>, AddressRefusal> {
        if self.ours.is_none() {
            let ours = self.routes.of_protocol(self.family, ROUTE_PROTOCOL);
            self.ours = Some(ours.map_err(AddressRefusal::Netlink)?);
        }
        Ok(self.ours.as_ref().and_then(|ours| ours.get(&address)).copied())
    }

    fn remember(&mut self, done: &AddressChange) {
        let Some(ours) = &mut self.ours else { return };
        match done {
            AddressChange::Add { address, source } => ours.insert(*address, *source),
            AddressChange::Remove(address) => ours.remove(address),
        };
    }
}

/// Cuts changes into parts in which no address occurs twice, so that those of a part may be made in any order.
fn parts(changes: &[Numbered]) -> Vec<&[Numbered]> {
    let (mut parts, mut start, mut seen) = (Vec::new(), 0, BTreeSet::new());
    for (place, (_, change)) in changes.iter().enumerate() {
        if seen.len() == MOST_CHANGES || seen.contains(&change.address()) {
            parts.push(&changes[start..place]);
            start = place;
            seen.clear();
        }
        seen.insert(change.address());
    }
    parts.push(&changes[start..]);
    parts
}

fn request(change: &AddressChange) -> Request {
    match change {
        AddressChange::Add { address, source } => codec::add_route(*address, *source, Existing::Refuse),
        AddressChange::Remove(address) => codec::delete_route(*address, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_has_an_address_twice() {
        let remove = |last: u16| AddressChange::Remove([10, 96, (last >> 8) as u8, last as u8].into());
        let changes: Vec<Numbered> = (0..300).chain([299, 7]).map(remove).enumerate().collect();
        let lengths: Vec<usize> = parts(&changes).into_iter().map(<[_]>::len).collect();
        assert_eq!(lengths, [128, 128, 44, 2]);
        assert_eq!(parts(&[]).concat(), []);
    }
}
