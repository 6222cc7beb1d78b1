//! Carrying a plan out, step by step.

use std::net::IpAddr;

use super::error::{Door, Error};
use super::plan::{Owners, Plan, Step};
use super::skeleton::Skeleton;
use super::work::{AT_ONCE, Work};
use super::{Doors, Occupied};
use crate::kernel::ipset::{Change, Element, replace};
use crate::kernel::iptables;
use crate::kernel::ipvs::{Ipvs, VirtualServer};
use crate::kernel::virtual_addresses::{AddressChange, AddressRefusal, RefusedAddress, VirtualAddressError};
use crate::model::{Protocol, ServicePortName};

/// Carries out the steps of a plan up to the first that fails.
pub fn carry_out<D: iptables::Door>(
    plan: &mut Plan,
    doors: &mut Doors,
    skeleton: &mut Skeleton<D>,
    occupied: &mut Occupied,
) -> Result<(), Error> {
    for step in std::mem::take(&mut plan.steps) {
        match &step {
            Step::Create(definition) => doors.sets.create(definition).map_err(Door::from),
            Step::Replace(definition, members) => {
                replace(doors.sets.as_mut(), definition, members).map_err(Door::from)
            }
            Step::Sets(changes) => doors.sets.change(changes).map_err(Door::from),
            Step::Servers(work) => {
                execute(doors.ipvs.as_mut(), work, plan)?;
                continue;
            }
            Step::Rules(rules) => skeleton.apply(rules).map_err(Door::from),
            Step::Addresses(changes) => {
                let changed = doors.addresses.change(plan.family, changes);
                taken(changed, changes, occupied).map_err(Door::from)
            }
        }
        .map_err(|error| blame(error, |index| step.owner(index, &plan.owners)))?;
    }
    Ok(())
}

/// A part of the commands at a time, up to the first part of which any is refused.
fn execute(ipvs: &mut dyn Ipvs, work: &[Work], plan: &Plan) -> Result<(), Error> {
    let mut commands = work.iter().flat_map(|work| work.commands(&plan.outcome));
    loop {
        let part: Vec<_> = commands.by_ref().take(AT_ONCE).collect();
        if part.is_empty() {
            return Ok(());
        }
        let owner = |index: usize| plan.owners.get(part.get(index)?.server());
        ipvs.execute(&part).map_err(|error| blame(error.into(), owner))?;
    }
}

/// `owner` is whom a command of this number is for.
fn blame<'a>(error: Door, owner: impl FnOnce(usize) -> Option<&'a ServicePortName>) -> Error {
    let culprit = error.refused().and_then(owner);
    Error::Apply { culprit: culprit.cloned().map(Box::new), source: error }
}

/// That the node has an address for another reason is no failure: it takes packets to it, which is all that is wanted.
pub fn taken(
    changed: Result<(), VirtualAddressError>,
    changes: &[AddressChange],
    occupied: &mut Occupied,
) -> Result<(), VirtualAddressError> {
    let is_occupied = |failure: &RefusedAddress| matches!(failure.reason, AddressRefusal::Occupied);
    match changed {
        Err(VirtualAddressError::Refused { failures }) if failures.iter().all(is_occupied) => {
            for failure in failures {
                if let Some(AddressChange::Add { address, source }) = changes.get(failure.index) {
                    occupied.insert(*address, *source);
                }
            }
            Ok(())
        }
        changed => changed,
    }
}

impl Step {
    /// Whom one of its commands is for. Of several at a virtual address, any.
    fn owner<'a>(&self, index: usize, owners: &'a Owners) -> Option<&'a ServicePortName> {
        match self {
            Step::Sets(changes) => owners.get(&place_of(changes.get(index)?)?),
            Step::Addresses(changes) => owner_at(changes.get(index)?.address(), owners),
            Step::Create(_) | Step::Replace(..) | Step::Rules(_) | Step::Servers(_) => None,
        }
    }
}

fn owner_at(address: IpAddr, owners: &Owners) -> Option<&ServicePortName> {
    let first = VirtualServer::Address { address, protocol: Protocol::Tcp, port: 0 };
    let is_there =
        |at: &VirtualServer| matches!(at, VirtualServer::Address { address: found, .. } if *found == address);
    owners.range(first..).next().filter(|(at, _)| is_there(at)).map(|(_, name)| name)
}

fn place_of(change: &Change) -> Option<VirtualServer> {
    let element = match change {
        Change::Add { member, .. } => member.element,
        Change::Remove { element, .. } => *element,
    };
    match element {
        Element::IpPort(address, protocol, port) | Element::IpPortNet(address, protocol, port, _) => {
            Some(VirtualServer::Address { address, protocol, port })
        }
        Element::Ip(_) | Element::NetNet(..) | Element::Port(_) => None,
    }
}
