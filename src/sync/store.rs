//! The objects as last seen, by Service.
//!
//! Lists are taken in by mark and sweep: an object that a repeated list does not name again is gone when that list is
//! done, and not before. No list is held twice, and one that breaks off and starts again costs nothing.

mod slices;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

pub use slices::{Slice, StoredEndpoint, StoredEndpoints};

use super::objects::{Event, Kind, Node, Object, Service, ServiceCidr};
use crate::model::ServiceName;

/// Every object that this node has to know, with what changed since somebody last asked.
#[derive(Debug)]
pub struct Store {
    node_name: Arc<str>,
    started: SystemTime,
    services: BTreeMap<ServiceName, Known>,
    /// Which Service a slice belongs to, where its name does not tell: a deletion names the slice alone.
    owners: BTreeMap<ServiceName, Arc<str>>,
    node: Option<(Box<Node>, Generation)>,
    service_cidrs: BTreeMap<Arc<str>, (Box<ServiceCidr>, Generation)>,
    undecodable: BTreeMap<(Kind, ServiceName), Undecodable>,
    lists: [List; 4],
    changed: Changed,
    triggers: BTreeMap<ServiceName, Vec<SystemTime>>,
    service_changes: ChangeCount,
    endpoint_changes: ChangeCount,
}

/// What is known under one Service's name. Slices may come before their Service and outlive it.
#[derive(Debug, Default)]
struct Known {
    service: Option<(Box<Service>, Generation)>,
    /// Sorted by name.
    slices: Vec<Slice>,
}

/// Which list an object was last in. Objects that a finished list left behind have an older one.
type Generation = u32;

#[derive(Debug, Default, Clone, Copy)]
struct List {
    generation: Generation,
    running: bool,
    /// Whether a list of this kind was ever complete, or given up.
    done: bool,
}

impl List {
    fn is_awaited(&self, kind: Kind) -> bool {
        !self.done && (kind.is_needed() || self.running)
    }
}

/// An object of which the newest state could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Undecodable {
    error: Arc<str>,
    generation: Generation,
}

/// What is to be compiled again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    pub services: BTreeSet<ServiceName>,
    pub node: bool,
    pub service_cidrs: bool,
    /// Which objects cannot be read.
    pub undecodable: bool,
}

impl Changed {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node && !self.service_cidrs && !self.undecodable
    }
}

/// As `sync_proxy_rules_service_changes_{pending,total}` and its twin for endpoints count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeCount {
    pub pending: u64,
    pub total: u64,
}

impl ChangeCount {
    fn count(&mut self) {
        self.pending += 1;
        self.total += 1;
    }
}

/// Trigger times that one Service can have waiting. More of them come together only while syncs fail, and then the
/// oldest tell what the metric is for.
const MAX_PENDING_TRIGGERS: usize = 64;

impl Store {
    /// `node_name` tells local endpoints from others. Changes from before `started` are not this process's to measure.
    pub fn new(node_name: Arc<str>, started: SystemTime) -> Self {
        Store {
            node_name,
            started,
            services: BTreeMap::new(),
            owners: BTreeMap::new(),
            node: None,
            service_cidrs: BTreeMap::new(),
            undecodable: BTreeMap::new(),
            lists: [List::default(); 4],
            changed: Changed::default(),
            triggers: BTreeMap::new(),
            service_changes: ChangeCount::default(),
            endpoint_changes: ChangeCount::default(),
        }
    }

    pub fn handle(&mut self, event: Event) {
        match event {
            Event::ListStarted(kind) => self.start_list(kind),
            Event::ListDone(kind) => self.finish_list(kind),
            Event::ListGivenUp(kind) => self.give_up_list(kind),
            Event::Applied(Object::Service(service)) => self.apply_service(service),
            Event::Applied(Object::EndpointSlice(slice)) => self.apply_slice(*slice),
            Event::Applied(Object::Node(node)) => self.apply_node(node),
            Event::Applied(Object::ServiceCidr(cidr)) => self.apply_service_cidr(cidr),
            Event::Deleted(kind, name) => self.delete(kind, &name),
            Event::Undecodable { kind, name: Some(name), error } => self.note_undecodable(kind, name, &error),
            // Nothing tells which object it is, so nothing known can be kept for its sake.
            Event::Undecodable { name: None, .. } => {}
        }
    }

