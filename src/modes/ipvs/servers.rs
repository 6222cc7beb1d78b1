//! One virtual server: from what it is in the kernel to what it should be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::drain::Drains;
use super::held::{Destinations, HeldDestination, HeldServer, Owner};
use super::render::{Server, Shape};
use crate::kernel::ipvs::{Command, Destination, Flags, ForwardingMethod, Service, VirtualServer};
use crate::model::{Endpoint, Family, Protocol, Scheduler};

/// What makes the one into the other.
#[derive(Debug, Default)]
pub struct Difference {
    /// What gives connections a way.
    pub up: Vec<Command>,
    /// What takes one.
    pub down: Vec<Command>,
    pub after: Option<HeldServer>,
    /// Destinations that keep their connections and get no new ones, and those that do not drain any more.
    pub draining: Vec<SocketAddr>,
    pub drained: Vec<SocketAddr>,
}

/// What becomes of a destination that is no endpoint any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Drains,
    Goes,
}

pub fn difference(
    at: VirtualServer,
    held: Option<&HeldServer>,
    wanted: Option<&Server<'_>>,
    drains: &Drains,
) -> Difference {
    let Some(wanted) = wanted else { return removal(at, held) };
    let mut difference = Difference::default();
    for endpoint in wanted.endpoints() {
        difference.serve(at, endpoint, held, drains);
    }
    let mut drain: Vec<HeldDestination> = Vec::new();
    for left in held.into_iter().flat_map(|held| left_over(held, wanted.endpoints())) {
        if fate(at, &left, wanted, drains) == Fate::Drains {
            difference.drain(at, &left);
            drain.push(HeldDestination { weight: Some(0), ..left });
        } else {
            difference.down.push(Command::DeleteDestination(at, left.at()));
            difference.drained.push(left.at());
        }
    }
    let Some(destinations) = destinations(wanted, drain) else { return removal(at, held) };
    difference.shape(at, held, wanted.shape);
    difference.after = Some(HeldServer { shape: wanted.shape, destinations, owner: Owner::Us });
    difference
}

/// `None` where there are none.
fn destinations(wanted: &Server<'_>, mut drain: Vec<HeldDestination>) -> Option<Destinations> {
    let endpoints = wanted.endpoints();
    match wanted.policy.filter(|_| !endpoints.is_empty()) {
        Some(policy) if drain.is_empty() => Some(Destinations::Endpoints(Arc::clone(wanted.port), policy)),
        None if drain.is_empty() => None,
        _ => {
            drain.extend(endpoints.iter().map(HeldDestination::from));
            drain.sort_unstable_by_key(|destination| (destination.address, destination.port));
            Some(Destinations::Listed(drain.into()))
        }
    }
}

/// The virtual server that leaves packets alone: its only destination is the node itself, as which it is not translated
/// to.
pub fn bypass(at: VirtualServer, held: Option<&HeldServer>) -> Difference {
    let shape = Shape {
        scheduler: Some(Scheduler::RoundRobin),
        flags: Flags::default(),
        timeout: 0,
        prefix: at.family().bits(),
    };
    let here = match at.family() {
        Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let destination = HeldDestination { address: here, port: 0, weight: None };
    let destinations = Destinations::Listed([destination].into());
    let wanted = HeldServer { shape, destinations, owner: Owner::Us };
    let mut up = Vec::new();
    if held != Some(&wanted) {
        let local = Destination { method: ForwardingMethod::Local, ..Destination::new(destination.at(), 1) };
        up = vec![Command::AddService(service(at, shape)), Command::AddDestination(at, local)];
    }
    Difference { up, after: Some(wanted), ..Difference::default() }
}

fn removal(at: VirtualServer, held: Option<&HeldServer>) -> Difference {
    let Some(held) = held else { return Difference::default() };
    Difference {
        down: vec![Command::DeleteService(at)],
        drained: held.destinations.iter().map(|held| held.at()).collect(),
        ..Difference::default()
    }
}

fn left_over<'a>(
    held: &'a HeldServer,
    endpoints: &'a [Endpoint],
) -> impl Iterator<Item = HeldDestination> + 'a {
    held.destinations.iter().filter(|held| {
        let place = |endpoint: &Endpoint| (endpoint.address, endpoint.port);
        endpoints.binary_search_by_key(&(held.address, held.port), place).is_err()
    })
}

/// A datagram is not lost when its flow changes over, while a client that goes on sending never ends (k8s#19029): UDP
/// stays only where the endpoint still serves. The scheduler `dh` knows no destination that takes no new connections: it
/// would refuse all clients (Linux 6.1), so that what leaves has to go.
fn fate(at: VirtualServer, left: &HeldDestination, wanted: &Server<'_>, drains: &Drains) -> Fate {
    let port = wanted.port;
    let has_connections = match port.name.protocol {
        _ if port.scheduler == Scheduler::DestinationHash && !wanted.endpoints().is_empty() => false,
        Protocol::Udp => port.serves(left.address, left.port),
        Protocol::Tcp | Protocol::Sctp => true,
    };
    if has_connections && !drains.is_over(&(at, left.at())) { Fate::Drains } else { Fate::Goes }
}

impl Difference {
    fn serve(&mut self, at: VirtualServer, endpoint: &Endpoint, held: Option<&HeldServer>, drains: &Drains) {
        let to = SocketAddr::new(endpoint.address, endpoint.port);
        let wanted = Destination::new(to, endpoint.weight.into());
        match held.and_then(|held| held.destination(to)) {
            None => self.up.push(Command::AddDestination(at, wanted)),
            Some(there) if there.weight != Some(wanted.weight) => {
                self.up.push(Command::SetDestination(at, wanted));
            }
            Some(_) => {}
        }
        if drains.contains(&(at, to)) {
            self.drained.push(to);
        }
    }

    fn drain(&mut self, at: VirtualServer, left: &HeldDestination) {
        if left.weight != Some(0) {
            self.down.push(Command::SetDestination(at, Destination::new(left.at(), 0)));
        }
        self.draining.push(left.at());
    }

    fn shape(&mut self, at: VirtualServer, held: Option<&HeldServer>, wanted: Shape) {
        let command = match held {
            None => Command::AddService(service(at, wanted)),
            Some(held) if held.shape != wanted => Command::SetService(service(at, wanted)),
            Some(_) => return,
        };
        self.up.insert(0, command);
    }
}

/// Those that add a virtual server that only has plain destinations.
pub fn commands(at: VirtualServer, server: &HeldServer) -> impl Iterator<Item = Command> + '_ {
    let to = |held: HeldDestination| Destination::new(held.at(), held.weight.unwrap_or_default());
    let destinations = server.destinations.iter().map(move |held| Command::AddDestination(at, to(held)));
    std::iter::once(Command::AddService(service(at, server.shape))).chain(destinations)
}

fn service(at: VirtualServer, shape: Shape) -> Service {
    let scheduler = shape.scheduler.map_or(Scheduler::RoundRobin.name(), Scheduler::name);
    let service = Service::new(at, scheduler);
    Service { flags: shape.flags, timeout: shape.timeout, prefix: shape.prefix, ..service }
}
