//! Virtual addresses in memory, as strict as the kernel's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{AddressChange, AddressRefusal, Failures, VirtualAddressError, VirtualAddresses};
use crate::kernel::netlink::NetlinkError;
use crate::model::Family;

#[derive(Default)]
pub struct FakeVirtualAddresses {
    pub addresses: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Addresses that the node has for another reason.
    pub occupied: BTreeSet<IpAddr>,
    /// Addresses that are refused, with an errno.
    pub refuse: BTreeMap<IpAddr, i32>,
    pub disturbed: bool,
    /// Everything that was asked for, as text.
    pub commands: Vec<String>,
    /// How many of the next calls fail.
    pub failures: usize,
}

impl FakeVirtualAddresses {
    fn fail(&mut self) -> Result<(), NetlinkError> {
        if self.failures == 0 {
            return Ok(());
        }
        self.failures -= 1;
        Err(NetlinkError::NeverConsistent)
    }

    fn make(&mut self, family: Family, change: &AddressChange) -> Result<(), AddressRefusal> {
        if Family::of(change.address()) != family {
            return Err(AddressRefusal::OtherFamily(family));
        }
        if let Some(errno) = self.refuse.get(&change.address()) {
            let errno = std::io::Error::from_raw_os_error(*errno);
            return Err(AddressRefusal::Netlink(NetlinkError::Refused { errno, explanation: None }));
        }
        match change {
            AddressChange::Add { address, .. }
                if self.occupied.contains(address) && !self.addresses.contains_key(address) =>
            {
                return Err(AddressRefusal::Occupied);
            }
            AddressChange::Add { address, source } => self.addresses.insert(*address, *source),
            AddressChange::Remove(address) => self.addresses.remove(address),
        };
        Ok(())
    }
}

impl VirtualAddresses for FakeVirtualAddresses {
    fn list(&mut self, family: Family) -> Result<BTreeMap<IpAddr, Option<IpAddr>>, VirtualAddressError> {
        self.fail().map_err(|source| VirtualAddressError::List { family, source })?;
        let all = self.addresses.iter().map(|(address, source)| (*address, *source));
        Ok(all.filter(|(address, _)| Family::of(*address) == family).collect())
    }

    fn change(&mut self, family: Family, changes: &[AddressChange]) -> Result<(), VirtualAddressError> {
        self.fail().map_err(|source| VirtualAddressError::Change { family, source })?;
        let mut failures = Failures::default();
        for (index, change) in changes.iter().enumerate() {
            self.commands.push(change.to_string());
            if let Err(reason) = self.make(family, change) {
                failures.add(index, change.address(), change, reason);
            }
        }
        failures.into_result()
    }

    fn disturbed(&mut self) -> Result<bool, VirtualAddressError> {
        Ok(std::mem::take(&mut self.disturbed))
    }
}
