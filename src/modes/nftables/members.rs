//! What the fixed sets hold: of each member as little as tells it from another, as there are several for each Service.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use foldhash::fast::FixedState;
use ipnet::{IpNet, Ipv4Net};

use super::member::{Leads, Member};
use super::names::Set;
use super::numbers::Number;
use crate::model::FrontendKey;

/// In order.
const FIRST_NETWORK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

#[derive(Debug, Default)]
pub struct Members {
    places: BTreeMap<(FrontendKey, Set), Option<Led>>,
    addresses: BTreeSet<(IpAddr, Set)>,
    ranges: BTreeSet<(FrontendKey, IpNet)>,
    service_networks: BTreeSet<IpNet>,
}

/// What is kept of [`Leads`]: of the comment a hash, which is enough to see that somebody else wrote another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    pub to: Number,
    comment: u32,
}

impl Led {
    pub fn by(leads: &Leads) -> Self {
        let text = leads.comment.as_ref().map(|comment| comment.as_str());
        Led { to: leads.to, comment: FixedState::default().hash_one(text) as u32 }
    }
}

impl Members {
    pub fn insert(&mut self, member: Member, led: Option<Led>) {
        match member {
            Member::Place(set, place) => drop(self.places.insert((place, set), led)),
            Member::Address(set, address) => drop(self.addresses.insert((address, set))),
            Member::Range(place, network) => drop(self.ranges.insert((place, network))),
            Member::ServiceNetwork(network) => drop(self.service_networks.insert(network)),
        }
    }

    pub fn remove(&mut self, member: &Member) {
        match *member {
            Member::Place(set, place) => drop(self.places.remove(&(place, set))),
            Member::Address(set, address) => drop(self.addresses.remove(&(address, set))),
            Member::Range(place, network) => drop(self.ranges.remove(&(place, network))),
            Member::ServiceNetwork(network) => drop(self.service_networks.remove(&network)),
        }
    }

    /// `Some(None)` for one that leads nowhere.
    pub fn get(&self, member: &Member) -> Option<Option<Led>> {
        match *member {
            Member::Place(set, place) => self.places.get(&(place, set)).copied(),
            Member::Address(set, address) => self.addresses.contains(&(address, set)).then_some(None),
            Member::Range(place, network) => self.ranges.contains(&(place, network)).then_some(None),
            Member::ServiceNetwork(network) => self.service_networks.contains(&network).then_some(None),
        }
    }

    /// All that there are for a frontend.
    pub fn at(&self, place: FrontendKey) -> impl Iterator<Item = Member> {
        let (first, last) = Set::ENDS;
        let fixed = self.places.range((place, first)..=(place, last));
        let ranges = self.ranges.range((place, FIRST_NETWORK)..).take_while(move |(of, _)| *of == place);
        let fixed = fixed.map(|((place, set), _)| Member::Place(*set, *place));
        fixed.chain(ranges.map(|(place, network)| Member::Range(*place, *network)))
    }

    pub fn at_address(&self, address: IpAddr) -> impl Iterator<Item = Member> {
        let (first, last) = Set::ENDS;
        let found = self.addresses.range((address, first)..=(address, last));
        found.map(|(address, set)| Member::Address(*set, *address))
    }

    pub fn service_networks(&self) -> impl Iterator<Item = Member> {
        self.service_networks.iter().copied().map(Member::ServiceNetwork)
    }

    /// The frontends that have any, some of them several times.
    pub fn places(&self) -> impl Iterator<Item = FrontendKey> {
        let fixed = self.places.keys().map(|(place, _)| *place);
        fixed.chain(self.ranges.iter().map(|(place, _)| *place))
    }

    /// The addresses likewise.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|(address, _)| *address)
    }
}
