//! An IPVS table in memory, which refuses what the kernel refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::repair::{self, Refusals};
use super::{
    Command, Connections, Destination, Ipvs, IpvsError, Service, Statistics, Timeouts, Version,
    VirtualServer, probe,
};
use crate::kernel::netlink::NetlinkError;
use crate::model::Family;

/// A virtual server of the fake's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub service: Service,
    /// With the connections that a test gave them.
    pub destinations: BTreeMap<SocketAddr, (Destination, Connections)>,
}

pub struct FakeIpvs {
    pub entries: BTreeMap<VirtualServer, Entry>,
    /// Those that the kernel has: `rr`, `wrr`, `lc`, `wlc`, `sh`, `mh` unless a test says otherwise.
    pub schedulers: BTreeSet<String>,
    /// What `execute` was asked for, in order, whatever became of it.
    pub executed: Vec<Command>,
    /// The next operation is refused with this errno.
    pub fail_next: Option<i32>,
    /// Commands, as they print, that are always refused with an errno.
    pub refuse: BTreeMap<String, i32>,
    pub timeouts: Timeouts,
}

impl Default for FakeIpvs {
    fn default() -> Self {
        FakeIpvs {
            entries: BTreeMap::new(),
            schedulers: ["rr", "wrr", "lc", "wlc", "sh", "mh"].map(String::from).into(),
            executed: Vec::new(),
            fail_next: None,
            refuse: BTreeMap::new(),
            timeouts: Timeouts { tcp: 900, tcp_fin: 120, udp: 300 },
        }
    }
}

impl FakeIpvs {
    /// Gives a destination connections. It has to be there.
    pub fn connect(&mut self, server: &VirtualServer, at: SocketAddr, connections: Connections) {
        let entry = self.entries.get_mut(server).expect("a virtual server");
        entry.destinations.get_mut(&at).expect("a destination").1 = connections;
    }

    /// The table as `ipvsadm-save -n` prints it, sorted.
    pub fn saved(&self) -> Vec<String> {
        let lines = self.entries.values().flat_map(|entry| {
            let server = entry.service.server;
            let destinations = entry.destinations.values();
            let destinations =
                destinations.map(move |(to, _)| Command::AddDestination(server, *to).to_string());
            std::iter::once(Command::AddService(entry.service.clone()).to_string()).chain(destinations)
        });
        lines.collect()
    }

