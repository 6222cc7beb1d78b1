//! The kernel's table.

use netlink_sys::constants::NETLINK_GENERIC;

use super::repair::{self, Refusals};
use super::{
    Command, Connections, Destination, Ipvs, IpvsError, Service, Statistics, Timeouts, Version,
    VirtualServer, codec, probe,
};
use crate::kernel::netlink::generic::Family;
use crate::kernel::netlink::{Connection, NetlinkError, Request};

/// How many commands are messages at a time: of a first sync there may be hundreds of thousands.
const AT_ONCE: usize = 1024;

/// The IPVS table of the network namespace in which it was opened.
pub struct KernelIpvs {
    connection: Connection,
    family: Family,
    sent: u64,
}

impl KernelIpvs {
    /// The table of the network namespace of the calling thread. Loads the module `ip_vs` where it is missing.
    pub fn open() -> Result<Self, IpvsError> {
        let mut connection = Connection::open(NETLINK_GENERIC).map_err(IpvsError::Open)?;
        let mut find =
            || Family::find(&mut connection, codec::FAMILY, codec::VERSION).map_err(IpvsError::Open);
        let found = match find()? {
            Some(family) => Some(family),
            None => {
                load_module();
                find()?
            }
        };
        let family = found.ok_or(IpvsError::Missing)?;
        Ok(KernelIpvs { connection, family, sent: 0 })
    }

    /// How many commands were ever sent as messages, those that were tried again included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// As the kernel does it.
    fn attempt(&mut self, commands: &[Command]) -> Result<Refusals, NetlinkError> {
        let mut refusals = Vec::new();
        for (number, some) in commands.chunks(AT_ONCE).enumerate() {
            let requests: Vec<_> = some.iter().map(|command| codec::command(self.family, command)).collect();
            self.sent += requests.len() as u64;
            let refused = self.connection.execute_all(&requests)?;
            refusals.extend(refused.into_iter().map(|(at, error)| (number * AT_ONCE + at, error)));
        }
        Ok(refusals)
    }

    /// Asks for one thing.
    fn ask<T>(&mut self, request: Request, parse: fn(&[u8]) -> Option<T>) -> Result<T, NetlinkError> {
        let mut answer = None;
        self.connection.query(request, &mut |payload| answer = parse(payload))?;
        answer.ok_or(NetlinkError::Unintelligible)
    }
}

/// `modprobe ip_vs`. Whether it helped shows when the family is looked for again. The kernel does not load it by itself: the
/// module has no alias for its family (Linux 6.1).
fn load_module() {
    let _ = std::process::Command::new("modprobe").arg("ip_vs").output();
}

impl Ipvs for KernelIpvs {
    fn services(&mut self, each: &mut dyn FnMut(&Service, &Statistics)) -> Result<(), IpvsError> {
        let mut parse = |payload: &[u8]| {
            if let Some((service, statistics)) = codec::parse_service(payload) {
                each(&service, &statistics);
            }
        };
        let request = codec::list_services(self.family);
        self.connection.dump(request, &mut parse).map_err(IpvsError::ListServices)
    }

    fn destinations(
        &mut self,
        of: &VirtualServer,
        each: &mut dyn FnMut(&Destination, &Connections, &Statistics),
    ) -> Result<(), IpvsError> {
        let mut parse = |payload: &[u8]| {
            if let Some((destination, connections, statistics)) =
                codec::parse_destination(of.family(), payload)
            {
                each(&destination, &connections, &statistics);
            }
        };
        match self.connection.dump(codec::list_destinations(self.family, of), &mut parse) {
            Err(error) if error.refusal() == Some(libc::ESRCH) => Ok(()),
            result => result.map_err(|source| IpvsError::ListDestinations { of: *of, source }),
        }
    }

    fn execute(&mut self, commands: &[Command]) -> Result<(), IpvsError> {
        repair::execute(commands, &mut |commands| self.attempt(commands))
    }

    fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        self.ask(codec::timeouts(self.family), codec::parse_timeouts).map_err(IpvsError::Timeouts)
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError> {
        let request = codec::set_timeouts(self.family, timeouts);
        self.connection.execute(request).map_err(|source| IpvsError::SetTimeouts { timeouts, source })
    }

    fn version(&mut self) -> Result<Version, IpvsError> {
        self.ask(codec::version(self.family), codec::parse_version).map_err(IpvsError::Version)
    }

    fn has_scheduler(&mut self, name: &str) -> Result<bool, IpvsError> {
        probe::has_scheduler(name, &mut |commands| self.attempt(commands))
    }
}
