//! Members of the fixed sets, as what they mean and as the kernel has them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::key::{self, Key};
use super::names::{Keying, Set, SetId};
use super::numbers::{ClassId, Number};
use crate::kernel::nftables::element::ElementValue;
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{Element, Value};
use crate::model::{Family, FrontendKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    Place(Set, FrontendKey),
    /// Clients that may use a guarded frontend.
    Range(FrontendKey, IpNet),
    Address(Set, IpAddr),
    /// That ClusterIPs are taken from.
    ServiceNetwork(IpNet),
}

/// Where a member of a map to classes leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leads {
    pub to: Number,
    pub comment: Option<Comment>,
}

impl Leads {
    fn parse(element: &Element) -> Option<Self> {
        let ElementValue::Value(value) = &element.data else { return None };
        Some(Leads { to: Number::parse(value)?, comment: element.comment.clone() })
    }
}

impl Member {
    /// What it leads to.
    pub fn class(&self, to: Number) -> Option<ClassId> {
        let map = match self {
            Member::Place(Set::Sticky, _) => Set::Timeouts,
            _ => Set::Classes,
        };
        (to != Number::ACCEPT).then_some(ClassId { map, number: to })
    }

    pub fn set(&self) -> SetId {
        match self {
            Member::Place(set, place) => SetId::Fixed(*set, Keying::of(place)),
            Member::Range(..) => SetId::Fixed(Set::SourceRanges, Keying::Address),
            Member::Address(set, _) => SetId::Fixed(*set, Keying::Address),
            Member::ServiceNetwork(_) => SetId::Fixed(Set::ServiceNetworks, Keying::Address),
        }
    }

    pub fn element(&self, leads: Option<&Leads>) -> Element {
        let element = match self {
            Member::Place(_, place) => Element::of_set(key::value(place)),
            Member::Range(place, network) => Element::interval(
                key::value(place).and(Value::address(network.network())),
                key::value(place).and(Value::address(network.broadcast())),
            ),
            Member::Address(Set::Hairpin, address) => {
                Element::of_set(Value::address(*address).and(Value::address(*address)))
            }
            Member::Address(_, address) => Element::of_set(Value::address(*address)),
            Member::ServiceNetwork(network) => {
                Element::interval(Value::address(network.network()), Value::address(network.broadcast()))
            }
        };
        let Some(Leads { to, comment }) = leads else { return element };
        Element { data: ElementValue::Value(to.value()), comment: comment.clone(), ..element }
    }

    /// `None` for what is never written here.
    pub fn parse(
        set: Set,
        keying: Keying,
        family: Family,
        element: &Element,
    ) -> Option<(Self, Option<Leads>)> {
        let mut key = Key::new(family, element.key.as_bytes());
        let member = match set {
            Set::ClusterIps | Set::VirtualIps => Member::Address(set, key.address()?),
            Set::Hairpin => Member::Address(set, key.address()?),
            Set::SourceRanges => {
                let place = key.place(keying)?;
                let last = element.last.as_ref().unwrap_or(&element.key);
                let mut last = Key::new(family, last.as_bytes());
                last.place(keying)?;
                Member::Range(place, network(key.address()?, last.address()?)?)
            }
            Set::ServiceNetworks => {
                let last = element.last.as_ref().unwrap_or(&element.key);
                let last = Key::new(family, last.as_bytes()).address()?;
                Member::ServiceNetwork(network(key.address()?, last)?)
            }
            _ => Member::Place(set, key.place(keying)?),
        };
        let leads = Leads::parse(element);
        // What would not be written back like this is a stranger that only looks like a member.
        let written = member.element(leads.as_ref());
        ((written.key, written.last) == (element.key, element.last)).then_some((member, leads))
    }
}

fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let networks = (0..=Family::of(first).bits()).filter_map(|prefix| IpNet::new(first, prefix).ok());
    let mut networks = networks.filter(|network| network.network() == first);
    networks.find(|network| network.broadcast() == last)
}
