//! Members of sets as elements of nf_tables, and back.

use std::net::IpAddr;

use ipnet::IpNet;

use super::names::SetId;
use crate::kernel::nftables::{Element, Value};
use crate::model::Family;
use crate::modes::nftables::key::{self, Key};
use crate::modes::nftables::names::Keying;
use crate::modes::userspace::capture::{Member, Set};

pub fn set(member: &Member) -> SetId {
    match member {
        Member::Place(set, place) => SetId(*set, Keying::of(place)),
        Member::Range(..) => SetId(Set::SourceRanges, Keying::Address),
        Member::VirtualIp(_) => SetId(Set::VirtualIps, Keying::Address),
    }
}

pub fn element(member: &Member) -> Element {
    match member {
        Member::Place(_, place) => Element::of_set(key::value(place)),
        Member::Range(place, network) => Element::interval(
            key::value(place).and(Value::address(network.network())),
            key::value(place).and(Value::address(network.broadcast())),
        ),
        Member::VirtualIp(address) => Element::of_set(Value::address(*address)),
    }
}

/// `None` for what is never written here.
pub fn parse(SetId(set, keying): SetId, family: Family, found: &Element) -> Option<Member> {
    let mut key = Key::new(family, found.key.as_bytes());
    let member = match set {
        Set::VirtualIps => Member::VirtualIp(key.address()?),
        Set::SourceRanges => {
            let place = key.place(keying)?;
            let mut last = Key::new(family, found.last.as_ref().unwrap_or(&found.key).as_bytes());
            last.place(keying)?;
            Member::Range(place, network(key.address()?, last.address()?)?)
        }
        _ => Member::Place(set, key.place(keying)?),
    };
    let written = element(&member);
    ((written.key, written.last) == (found.key, found.last)).then_some(member)
}

fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let networks = (0..=Family::of(first).bits()).filter_map(|prefix| IpNet::new(first, prefix).ok());
    let mut networks = networks.filter(|network| network.network() == first);
    networks.find(|network| network.broadcast() == last)
}
