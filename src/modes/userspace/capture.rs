//! Which packets the kernel gives to this process, which it refuses and which it drops: what has to be in the sets for one
//! frontend or one address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::names::{Set, SetId};
use crate::kernel::nftables::{Element, Value};
use crate::model::{
    Destination, Family, Frontend, FrontendKey, Protocol, ServicePort, ServiceTable, Verdict,
};
use crate::modes::nftables::key::{self, Key};
use crate::modes::nftables::names::Keying;

/// What is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    Place(Set, FrontendKey),
    /// Clients that may use a guarded frontend.
    Range(FrontendKey, IpNet),
    VirtualIp(IpAddr),
}

/// The sets that have one element for a frontend.
pub const OF_PLACES: [Set; 5] = [Set::Captured, Set::Guarded, Set::Drop, Set::DropOutside, Set::Reject];

impl Member {
    /// The first in order of the clients that may use a frontend.
    pub fn first_range(place: FrontendKey) -> Self {
        Member::Range(place, Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into())
    }

    pub fn set(&self) -> SetId {
        match self {
            Member::Place(set, place) => SetId(*set, Keying::of(place)),
            Member::Range(..) => SetId(Set::SourceRanges, Keying::Address),
            Member::VirtualIp(_) => SetId(Set::VirtualIps, Keying::Address),
        }
    }

    pub fn element(&self) -> Element {
        match self {
            Member::Place(_, place) => Element::of_set(key::value(place)),
            Member::Range(place, network) => Element::interval(
                key::value(place).and(Value::address(network.network())),
                key::value(place).and(Value::address(network.broadcast())),
            ),
            Member::VirtualIp(address) => Element::of_set(Value::address(*address)),
        }
    }

    /// `None` for what is never written here.
    pub fn parse(SetId(set, keying): SetId, family: Family, element: &Element) -> Option<Self> {
        let mut key = Key::new(family, element.key.as_bytes());
        let member = match set {
            Set::VirtualIps => Member::VirtualIp(key.address()?),
            Set::SourceRanges => {
                let place = key.place(keying)?;
                let mut last = Key::new(family, element.last.as_ref().unwrap_or(&element.key).as_bytes());
                last.place(keying)?;
                Member::Range(place, network(key.address()?, last.address()?)?)
            }
            _ => Member::Place(set, key.place(keying)?),
        };
        let written = member.element();
        ((written.key, written.last) == (element.key, element.last)).then_some(member)
    }
}

fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let networks = (0..=Family::of(first).bits()).filter_map(|prefix| IpNet::new(first, prefix).ok());
    let mut networks = networks.filter(|network| network.network() == first);
    networks.find(|network| network.broadcast() == last)
}

/// What a frontend has in the sets. Nothing, if it is nobody's or of a protocol that this mode does not speak.
pub fn of_place(table: &ServiceTable, place: FrontendKey) -> Vec<Member> {
    let owner = table.frontends().get(&place).filter(|port| port.name.protocol != Protocol::Sctp);
    let found = owner.and_then(|port| port.frontend(&place).map(|frontend| (port, frontend)));
    let Some((port, frontend)) = found else { return Vec::new() };
    let mut members: Vec<Member> =
        sets(table, port, frontend, place).map(|set| Member::Place(set, place)).collect();
    // A Service without endpoints has nothing to guard: everybody is told so.
    if let Some(sources) = port.admits(frontend).filter(|_| port.external != Verdict::Reject) {
        guard(&mut members, place, sources, table.family());
    }
    members
}

fn sets(
    table: &ServiceTable,
    port: &ServicePort,
    frontend: &Frontend,
    place: FrontendKey,
) -> impl Iterator<Item = Set> {
    let short_circuit = !matches!(frontend, Frontend::ClusterIp(_)) && port.short_circuit();
    let is_virtual = match place.destination {
        Destination::Address(address) => table.is_virtual(address),
        Destination::Node => false,
    };
    let (captured, other) = match port.verdict(frontend) {
        Verdict::Forward(_) => (true, None),
        Verdict::Drop if short_circuit => (true, Some(Set::DropOutside)),
        Verdict::Drop => (false, Some(Set::Drop)),
        // At a virtual address, what is not served is refused anyway.
        Verdict::Reject => (false, (!is_virtual).then_some(Set::Reject)),
    };
    captured.then_some(Set::Captured).into_iter().chain(other)
}

fn guard(members: &mut Vec<Member>, place: FrontendKey, sources: &[IpNet], family: Family) {
    let own: Vec<IpNet> = sources.iter().copied().filter(|network| family.contains(network)).collect();
    // The kernel refuses intervals that overlap.
    let ranges = IpNet::aggregate(&own);
    if ranges.iter().any(|network| network.prefix_len() == 0) {
        return;
    }
    members.push(Member::Place(Set::Guarded, place));
    members.extend(ranges.into_iter().map(|network| Member::Range(place, network)));
}

/// Whether an address is among the virtual ones.
pub fn of_address(table: &ServiceTable, address: IpAddr) -> Option<Member> {
    table.is_virtual(address).then_some(Member::VirtualIp(address))
}