    /// Whether every kind that is waited for was listed completely once. Before that the state of the cluster is not known, and writing
    /// what is known would take away Services that work.
    pub fn lists_done(&self) -> bool {
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];
        kinds.into_iter().all(|kind| !self.lists[kind as usize].is_awaited(kind))
    }

    pub fn take_changed(&mut self) -> Changed {
        self.service_changes.pending = 0;
        self.endpoint_changes.pending = 0;
        std::mem::take(&mut self.changed)
    }

    /// When the changes that were taken were made, as far as their authors tell. To be asked for after a sync that
    /// succeeded: until then the changes are on their way.
    pub fn take_triggers(&mut self) -> BTreeMap<ServiceName, Vec<SystemTime>> {
        std::mem::take(&mut self.triggers)
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)?.service.as_ref().map(|(service, _)| &**service)
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &ServiceName) -> &[Slice] {
        self.services.get(service).map_or(&[], |known| &known.slices)
    }

    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref().map(|(node, _)| &**node)
    }

    /// The networks that ClusterIPs are taken from, both families, as far as anybody says.
    pub fn service_networks(&self) -> impl Iterator<Item = IpNet> {
        self.service_cidrs.values().flat_map(|(cidr, _)| cidr.networks.iter().copied())
    }

    /// Every Service that is there.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().filter(|(_, known)| known.service.is_some()).map(|(name, _)| name)
    }

    /// The objects whose newest state could not be read, with the reason.
    pub fn undecodable(&self) -> impl ExactSizeIterator<Item = (Kind, &ServiceName, &str)> {
        self.undecodable.iter().map(|((kind, name), object)| (*kind, name, &*object.error))
    }

    pub fn service_changes(&self) -> ChangeCount {
        self.service_changes
    }

    pub fn endpoint_changes(&self) -> ChangeCount {
        self.endpoint_changes
    }

    fn list(&mut self, kind: Kind) -> &mut List {
        &mut self.lists[kind as usize]
    }

    fn generation(&self, kind: Kind) -> Generation {
        self.lists[kind as usize].generation
    }

    fn start_list(&mut self, kind: Kind) {
        let list = self.list(kind);
        list.generation = list.generation.wrapping_add(1);
        list.running = true;
    }

    fn finish_list(&mut self, kind: Kind) {
        let list = self.list(kind);
        if !std::mem::take(&mut list.running) {
            return;
        }
        let is_first = !std::mem::replace(&mut list.done, true);
        let generation = list.generation;
        if is_first && self.lists_done() {
            self.pack();
        }
        let known = self.undecodable.len();
        self.undecodable.retain(|(of, _), object| *of != kind || object.generation == generation);
        self.changed.undecodable |= self.undecodable.len() < known;
        for name in self.left_behind(kind, generation) {
            self.delete(kind, &name);
        }
    }

    /// Maps that were filled in order of their keys are half empty; made anew, they are full.
    fn pack(&mut self) {
        self.services = std::mem::take(&mut self.services).into_iter().collect();
    }

    /// What was known stays in force.
    fn give_up_list(&mut self, kind: Kind) {
        let list = self.list(kind);
        list.running = false;
        list.done = true;
    }

    /// The objects that a list of this generation did not name.
    fn left_behind(&self, kind: Kind, generation: Generation) -> Vec<ServiceName> {
        let old = |of: &Generation| *of != generation;
        match kind {
            Kind::Service => (self.services.iter())
                .filter(|(_, known)| known.service.as_ref().is_some_and(|(_, of)| old(of)))
                .map(|(name, _)| name.clone())
                .collect(),
            Kind::EndpointSlice => (self.services.iter())
                .flat_map(|(service, known)| known.slices.iter().map(move |slice| (service, slice)))
                .filter(|(_, slice)| old(&slice.generation))
                .map(|(service, slice)| slice.object_name(service))
                .collect(),
            Kind::Node => {
                (self.node.iter()).filter(|(_, of)| old(of)).map(|(node, _)| node_object(node)).collect()
            }
            Kind::ServiceCidr => (self.service_cidrs.values())
                .filter(|(_, of)| old(of))
                .map(|(cidr, _)| of_cluster(&cidr.name))
                .collect(),
        }
    }

    fn apply_service(&mut self, service: Box<Service>) {
        let generation = self.generation(Kind::Service);
        self.forget_undecodable(Kind::Service, &service.name);
        let known = self.services.entry(service.name.clone()).or_default();
        match &mut known.service {
            Some((before, of)) if *before == service => *of = generation,
            slot => {
                self.service_changes.count();
                self.changed.services.insert(service.name.clone());
                *slot = Some((service, generation));
            }
        }
    }

    fn apply_node(&mut self, node: Box<Node>) {
        if node.name != self.node_name {
            return;
        }
        let generation = self.generation(Kind::Node);
        self.forget_undecodable(Kind::Node, &node_object(&node));
        self.changed.node |= self.node() != Some(&*node);
        self.node = Some((node, generation));
    }

    fn apply_service_cidr(&mut self, cidr: Box<ServiceCidr>) {
        let generation = self.generation(Kind::ServiceCidr);
        self.forget_undecodable(Kind::ServiceCidr, &of_cluster(&cidr.name));
        let before = self.service_cidrs.get(&cidr.name).map(|(before, _)| before);
        self.changed.service_cidrs |= before != Some(&cidr);
        self.service_cidrs.insert(Arc::clone(&cidr.name), (cidr, generation));
    }

    fn delete(&mut self, kind: Kind, name: &ServiceName) {
        self.forget_undecodable(kind, name);
        match kind {
            Kind::Service => self.delete_service(name),
            Kind::EndpointSlice => self.delete_slice(name),
            Kind::Node if name.name == self.node_name => self.changed.node |= self.node.take().is_some(),
            Kind::Node => {}
            Kind::ServiceCidr => {
                self.changed.service_cidrs |= self.service_cidrs.remove(&name.name).is_some();
            }
        }
    }

    fn delete_service(&mut self, name: &ServiceName) {
        let Some(known) = self.services.get_mut(name) else { return };
        if known.service.take().is_some() {
            self.service_changes.count();
            self.changed.services.insert(name.clone());
        }
        self.forget_if_empty(name);
    }

    fn forget_if_empty(&mut self, service: &ServiceName) {
        if self.services.get(service).is_some_and(|known| known.service.is_none() && known.slices.is_empty())
        {
            self.services.remove(service);
        }
    }

    /// Marks what was known of it as seen, so that a list that is running does not sweep it.
    fn note_undecodable(&mut self, kind: Kind, name: ServiceName, error: &str) {
        let generation = self.generation(kind);
        match kind {
            Kind::Service => {
                if let Some((_, of)) = self.services.get_mut(&name).and_then(|known| known.service.as_mut()) {
                    *of = generation;
                }
            }
            Kind::EndpointSlice => {
                if let Some(slice) = self.slice_mut(&name) {
                    slice.generation = generation;
                }
            }
            Kind::Node => {
                if let Some((_, of)) = &mut self.node {
                    *of = generation;
                }
            }
            Kind::ServiceCidr => {
                if let Some((_, of)) = self.service_cidrs.get_mut(&name.name) {
                    *of = generation;
                }
            }
        }
        let object = Undecodable { error: error.into(), generation };
        let before = self.undecodable.insert((kind, name), object);
        self.changed.undecodable |= before.is_none_or(|before| *before.error != *error);
    }

    fn forget_undecodable(&mut self, kind: Kind, name: &ServiceName) {
        // Nearly always there is none, and then the name need not be copied to look it up.
        if !self.undecodable.is_empty() {
            self.changed.undecodable |= self.undecodable.remove(&(kind, name.clone())).is_some();
        }
    }
}

/// A Node's name where names have namespaces.
fn node_object(node: &Node) -> ServiceName {
    of_cluster(&node.name)
}

/// The name of an object that is in no namespace.
fn of_cluster(name: &Arc<str>) -> ServiceName {
    ServiceName { namespace: "".into(), name: Arc::clone(name) }
}

#[cfg(test)]
mod tests;
