//! Taking everything of ours out again.

use super::base::{ADMISSION, REPLIES};
use super::doors::Doors;
use super::error::{Door, Error};
use super::held::{Held, Owner};
use super::names::{self, BYPASSES, ServiceMarks};
use super::observe::observe;
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
    remove_all_but_rules(doors, family, || Ok(remove_rules(rules)?))
}

/// Sets can go only when no rule asks them any more.
fn remove_all_but_rules(
    doors: &mut Doors,
    family: Family,
    rules: impl FnOnce() -> Result<(), Door>,
) -> Result<(), Error> {
    // Marks with another bit are known by the set that gives them.
    let held = observe(doors, family, ServiceMarks::new(0), None)?;
    let removed = remove_servers(doors, &held)
        .and_then(|()| remove_addresses(doors.addresses.as_mut(), family))
        .and_then(|()| rules())
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

/// What this mode left in a kernel that another mode works in now.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    pub family: Family,
}

impl Leftovers for Remains {
    fn remove(&mut self) -> Result<(), RemovalError> {
        let family = self.family;
        if has_sets(names::of_family(family))? {
            let addresses = Box::new(LocalRoutes::open(family)?);
            let (ipvs, sets) = (Box::new(KernelIpvs::open()?), Box::new(KernelSets::open()?));
            let mut doors = Doors { ipvs, sets, addresses };
            // The other chains have the names that the mode in use has, and are its own by now.
            remove_all_but_rules(&mut doors, family, || {
                let mut flavours = Programs::installed(family).into_iter();
                Ok(flavours.try_for_each(|mut rules| {
                    remove_chain(&mut rules, ADMISSION).and_then(|()| remove_chain(&mut rules, REPLIES))
                })?)
            })?;
        }
        if links::exists(DEVICE) {
            let mut device = DummyDevice::open(family)?;
            remove_addresses(&mut device, family)?;
            super::kube_proxy::remove_device_if_bare()?;
        }
        Ok(())
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
