//! A kernel in memory, behind all four doors at once: any call to it can be made to fail.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use crate::kernel::ipset::fake::FakeSets;
use crate::kernel::ipset::{Change, Definition, Header, Member, Refusal, RefusedChange, SetError, Sets};
use crate::kernel::iptables::fake::Fake;
use crate::kernel::iptables::{Door, Error as RulesError, Input, Stamp, Table};
use crate::kernel::ipvs::fake::FakeIpvs;
use crate::kernel::ipvs::{
    Command, Connections, Destination, Ipvs, IpvsError, Service, Statistics, Timeouts, Version, VirtualServer,
};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::virtual_addresses::fake::FakeVirtualAddresses;
use crate::kernel::virtual_addresses::{AddressChange, VirtualAddressError, VirtualAddresses};
use crate::model::{Family, Scheduler};
use crate::modes::Mode;
use crate::modes::ipvs::{Doors, Ipvs as IpvsMode};

pub struct Kernel {
    pub ipvs: FakeIpvs,
    pub sets: FakeSets,
    pub addresses: FakeVirtualAddresses,
    pub rules: Fake,
    /// Calls of doors so far.
    pub calls: usize,
    /// The call that fails, having done a part of its work, and with which errno.
    pub fail: Option<(usize, i32)>,
    /// What listings of virtual servers leave out.
    pub unlisted: Option<VirtualServer>,
}

#[derive(Clone)]
pub struct Shared(Rc<RefCell<Kernel>>);

impl Shared {
    pub fn new(family: Family) -> Self {
        let schedulers = IpvsMode::<Shared>::SCHEDULERS.iter().copied().map(Scheduler::name);
        let ipvs = FakeIpvs { schedulers: schedulers.map(String::from).collect(), ..FakeIpvs::default() };
        let (sets, addresses) = (FakeSets::default(), FakeVirtualAddresses::default());
        let kernel =
            Kernel { ipvs, sets, addresses, rules: Fake::new(family), calls: 0, fail: None, unlisted: None };
        Shared(Rc::new(RefCell::new(kernel)))
    }

    pub fn doors(&self) -> Doors {
        Doors {
            ipvs: Box::new(self.clone()),
            sets: Box::new(self.clone()),
            addresses: Box::new(self.clone()),
        }
    }

    pub fn get(&self) -> RefMut<'_, Kernel> {
        self.0.borrow_mut()
    }

    /// The errno with which this call fails, if it does.
    fn call(&self) -> Option<i32> {
        let mut kernel = self.get();
        kernel.calls += 1;
        let calls = kernel.calls;
        kernel.fail.take_if(|(call, _)| *call == calls).map(|(_, errno)| errno)
    }

    /// Forgets what was written so far.
    pub fn start_counting(&self) {
        let mut kernel = self.get();
        kernel.ipvs.executed.clear();
        kernel.sets.commands.clear();
        kernel.addresses.commands.clear();
        kernel.rules.input.clear();
    }

    /// What was written since.
    pub fn written(&self) -> Vec<String> {
        let mut kernel = self.get();
        let mut written: Vec<_> = kernel.ipvs.take_executed();
        written.append(&mut kernel.sets.commands);
        written.append(&mut kernel.addresses.commands);
        written.extend(std::mem::take(&mut kernel.rules.input).lines().map(str::to_owned));
        written
    }
}

fn refused(errno: i32) -> NetlinkError {
    NetlinkError::Refused { errno: io::Error::from_raw_os_error(errno), explanation: None }
}

impl Ipvs for Shared {
    fn services(&mut self, each: &mut dyn FnMut(&Service, &Statistics)) -> Result<(), IpvsError> {
        match self.call() {
            Some(errno) => Err(IpvsError::ListServices(refused(errno))),
            None => {
                let unlisted = self.get().unlisted;
                self.get().ipvs.services(&mut |service, statistics| {
                    if unlisted != Some(service.server) {
                        each(service, statistics);
                    }
                })
            }
        }
    }

    fn destinations(
        &mut self,
        of: &VirtualServer,
        each: &mut dyn FnMut(&Destination, &Connections, &Statistics),
    ) -> Result<(), IpvsError> {
        match self.call() {
            Some(errno) => Err(IpvsError::ListDestinations { of: *of, source: refused(errno) }),
            None => self.get().ipvs.destinations(of, each),
        }
    }

    fn execute(&mut self, commands: &[Command]) -> Result<(), IpvsError> {
        let Some(errno) = self.call() else { return self.get().ipvs.execute(commands) };
        self.get().ipvs.execute(&commands[..commands.len() / 2])?;
        Err(IpvsError::Execute { count: commands.len(), source: refused(errno) })
    }

    fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        self.get().ipvs.timeouts()
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError> {
        self.get().ipvs.set_timeouts(timeouts)
    }

    fn version(&mut self) -> Result<Version, IpvsError> {
        self.get().ipvs.version()
    }

    fn has_scheduler(&mut self, name: &str) -> Result<bool, IpvsError> {
        self.get().ipvs.has_scheduler(name)
    }
}

impl Shared {
    fn set_command<T>(
        &self,
        command: &str,
        work: impl FnOnce(&mut FakeSets) -> Result<T, SetError>,
    ) -> Result<T, SetError> {
        match self.call() {
            Some(errno) => {
                let source = Refusal::Netlink(refused(errno));
                Err(SetError::Command { command: command.into(), source })
            }
            None => work(&mut self.get().sets),
        }
    }
}

