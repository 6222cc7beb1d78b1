//! Taking everything out again: what is ours, and what kube-proxy's IPVS mode left.

use super::doors::Doors;
use super::error::{Door, Error};
use super::held::{Held, Owner};
use super::names::{self, ServiceMarks};
use super::observe::observe;
use crate::kernel::ipset::Sets;
use crate::kernel::iptables;
use crate::kernel::ipvs::Command;
use crate::kernel::virtual_addresses::AddressChange;
use crate::model::Family;

/// Removes everything of one family that this mode may have created, and nothing else.
pub fn remove_ours(rules: &mut impl iptables::Door, doors: &mut Doors, family: Family) -> Result<(), Error> {
    // Marks with another bit are known by the set that gives them.
    let held = observe(doors, family, ServiceMarks::new(0))?;
    remove_servers(doors, &held).map_err(Error::Cleanup)?;
    let addresses: Vec<_> = held.addresses.keys().copied().map(AddressChange::Remove).collect();
    doors.addresses.change(family, &addresses).map_err(Door::from).map_err(Error::Cleanup)?;
    crate::modes::iptables::remove_ours(rules).map_err(Door::from).map_err(Error::Cleanup)?;
    remove_sets(doors.sets.as_mut(), family).map_err(Error::Cleanup)
}

fn remove_servers(doors: &mut Doors, held: &Held) -> Result<(), Door> {
    let ours = held.servers.iter().filter(|(_, server)| server.owner == Owner::Us);
    let commands: Vec<_> = ours.map(|(at, _)| Command::DeleteService(*at)).collect();
    Ok(doors.ipvs.execute(&commands)?)
}

/// Rules that ask them must have gone before.
fn remove_sets(sets: &mut dyn Sets, family: Family) -> Result<(), Door> {
    let prefix = match family {
        Family::V4 => "FERRO-4-",
        Family::V6 => "FERRO-6-",
    };
    for header in sets.headers(names::OURS)? {
        if header.name.starts_with(prefix) {
            sets.destroy(&header.name)?;
        }
    }
    Ok(())
}