    /// What was executed since this was last asked, as text.
    pub fn take_executed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.executed).iter().map(Command::to_string).collect()
    }

    fn attempt(&mut self, commands: &[Command]) -> Refusals {
        let results = commands.iter().enumerate().map(|(at, command)| (at, self.carry_out(command)));
        results.filter_map(|(at, result)| Some((at, refused(result.err()?)))).collect()
    }

    fn carry_out(&mut self, command: &Command) -> Result<(), i32> {
        self.fail_if_told()?;
        self.refuse.get(&command.to_string()).map_or(Ok(()), |errno| Err(*errno))?;
        match command {
            Command::AddService(service) => self.add_service(service),
            Command::SetService(service) => {
                self.entry(&service.server)?;
                self.accept(service)?;
                self.entry(&service.server)?.service = service.clone();
                Ok(())
            }
            Command::DeleteService(server) => self.entries.remove(server).map(drop).ok_or(libc::ESRCH),
            Command::AddDestination(server, to) => self.add_destination(server, *to),
            Command::SetDestination(server, to) => {
                let destinations = &mut self.accepting(server, to)?.destinations;
                destinations.get_mut(&to.at()).ok_or(libc::ENOENT)?.0 = *to;
                Ok(())
            }
            Command::DeleteDestination(server, at) => {
                self.entry(server)?.destinations.remove(at).map(drop).ok_or(libc::ENOENT)
            }
        }
    }

    fn fail_if_told(&mut self) -> Result<(), i32> {
        self.fail_next.take().map_or(Ok(()), Err)
    }

    fn entry(&mut self, server: &VirtualServer) -> Result<&mut Entry, i32> {
        self.entries.get_mut(server).ok_or(libc::ESRCH)
    }

    fn accept(&self, service: &Service) -> Result<(), i32> {
        let longest = service.server.family().bits();
        match () {
            () if service.scheduler.len() > 15 => Err(libc::EINVAL),
            () if !self.schedulers.contains(&*service.scheduler) => Err(libc::ENOENT),
            () if service.prefix > longest => Err(libc::EINVAL),
            () if service.prefix == 0 && longest == 128 => Err(libc::EINVAL),
            () => Ok(()),
        }
    }

    fn add_service(&mut self, service: &Service) -> Result<(), i32> {
        if self.entries.contains_key(&service.server) {
            return Err(libc::EEXIST);
        }
        self.accept(service)?;
        let entry = Entry { service: service.clone(), destinations: BTreeMap::new() };
        self.entries.insert(service.server, entry);
        Ok(())
    }

    fn add_destination(&mut self, server: &VirtualServer, to: Destination) -> Result<(), i32> {
        let destinations = &mut self.accepting(server, &to)?.destinations;
        match () {
            () if destinations.contains_key(&to.at()) => Err(libc::EEXIST),
            () if !is_unicast(to.address) => Err(libc::EINVAL),
            () => {
                destinations.insert(to.at(), (to, Connections::default()));
                Ok(())
            }
        }
    }

    /// A virtual server that takes such a destination.
    fn accepting(&mut self, server: &VirtualServer, to: &Destination) -> Result<&mut Entry, i32> {
        let entry = self.entry(server)?;
        match () {
            () if Family::of(to.address) != server.family() => Err(libc::EINVAL),
            () if to.lower_threshold > to.upper_threshold => Err(libc::ERANGE),
            () if i32::try_from(to.weight).is_err() => Err(libc::ERANGE),
            () => Ok(entry),
        }
    }

    fn asked<T>(&mut self, answer: T) -> Result<T, NetlinkError> {
        self.fail_if_told().map_err(refused)?;
        Ok(answer)
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

fn refused(errno: i32) -> NetlinkError {
    NetlinkError::Refused { errno: io::Error::from_raw_os_error(errno), explanation: None }
}

impl Ipvs for FakeIpvs {
    fn services(&mut self, each: &mut dyn FnMut(&Service, &Statistics)) -> Result<(), IpvsError> {
        self.asked(()).map_err(IpvsError::ListServices)?;
        self.entries.values().for_each(|entry| each(&entry.service, &Statistics::default()));
        Ok(())
    }

    fn destinations(
        &mut self,
        of: &VirtualServer,
        each: &mut dyn FnMut(&Destination, &Connections, &Statistics),
    ) -> Result<(), IpvsError> {
        self.asked(()).map_err(|source| IpvsError::ListDestinations { of: *of, source })?;
        let destinations = self.entries.get(of).into_iter().flat_map(|entry| entry.destinations.values());
        destinations
            .for_each(|(destination, connections)| each(destination, connections, &Statistics::default()));
        Ok(())
    }

    fn execute(&mut self, commands: &[Command]) -> Result<(), IpvsError> {
        self.executed.extend_from_slice(commands);
        repair::execute(commands, &mut |commands| Ok(self.attempt(commands)))
    }

    fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        self.asked(self.timeouts).map_err(IpvsError::Timeouts)
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError> {
        self.asked(()).map_err(|source| IpvsError::SetTimeouts { timeouts, source })?;
        let keep = |new, old| if new == 0 { old } else { new };
        self.timeouts = Timeouts {
            tcp: keep(timeouts.tcp, self.timeouts.tcp),
            tcp_fin: keep(timeouts.tcp_fin, self.timeouts.tcp_fin),
            udp: keep(timeouts.udp, self.timeouts.udp),
        };
        Ok(())
    }

    fn version(&mut self) -> Result<Version, IpvsError> {
        let version = Version { major: 1, minor: 2, patch: 1, connection_table_size: 4096 };
        self.asked(version).map_err(IpvsError::Version)
    }

    fn has_scheduler(&mut self, name: &str) -> Result<bool, IpvsError> {
        probe::has_scheduler(name, &mut |commands| Ok(self.attempt(commands)))
    }
}
