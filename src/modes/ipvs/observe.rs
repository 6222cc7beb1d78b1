//! What is in the kernel, and what of it is ours.
//!
//! Virtual servers carry no name. One is ours if its address is one of our virtual addresses, or if its frontend is in one
//! of our sets, or by its mark; all others are left alone. So what tells is written before a virtual server, and removed
//! after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::doors::Doors;
use super::held::{Destinations, Held, HeldDestination, HeldServer, HeldSet, Owner};
use super::names::{self, ServiceMarks, Set};
use super::render::Shape;
use super::{Error, error};
use crate::kernel::ipset::Element;
use crate::kernel::ipvs::{Destination, ForwardingMethod, Service, VirtualServer};
use crate::model::Family;

/// `known` are virtual servers whose destinations need not be read again.
pub fn observe(
    doors: &mut Doors,
    family: Family,
    marks: ServiceMarks,
    known: Option<&BTreeMap<VirtualServer, HeldServer>>,
) -> Result<Held, Error> {
    let mut held =
        Held { addresses: doors.addresses.list(family).map_err(error::observing)?, ..Held::default() };
    observe_sets(doors, family, &mut held)?;
    let mut servers = Vec::new();
    let mut note = |service: &Service, _: &_| {
        if service.server.family() == family {
            servers.push((service.server, shape(service)));
        }
    };
    doors.ipvs.services(&mut note).map_err(error::observing)?;
    let given: BTreeSet<u32> = held.members(Set::ShortCircuit).filter_map(|member| member.mark).collect();
    let is_our_mark = |mark| marks.is_ours(mark) || given.contains(&mark);
    for (at, shape) in servers {
        let known = known.and_then(|known| known.get(&at));
        let destinations = match known.filter(|known| known.owner == Owner::Us && known.shape == shape) {
            Some(known) => known.destinations.clone(),
            None => destinations(doors, &at)?,
        };
        let owner = if is_ours(&held, &at, &is_our_mark) { Owner::Us } else { Owner::Others };
        held.servers.insert(at, HeldServer { shape, destinations, owner });
    }
    Ok(held)
}

fn observe_sets(doors: &mut Doors, family: Family, held: &mut Held) -> Result<(), Error> {
    for header in doors.sets.headers(names::OURS).map_err(error::observing)? {
        let Some(set) = Set::of_name(&header.name, family) else { continue };
        let is_of_another_shape = header.definition.as_ref() != Some(&set.definition(family));
        let mut observed = HeldSet { is_of_another_shape, ..HeldSet::default() };
        let mut note = |member: crate::kernel::ipset::Member| {
            observed.members.insert(member.element, member.mark);
        };
        doors.sets.members(&header.name, &mut note).map_err(error::observing)?;
        held.sets.insert(set, observed);
    }
    Ok(())
}

/// Sorted by address and port.
pub fn destinations(doors: &mut Doors, of: &VirtualServer) -> Result<Destinations, Error> {
    let mut found = Vec::new();
    doors
        .ipvs
        .destinations(of, &mut |destination, _, _| found.push(held_destination(destination)))
        .map_err(error::observing)?;
    found.sort_unstable_by_key(|destination| (destination.address, destination.port));
    found.dedup_by_key(|destination: &mut HeldDestination| destination.at());
    Ok(Destinations::Listed(found.into()))
}

fn held_destination(destination: &Destination) -> HeldDestination {
    let plain = destination.method == ForwardingMethod::Masquerade
        && (destination.upper_threshold, destination.lower_threshold) == (0, 0);
    HeldDestination {
        address: destination.address,
        port: destination.port,
        weight: plain.then_some(destination.weight),
    }
}

pub fn shape(service: &Service) -> Shape {
    Shape {
        scheduler: service.scheduler.parse().ok(),
        flags: service.flags,
        timeout: if service.flags.contains(crate::kernel::ipvs::Flags::PERSISTENT) {
            service.timeout
        } else {
            0
        },
        prefix: service.prefix,
    }
}

fn is_ours(held: &Held, at: &VirtualServer, is_our_mark: &dyn Fn(u32) -> bool) -> bool {
    match *at {
        VirtualServer::Address { address, protocol, port } => {
            let frontend = Element::IpPort(address, protocol, port);
            held.addresses.contains_key(&address)
                || held.has(Set::VirtualIps, &Element::Ip(address))
                || Set::OF_FRONTENDS.into_iter().any(|set| held.has(set, &frontend))
        }
        VirtualServer::Mark { mark, .. } => is_our_mark(mark),
    }
}

/// How many connections a destination has, of any kind but persistence; `None` if it is not there.
pub fn connections(doors: &mut Doors, of: &VirtualServer) -> Result<Vec<(SocketAddr, u32)>, Error> {
    let mut counted = Vec::new();
    doors
        .ipvs
        .destinations(of, &mut |destination, connections, _| {
            counted.push((destination.at(), connections.active.saturating_add(connections.inactive)));
        })
        .map_err(error::observing)?;
    Ok(counted)
}