impl Sets for Shared {
    fn headers(&mut self, prefix: &str) -> Result<Vec<Header>, SetError> {
        match self.call() {
            Some(errno) => Err(SetError::Headers(refused(errno))),
            None => self.get().sets.headers(prefix),
        }
    }

    fn members(&mut self, name: &str, each: &mut dyn FnMut(Member)) -> Result<(), SetError> {
        match self.call() {
            Some(errno) => Err(SetError::Members { set: name.into(), source: refused(errno) }),
            None => self.get().sets.members(name, each),
        }
    }

    fn create(&mut self, definition: &Definition) -> Result<(), SetError> {
        self.set_command("create", |sets| sets.create(definition))
    }

    fn destroy(&mut self, name: &str) -> Result<(), SetError> {
        self.set_command("destroy", |sets| sets.destroy(name))
    }

    fn swap(&mut self, one: &str, other: &str) -> Result<(), SetError> {
        self.set_command("swap", |sets| sets.swap(one, other))
    }

    fn flush(&mut self, name: &str) -> Result<(), SetError> {
        self.set_command("flush", |sets| sets.flush(name))
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), SetError> {
        let Some(errno) = self.call() else { return self.get().sets.change(changes) };
        let (done, lost) = changes.split_at(changes.len() / 2);
        self.get().sets.change(done)?;
        let failure = |(index, change): (usize, &Change)| RefusedChange {
            index: done.len() + index,
            change: change.to_string(),
            reason: Refusal::Netlink(refused(errno)),
        };
        Err(SetError::Refused { failures: lost.iter().enumerate().map(failure).collect() })
    }
}

impl VirtualAddresses for Shared {
    fn list(
        &mut self,
        family: Family,
    ) -> Result<BTreeMap<std::net::IpAddr, Option<std::net::IpAddr>>, VirtualAddressError> {
        match self.call() {
            Some(errno) => Err(VirtualAddressError::List { family, source: refused(errno) }),
            None => self.get().addresses.list(family),
        }
    }

    fn change(&mut self, family: Family, changes: &[AddressChange]) -> Result<(), VirtualAddressError> {
        let Some(errno) = self.call() else { return self.get().addresses.change(family, changes) };
        self.get().addresses.change(family, &changes[..changes.len() / 2])?;
        Err(VirtualAddressError::Change { family, source: refused(errno) })
    }

    fn disturbed(&mut self) -> Result<bool, VirtualAddressError> {
        self.get().addresses.disturbed()
    }
}

impl Door for Shared {
    fn family(&self) -> Family {
        self.get().rules.family()
    }

    fn save(&mut self, table: Table, line: &mut dyn FnMut(&str)) -> Result<(), RulesError> {
        match self.call() {
            Some(errno) => {
                Err(RulesError::Run { program: "iptables-save", source: io::Error::from_raw_os_error(errno) })
            }
            None => self.get().rules.save(table, line),
        }
    }

    fn restore(&mut self, input: &dyn Input) -> Result<(), RulesError> {
        if let Some(errno) = self.call() {
            let source = io::Error::from_raw_os_error(errno);
            return Err(RulesError::Run { program: "iptables-restore", source });
        }
        let mut kernel = self.get();
        kernel.rules.restore(input)?;
        kernel.note_references();
        Ok(())
    }

    fn stamp(&mut self) -> Result<Stamp, RulesError> {
        self.get().rules.stamp()
    }

    fn fingerprint(&mut self, chains: &dyn Fn(&str) -> bool) -> Result<Option<u64>, RulesError> {
        self.get().rules.fingerprint(chains)
    }
}

impl Kernel {
    /// Rules refer to sets, which then have to be there and cannot be destroyed.
    fn note_references(&mut self) {
        self.sets.sets.values_mut().for_each(|set| set.references = 0);
        for rule in self.rules.tables.values().flat_map(BTreeMap::values).flatten() {
            let words: Vec<_> = rule.split(' ').collect();
            for pair in words.windows(2).filter(|pair| matches!(pair[0], "--match-set" | "--map-set")) {
                let set = self.sets.sets.get_mut(pair[1]);
                set.unwrap_or_else(|| panic!("no set {}", pair[1])).references += 1;
            }
        }
    }
}

/// All that decides about new connections: destinations that only drain are left out.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub servers: BTreeSet<String>,
    pub sets: BTreeMap<String, Vec<String>>,
    pub addresses: BTreeMap<std::net::IpAddr, Option<std::net::IpAddr>>,
    pub rules: BTreeMap<Table, BTreeMap<String, Vec<String>>>,
}

impl Kernel {
    pub fn state(&self) -> State {
        let mut servers = BTreeSet::new();
        for (at, entry) in &self.ipvs.entries {
            let serving = entry.destinations.values().filter(|(to, _)| to.weight != 0);
            let lines: Vec<_> =
                serving.map(|(to, _)| Command::AddDestination(*at, *to).to_string()).collect();
            if !lines.is_empty() {
                servers.insert(Command::AddService(entry.service.clone()).to_string());
                servers.extend(lines);
            }
        }
        let sets = self.sets.sets.iter();
        State {
            servers,
            sets: sets.map(|(name, set)| (set.definition.to_string(), self.sets.list(name))).collect(),
            addresses: self.addresses.addresses.clone(),
            rules: self.rules.tables.clone(),
        }
    }
}
