//! What this mode knows to be in the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::Set;
use super::render::Shape;
use crate::kernel::ipset::{Element, Member};
use crate::kernel::ipvs::VirtualServer;
use crate::model::{Endpoint, ServicePort, ServicePortName, TrafficPolicy};

/// As read, and as written since.
#[derive(Debug, Default)]
pub struct Held {
    pub servers: BTreeMap<VirtualServer, HeldServer>,
    /// The sets that there are.
    pub sets: BTreeMap<Set, HeldSet>,
    /// Virtual addresses, each with the source that the node's own packets to it have.
    pub addresses: BTreeMap<IpAddr, Option<IpAddr>>,
    pub marks: HeldMarks,
}

/// The packet marks of ServicePorts that short-circuit, both ways.
#[derive(Debug, Default)]
pub struct HeldMarks {
    by_name: BTreeMap<ServicePortName, u32>,
    by_mark: BTreeMap<u32, ServicePortName>,
}

impl HeldMarks {
    pub fn of(&self, name: &ServicePortName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn owner(&self, mark: u32) -> Option<&ServicePortName> {
        self.by_mark.get(&mark)
    }

    pub fn names(&self) -> impl Iterator<Item = &ServicePortName> {
        self.by_name.keys()
    }

    /// `None` takes it away.
    pub fn set(&mut self, name: ServicePortName, mark: Option<u32>) {
        let before = self.by_name.remove(&name);
        if let Some(before) = before.filter(|before| self.owner(*before) == Some(&name)) {
            self.by_mark.remove(&before);
        }
        if let Some(mark) = mark {
            self.by_mark.insert(mark, name.clone());
            self.by_name.insert(name, mark);
        }
    }
}

#[derive(Debug, Default)]
pub struct HeldSet {
    pub members: BTreeMap<Element, Option<u32>>,
    /// It was created in another way than it would be now.
    pub is_of_another_shape: bool,
}

/// A virtual server in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldServer {
    pub shape: Shape,
    pub destinations: Destinations,
    pub owner: Owner,
}

/// The destinations of a virtual server, sorted by address and port.
#[derive(Clone, Debug)]
pub enum Destinations {
    /// The endpoints of a ServicePort that a policy chooses from, which the table holds anyway.
    Endpoints(Arc<ServicePort>, TrafficPolicy),
    Listed(Box<[HeldDestination]>),
}

impl Destinations {
    pub fn len(&self) -> usize {
        self.parts().0.len() + self.parts().1.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = HeldDestination> + '_ {
        let (endpoints, listed) = self.parts();
        endpoints.iter().map(HeldDestination::from).chain(listed.iter().copied())
    }

    /// Whether they do not only say the same but keep the same ServicePort alive.
    pub fn are_one_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Destinations::Endpoints(one, _), Destinations::Endpoints(other, _)) => Arc::ptr_eq(one, other),
            (Destinations::Listed(_), Destinations::Listed(_)) => true,
            _ => false,
        }
    }

    fn get(&self, at: SocketAddr) -> Option<HeldDestination> {
        let (endpoints, listed) = self.parts();
        let wanted = (at.ip(), at.port());
        let endpoint = endpoints.binary_search_by_key(&wanted, |to| (to.address, to.port)).ok();
        let place = listed.binary_search_by_key(&wanted, |held| (held.address, held.port)).ok();
        endpoint.map(|place| (&endpoints[place]).into()).or_else(|| place.map(|place| listed[place]))
    }

    /// One of them is empty.
    fn parts(&self) -> (&[Endpoint], &[HeldDestination]) {
        match self {
            Destinations::Endpoints(port, policy) => (port.endpoints(*policy), &[]),
            Destinations::Listed(listed) => (&[], listed),
        }
    }
}

impl PartialEq for Destinations {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Destinations {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldDestination {
    pub address: IpAddr,
    pub port: u16,
    /// `None` for one that does not masquerade or has thresholds, which none of ours has.
    pub weight: Option<u32>,
}

impl From<&Endpoint> for HeldDestination {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { address, port, weight, .. } = *endpoint;
        HeldDestination { address, port, weight: Some(weight.into()) }
    }
}

impl HeldDestination {
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Whose a virtual server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Us,
    /// It is left alone, unless it stands where a Service has to be.
    Others,
}

impl HeldServer {
    /// Whether all destinations masquerade and none has thresholds.
    pub fn is_plain(&self) -> bool {
        self.destinations.iter().all(|held| held.weight.is_some())
    }

    pub fn destination(&self, at: SocketAddr) -> Option<HeldDestination> {
        self.destinations.get(at)
    }
}

impl Held {
    pub fn has(&self, set: Set, element: &Element) -> bool {
        self.sets.get(&set).is_some_and(|held| held.members.contains_key(element))
    }

    pub fn member(&self, set: Set, element: &Element) -> Option<Member> {
        let mark = *self.sets.get(&set)?.members.get(element)?;
        Some(Member { element: *element, mark })
    }

    pub fn members(&self, set: Set) -> impl Iterator<Item = Member> + '_ {
        let members = self.sets.get(&set).into_iter().flat_map(|held| &held.members);
        members.map(|(element, mark)| Member { element: *element, mark: *mark })
    }
}
