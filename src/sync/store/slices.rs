//! EndpointSlices in the store: folded to what a node needs, since there are more endpoints than anything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Generation, MAX_PENDING_TRIGGERS, Store};
use crate::model::{Family, Few, Locality, ServiceName};
use crate::sync::objects::{EndpointPort, EndpointSlice, FieldProblem, Hints, Kind, Seldom, SliceEndpoint};

/// An EndpointSlice without what its place in the store says: its namespace and its Service.
#[derive(Debug, Clone)]
pub struct Slice {
    pub name: Arc<str>,
    pub ports: Few<EndpointPort>,
    pub endpoints: StoredEndpoints,
    pub problems: Seldom<FieldProblem>,
    pub family: Family,
    /// Of every endpoint. Here and not on each, since there are more of those than of anything else.
    pub weight: u16,
    pub(super) generation: Generation,
}

/// A [`SliceEndpoint`] that knows whether it is on this node instead of which node it is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoredEndpoint<'a> {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub locality: Locality,
    pub hints: Option<&'a Hints>,
}

/// The endpoints of a slice. There are more of them than of anything else: one of IPv4 takes 8 bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEndpoints {
    addresses: Addresses,
    /// As many as addresses, or none where nobody has any.
    hints: Seldom<Option<Arc<Hints>>>,
}

/// All of one family, as the API says: what is not of the slice's was left out by the source.
#[derive(Debug, Clone, PartialEq)]
enum Addresses {
    V4(Box<[(Ipv4Addr, State)]>),
    V6(Box<[(Ipv6Addr, State)]>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    is_ready: bool,
    is_serving: bool,
    is_terminating: bool,
    locality: Locality,
}

impl StoredEndpoints {
    pub fn iter(&self) -> impl Iterator<Item = StoredEndpoint<'_>> {
        (0..self.addresses.len()).filter_map(|at| {
            let (address, state) = self.addresses.get(at)?;
            Some(StoredEndpoint {
                address,
                ready: state.is_ready,
                serving: state.is_serving,
                terminating: state.is_terminating,
                locality: state.locality,
                hints: self.hints.get(at).and_then(Option::as_deref),
            })
        })
    }

    fn of(endpoints: Box<[SliceEndpoint]>, family: Family, node_name: &str) -> Self {
        let mut endpoints = Vec::from(endpoints);
        endpoints.retain(|endpoint| Family::of(endpoint.address) == family);
        let are_hinted = endpoints.iter().any(|endpoint| endpoint.hints.is_some());
        let addresses = Addresses::of(&endpoints, family, node_name);
        let hints = endpoints.into_iter().filter(|_| are_hinted).map(|endpoint| endpoint.hints).collect();
        StoredEndpoints { addresses, hints }
    }
}

impl Addresses {
    fn of(endpoints: &[SliceEndpoint], family: Family, node_name: &str) -> Self {
        let state = |endpoint: &SliceEndpoint| State::of(endpoint, node_name);
        let v4 = |endpoint: &SliceEndpoint| match endpoint.address {
            IpAddr::V4(address) => Some((address, state(endpoint))),
            IpAddr::V6(_) => None,
        };
        let v6 = |endpoint: &SliceEndpoint| match endpoint.address {
            IpAddr::V6(address) => Some((address, state(endpoint))),
            IpAddr::V4(_) => None,
        };
        match family {
            Family::V4 => Addresses::V4(endpoints.iter().filter_map(v4).collect()),
            Family::V6 => Addresses::V6(endpoints.iter().filter_map(v6).collect()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Addresses::V4(all) => all.len(),
            Addresses::V6(all) => all.len(),
        }
    }

    fn get(&self, at: usize) -> Option<(IpAddr, State)> {
        match self {
            Addresses::V4(all) => all.get(at).map(|(address, state)| ((*address).into(), *state)),
            Addresses::V6(all) => all.get(at).map(|(address, state)| ((*address).into(), *state)),
        }
    }
}

impl State {
    fn of(endpoint: &SliceEndpoint, node_name: &str) -> Self {
        State {
            is_ready: endpoint.ready,
            is_serving: endpoint.serving,
            is_terminating: endpoint.terminating,
            locality: match &endpoint.node {
                None => Locality::Unknown,
                Some(node) if **node == *node_name => Locality::Local,
                Some(_) => Locality::Remote,
            },
        }
    }
}

impl Slice {
    pub fn object_name(&self, service: &ServiceName) -> ServiceName {
        ServiceName { namespace: Arc::clone(&service.namespace), name: Arc::clone(&self.name) }
    }

