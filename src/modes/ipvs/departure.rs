//! Leaving to another mode: connections that virtual servers have go on until they end.
//!
//! New connections are the other mode's before IPVS sees them. IPVS drops the packets of a connection whose destination is
//! gone (`ip_vs_in_hook`), and without a route to the virtual address they never come there. So a virtual server that has
//! connections stays, with its address, and no new ones: its destinations get the weight 0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::doors::Doors;
use super::error::Door;
use super::held::{Held, HeldServer, Owner};
use super::names::{BYPASSES, ServiceMarks};
use super::observe::{connections, observe};
use super::{Error, drain};
use crate::kernel::conntrack::{Conntrack, ConntrackError, Flow};
use crate::kernel::ipvs::{Command, Destination, VirtualServer};
use crate::kernel::virtual_addresses::{AddressChange, VirtualAddresses};
use crate::model::{Family, Protocol};

/// How long connections are waited for where nobody says. Some never end.
pub const LONGEST_DEPARTURE: Duration = Duration::from_secs(3600);

/// A departure that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    ends: Instant,
    pause: Duration,
    look: Instant,
}

/// What connections are still waited for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Staying {
    pub servers: BTreeSet<VirtualServer>,
}

impl Departure {
    pub fn new(limit: Duration, now: Instant) -> Self {
        Departure { ends: now + limit, pause: drain::FIRST_LOOK, look: now }
    }

    /// When to look again.
    pub fn look(&self) -> Instant {
        self.look
    }

    /// To be called before anything that can fail, or a kernel that does not answer would be asked without pause.
    pub fn set_next_look(&mut self, now: Instant) {
        self.look = if self.ends > now { self.ends.min(now + self.pause) } else { now + self.pause };
        self.pause = (self.pause * 2).min(drain::LONGEST_PAUSE);
    }

    /// Takes away everything that nobody is connected to, and at the end all the rest. The sets stay as long as anything
    /// does: they tell what is ours.
    pub fn step(
        &self,
        doors: &mut Doors,
        conntrack: &mut dyn Conntrack,
        family: Family,
        now: Instant,
    ) -> Result<Staying, Error> {
        // Marks with another bit are known by the set that gives them.
        let held = observe(doors, family, ServiceMarks::new(0), None)?;
        let connected = connected(doors, &held)?;
        let is_over = self.ends <= now;
        let staying = if is_over { BTreeSet::new() } else { connected.clone() };
        let staying = Staying { servers: staying };
        let ours = held.servers.iter().filter(|(at, server)| is_ours(at, server));
        let commands: Vec<_> = ours.flat_map(|(at, server)| staying.commands(at, server)).collect();
        doors.ipvs.execute(&commands).map_err(cleaning)?;
        if is_over {
            forget(conntrack, family, &connected).map_err(cleaning)?;
        }
        staying.release(doors.addresses.as_mut(), family).map_err(Error::Cleanup)?;
        Ok(staying)
    }
}

impl Staying {
    pub fn is_nothing(&self) -> bool {
        self.servers.is_empty()
    }

    fn commands(&self, at: &VirtualServer, server: &HeldServer) -> Vec<Command> {
        if !self.servers.contains(at) {
            return vec![Command::DeleteService(*at)];
        }
        let taking = server.destinations.iter().filter(|held| !matches!(held.weight, None | Some(0)));
        taking.map(|held| Command::SetDestination(*at, Destination::new(held.at(), 0))).collect()
    }

    /// Removes the addresses that no connection needs. Which ones those through a mark go to is not known.
    pub fn release(&self, addresses: &mut dyn VirtualAddresses, family: Family) -> Result<(), Door> {
        let is_marked = |at: &VirtualServer| matches!(at, VirtualServer::Mark { .. });
        if self.servers.iter().any(is_marked) {
            return Ok(());
        }
        let needed: BTreeSet<IpAddr> = self.servers.iter().filter_map(address_of).collect();
        let all = addresses.list(family)?.into_keys();
        let changes: Vec<_> =
            all.filter(|address| !needed.contains(address)).map(AddressChange::Remove).collect();
        Ok(addresses.change(family, &changes)?)
    }
}

fn cleaning(error: impl Into<Door>) -> Error {
    Error::Cleanup(error.into())
}

fn address_of(at: &VirtualServer) -> Option<IpAddr> {
    match at {
        VirtualServer::Address { address, .. } => Some(*address),
        VirtualServer::Mark { .. } => None,
    }
}

/// Whatever the masquerade bit was.
fn is_bypass(at: &VirtualServer) -> bool {
    matches!(at, VirtualServer::Mark { mark, .. } if BYPASSES.contains(mark))
}

fn is_ours(at: &VirtualServer, server: &HeldServer) -> bool {
    server.owner == Owner::Us || is_bypass(at)
}

/// Our virtual servers that have connections.
fn connected(doors: &mut Doors, held: &Held) -> Result<BTreeSet<VirtualServer>, Error> {
    let ours = held.servers.iter().filter(|(at, server)| server.owner == Owner::Us && !is_bypass(at));
    let mut connected = BTreeSet::new();
    for (at, _) in ours {
        if connections(doors, at)?.iter().any(|(_, count)| *count > 0) {
            connected.insert(*at);
        }
    }
    Ok(connected)
}

/// A datagram of a flow that was cut off belongs to no new connection as long as the flow is tracked, and so would not be
/// translated.
fn forget(
    conntrack: &mut dyn Conntrack,
    family: Family,
    cut_off: &BTreeSet<VirtualServer>,
) -> Result<(), ConntrackError> {
    let frontends: BTreeSet<SocketAddr> = cut_off
        .iter()
        .filter_map(|at| match *at {
            VirtualServer::Address { protocol: Protocol::Udp, address, port } => {
                Some(SocketAddr::new(address, port))
            }
            _ => None,
        })
        .collect();
    if frontends.is_empty() {
        return Ok(());
    }
    let mut flows: BTreeMap<[u8; 4], Flow> = BTreeMap::new();
    conntrack.flows(family, Protocol::Udp, &mut |flow| {
        if frontends.contains(&flow.original.destination) {
            flows.insert(flow.id, *flow);
        }
    })?;
    flows.values().try_for_each(|flow| conntrack.delete(flow).map(drop))
}
