//! Taking everything of ours out again.

use std::time::{Duration, Instant};

use super::base::{ADMISSION, REPLIES};
use super::departure::{Departure, Staying};
use super::doors::Doors;
use super::error::{Door, Error};
use super::held::{Held, Owner};
use super::names::{self, BYPASSES, ServiceMarks};
use super::observe::observe;
use crate::kernel::conntrack::KernelConntrack;
use crate::kernel::ipset::{KernelSets, SetError, Sets};
use crate::kernel::iptables::{self, Programs};
use crate::kernel::ipvs::{Command, KernelIpvs, VirtualServer};
use crate::kernel::links;
use crate::kernel::virtual_addresses::{AddressChange, DEVICE, DummyDevice, LocalRoutes, VirtualAddresses};
use crate::model::Family;
use crate::modes::iptables::{remove_chain, remove_ours as remove_rules};
use crate::modes::{Leftovers, RemovalError};

/// Removes everything of one family that this mode may have created, and nothing else.
pub fn remove_ours(rules: &mut impl iptables::Door, doors: &mut Doors, family: Family) -> Result<(), Error> {
    // Marks with another bit are known by the set that gives them.
    let held = observe(doors, family, ServiceMarks::new(0), None)?;
    // Sets can go only when no rule asks them any more.
    let removed = remove_servers(doors, &held)
        .and_then(|()| remove_addresses(doors.addresses.as_mut(), family))
        .and_then(|()| Ok(remove_rules(rules)?))
        .and_then(|()| remove_sets(doors.sets.as_mut(), family));
    removed.map_err(Error::Cleanup)
}

fn remove_servers(doors: &mut Doors, held: &Held) -> Result<(), Door> {
    // Whatever the masquerade bit was.
    let is_bypass =
        |at: &VirtualServer| matches!(at, VirtualServer::Mark { mark, .. } if BYPASSES.contains(mark));
    let ours = held.servers.iter().filter(|(at, server)| server.owner == Owner::Us || is_bypass(at));
    let commands: Vec<_> = ours.map(|(at, _)| Command::DeleteService(*at)).collect();
    Ok(doors.ipvs.execute(&commands)?)
}

pub(super) fn remove_addresses(addresses: &mut dyn VirtualAddresses, family: Family) -> Result<(), Door> {
    let all = addresses.list(family)?;
    let changes: Vec<_> = all.into_keys().map(AddressChange::Remove).collect();
    Ok(addresses.change(family, &changes)?)
}

fn remove_sets(sets: &mut dyn Sets, family: Family) -> Result<(), Door> {
    let headers = sets.headers(names::of_family(family))?;
    Ok(destroy_all(sets, headers.iter().map(|header| &*header.name))?)
}

/// Goes on after an error, as a rule of somebody else may keep any of them. Returns the first.
pub(super) fn destroy_all<'a>(
    sets: &mut dyn Sets,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), SetError> {
    let results: Vec<_> = names.map(|name| sets.destroy(name)).collect();
    results.into_iter().collect()
}

/// What this mode left in a kernel that another mode works in now. Connections have some time to end.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    family: Family,
    limit: Duration,
    departure: Option<Departure>,
}

impl Remains {
    /// `limit` is how long connections are waited for at most.
    pub fn new(family: Family, limit: Duration) -> Self {
        Remains { family, limit, departure: None }
    }

    fn depart(&mut self, now: Instant) -> Result<Staying, RemovalError> {
        let family = self.family;
        let addresses = Box::new(LocalRoutes::open(family)?);
        let (ipvs, sets) = (Box::new(KernelIpvs::open()?), Box::new(KernelSets::open()?));
        let mut doors = Doors { ipvs, sets, addresses };
        if self.departure.is_none() {
            remove_guards(family)?;
        }
        let departure = self.departure.get_or_insert_with(|| Departure::new(self.limit, now));
        departure.set_next_look(now);
        let staying = departure.step(&mut doors, &mut KernelConntrack::open()?, family, now)?;
        if staying.is_nothing() {
            self.departure = None;
            remove_sets(doors.sets.as_mut(), family)?;
        }
        Ok(staying)
    }
}

/// Who is dropped is the other mode's to say. All other chains have the names that it has, and are its own by now.
fn remove_guards(family: Family) -> Result<(), iptables::Error> {
    let mut flavours = Programs::installed(family).into_iter();
    flavours.try_for_each(|mut rules| {
        remove_chain(&mut rules, ADMISSION).and_then(|()| remove_chain(&mut rules, REPLIES))
    })
}

impl Leftovers for Remains {
    fn remove(&mut self, now: Instant) -> Result<(), RemovalError> {
        let mut staying = Staying::default();
        if has_sets(names::of_family(self.family))? {
            staying = self.depart(now)?;
        }
        if links::exists(DEVICE) {
            staying.release(&mut DummyDevice::open(self.family)?, self.family)?;
            if staying.is_nothing() {
                super::kube_proxy::remove_device_if_bare()?;
            }
        }
        Ok(())
    }

    fn wake(&self) -> Option<Instant> {
        self.departure.map(|departure| departure.look())
    }
}

/// Whether there are sets whose names begin so. A kernel that has no sets has none of ours.
pub(super) fn has_sets(prefix: &str) -> Result<bool, SetError> {
    let found = KernelSets::open().and_then(|mut sets| sets.headers(prefix));
    match found {
        Err(SetError::Headers(error)) if error.refusal().is_some() => Ok(false),
        found => Ok(!found?.is_empty()),
    }
}