    fn says_the_same_as(&self, other: &Slice) -> bool {
        self.family == other.family
            && self.weight == other.weight
            && self.ports == other.ports
            && self.endpoints == other.endpoints
            && self.problems == other.problems
    }
}

impl Store {
    pub(super) fn apply_slice(&mut self, slice: EndpointSlice) {
        let name = slice.name.clone();
        if slice.service.is_empty() {
            return self.delete(Kind::EndpointSlice, &name);
        }
        let service =
            ServiceName { namespace: Arc::clone(&name.namespace), name: Arc::clone(&slice.service) };
        let triggered = slice.triggered;
        let generation = self.generation(Kind::EndpointSlice);
        self.forget_undecodable(Kind::EndpointSlice, &name);
        if self.owner(&name).is_some_and(|owner| owner != service) {
            self.delete_slice(&name);
        }
        let slice = fold(slice, &self.node_name, generation);
        let slices = &mut self.services.entry(service.clone()).or_default().slices;
        match slices.binary_search_by(|known| known.name.cmp(&slice.name)) {
            Ok(at) if slices[at].says_the_same_as(&slice) => {
                slices[at].generation = generation;
                return;
            }
            Ok(at) => slices[at] = slice,
            Err(at) => {
                // One slice is what nearly every Service has; a Vec would make room for four.
                slices.reserve_exact(1);
                slices.insert(at, slice);
            }
        }
        if named_by_slice(&name) != Some(&service.name) {
            self.owners.insert(name, Arc::clone(&service.name));
        }
        self.note_trigger(&service, triggered);
        self.endpoint_changes.count();
        self.changed.services.insert(service);
    }

    pub(super) fn delete_slice(&mut self, name: &ServiceName) {
        let Some(service) = self.owner(name) else { return };
        self.owners.remove(name);
        if let Some(known) = self.services.get_mut(&service) {
            known.slices.retain(|slice| slice.name != name.name);
        }
        self.forget_if_empty(&service);
        // The annotation of a deleted slice tells of its last update, which is not what happened now.
        self.triggers.remove(&service);
        self.endpoint_changes.count();
        self.changed.services.insert(service);
    }

    pub(super) fn slice_mut(&mut self, name: &ServiceName) -> Option<&mut Slice> {
        let service = self.owner(name)?;
        self.services.get_mut(&service)?.slices.iter_mut().find(|slice| slice.name == name.name)
    }

    /// The Service that a slice belongs to, if it is known.
    fn owner(&self, slice: &ServiceName) -> Option<ServiceName> {
        let of_namespace = |name| ServiceName { namespace: Arc::clone(&slice.namespace), name };
        if let Some(owner) = self.owners.get(slice) {
            return Some(of_namespace(Arc::clone(owner)));
        }
        let service = of_namespace(named_by_slice(slice)?.into());
        let (service, known) = self.services.get_key_value(&service)?;
        known.slices.iter().any(|known| known.name == slice.name).then(|| service.clone())
    }

    fn note_trigger(&mut self, service: &ServiceName, triggered: Option<SystemTime>) {
        let Some(triggered) = triggered.filter(|time| *time > self.started) else { return };
        let times = self.triggers.entry(service.clone()).or_default();
        if times.len() < MAX_PENDING_TRIGGERS {
            times.push(triggered);
        }
    }
}

/// The EndpointSlice controller appends a hyphen and five letters to the name of the Service. Nearly all slices are its work.
fn named_by_slice(slice: &ServiceName) -> Option<&str> {
    slice.name.rsplit_once('-').map(|(service, _)| service)
}

fn fold(slice: EndpointSlice, node_name: &str, generation: Generation) -> Slice {
    Slice {
        name: slice.name.name,
        ports: slice.ports,
        endpoints: StoredEndpoints::of(slice.endpoints, slice.family, node_name),
        problems: slice.problems,
        family: slice.family,
        weight: slice.weight,
        generation,
    }
}
