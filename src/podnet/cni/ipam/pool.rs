//! Which addresses there are, and which is next.

use std::iter;
use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::journal::{Journal, LastReleases};
use crate::model::Family;

/// So many seconds an address rests after its release: others may still have it in their tables.
const GRACE: u64 = 60;
/// So many addresses of a family are used at most. No node has more pods, and an IPv6 network is not to be walked through.
const MOST_ADDRESSES: usize = 4096;
/// From this length on, a network has no address that stands for itself (RFC 3021, RFC 6164).
const POINT_TO_POINT: [(Family, u8); 2] = [(Family::V4, 31), (Family::V6, 127)];

/// The networks from which one attachment gets one address of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    ranges: Vec<IpNet>,
}

impl Pool {
    pub fn new(ranges: &[IpNet]) -> Self {
        Pool { ranges: ranges.to_vec() }
    }

    pub fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.ranges.iter().any(|range| family.contains(range)))
    }

    /// In order. Of overlapping ranges, the same address may come twice.
    pub fn addresses(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let ranges = self.ranges.iter().filter(move |range| family.contains(range));
        ranges.flat_map(|range| usable(*range)).take(MOST_ADDRESSES)
    }

    /// Whether these are what an attachment would get now.
    pub fn suits(&self, addresses: &[IpAddr]) -> bool {
        let families: Vec<Family> = addresses.iter().map(|address| Family::of(*address)).collect();
        families == self.families().collect::<Vec<_>>()
            && addresses.iter().all(|address| super::is_within(&self.ranges, *address))
    }

    /// The addresses that nobody holds, best first: those that were never used, then those released longest ago. Those
    /// that still rest come last, so that they are taken only when there is no other.
    pub(super) fn candidates(
        &self,
        family: Family,
        journal: &Journal,
        now: u64,
    ) -> impl Iterator<Item = IpAddr> {
        let last = Rc::new(journal.last_releases());
        let known = Rc::clone(&last);
        let unused = self.addresses(family).filter(move |address| !known.contains_key(address));
        let released = iter::once_with(move || self.released(family, &last, now));
        unused.chain(released.flatten())
    }

    fn released(&self, family: Family, last: &LastReleases, now: u64) -> Vec<IpAddr> {
        let when = |address| last.get(&address).copied().flatten();
        let mut free: Vec<_> = self
            .addresses(family)
            .filter_map(|address| Some((when(address)?, address)))
            .map(|((released, place), address)| (released.is_within(GRACE, now), released, place, address))
            .collect();
        free.sort_unstable();
        free.into_iter().map(|(.., address)| address).collect()
    }
}

/// Without the address of the network, and the broadcast address.
fn usable(range: IpNet) -> impl Iterator<Item = IpAddr> {
    let is_link = POINT_TO_POINT
        .into_iter()
        .any(|(family, length)| family.contains(&range) && range.prefix_len() >= length);
    let own = (!is_link).then(|| range.network());
    range.trunc().hosts().filter(move |address| Some(*address) != own)
}
