//! What the sets hold: of each member as little as tells it from another, as there are several for each Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Member, OF_PLACES, Set};
use crate::model::FrontendKey;

/// In order.
const FIRST_NETWORK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    places: BTreeMap<FrontendKey, Sets>,
    ranges: BTreeSet<(FrontendKey, IpNet)>,
    addresses: BTreeSet<IpAddr>,
}

/// The sets that a frontend is in, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets(u8);

impl Sets {
    fn contains(self, set: Set) -> bool {
        self.0 & bit(set) != 0
    }
}

fn bit(set: Set) -> u8 {
    1 << set as u8
}

impl Members {
    /// Whether it is new.
    pub fn insert(&mut self, member: Member) -> bool {
        match member {
            Member::Place(set, place) => {
                let sets = self.places.entry(place).or_default();
                let before = std::mem::replace(sets, Sets(sets.0 | bit(set)));
                !before.contains(set)
            }
            Member::Range(place, network) => self.ranges.insert((place, network)),
            Member::VirtualIp(address) => self.addresses.insert(address),
        }
    }

    /// Whether it was there.
    pub fn remove(&mut self, member: &Member) -> bool {
        match *member {
            Member::Place(set, place) => {
                let Some(sets) = self.places.get_mut(&place) else { return false };
                let before = std::mem::replace(sets, Sets(sets.0 & !bit(set)));
                if sets.0 == 0 {
                    self.places.remove(&place);
                }
                before.contains(set)
            }
            Member::Range(place, network) => self.ranges.remove(&(place, network)),
            Member::VirtualIp(address) => self.addresses.remove(&address),
        }
    }

    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// All that there are for a frontend.
    pub fn at(&self, place: FrontendKey) -> impl Iterator<Item = Member> {
        let sets = self.places.get(&place).copied().unwrap_or_default();
        let fixed = OF_PLACES.into_iter().filter(move |set| sets.contains(*set));
        let ranges = self.ranges.range((place, FIRST_NETWORK)..).take_while(move |(of, _)| *of == place);
        let fixed = fixed.map(move |set| Member::Place(set, place));
        fixed.chain(ranges.map(|(place, network)| Member::Range(*place, *network)))
    }

    /// The frontends that have any, some of them several times.
    pub fn places(&self) -> impl Iterator<Item = FrontendKey> {
        self.places.keys().copied().chain(self.ranges.iter().map(|(place, _)| *place))
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = Member> {
        let fixed = self.places.iter().flat_map(|(place, sets)| {
            let sets = OF_PLACES.into_iter().filter(|set| sets.contains(*set));
            sets.map(|set| Member::Place(set, *place))
        });
        let ranges = self.ranges.iter().map(|(place, network)| Member::Range(*place, *network));
        fixed.chain(ranges).chain(self.addresses().map(Member::VirtualIp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held_memory::held;
    use crate::model::{Destination, Protocol};

    fn place(number: u32) -> FrontendKey {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number));
        FrontendKey { destination: Destination::Address(address), protocol: Protocol::Tcp, port: 80 }
    }

    #[test]
    fn they_are_a_set_of_members() {
        let network = "192.0.2.0/24".parse().unwrap();
        let all: Vec<Member> = [1, 2]
            .into_iter()
            .flat_map(|number| {
                let fixed = OF_PLACES.map(|set| Member::Place(set, place(number)));
                fixed.into_iter().chain([Member::Range(place(number), network)])
            })
            .chain([Member::VirtualIp([10, 96, 0, 1].into())])
            .collect();
        let mut members = Members::default();
        assert!(all.iter().all(|member| members.insert(*member)));
        assert!(!all.iter().any(|member| members.insert(*member)));
        let found: Vec<Member> = members.iter().collect();
        assert!(found.len() == all.len() && all.iter().all(|member| found.contains(member)), "{found:?}");
        let first: Vec<Member> = members.at(place(1)).collect();
        assert!(first.len() == 6 && all[..6].iter().all(|member| first.contains(member)), "{first:?}");
        assert!(all.iter().all(|member| members.remove(member)));
        assert!(!all.iter().any(|member| members.remove(member)));
        assert_eq!(members, Members::default());
    }

    #[test]
    fn a_service_with_one_frontend_takes_less_than_100_bytes() {
        const SERVICES: u32 = 10_000;
        let (mut members, before) = (Members::default(), held());
        for number in 0..SERVICES {
            let place = place(number);
            let Destination::Address(address) = place.destination else { unreachable!() };
            members.insert(Member::Place(Set::Captured, place));
            members.insert(Member::VirtualIp(address));
        }
        let each = (held() - before) as f64 / f64::from(SERVICES);
        assert!((38.0..100.0).contains(&each), "{each} bytes");
    }
}
