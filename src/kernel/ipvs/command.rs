//! What can be done to the table, printed as the ipvsadm command that does it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::{Destination, Flags, ForwardingMethod, Service, VirtualServer};
use crate::model::Family;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    AddService(Service),
    SetService(Service),
    /// With its destinations.
    DeleteService(VirtualServer),
    AddDestination(VirtualServer, Destination),
    SetDestination(VirtualServer, Destination),
    DeleteDestination(VirtualServer, SocketAddr),
}

impl Command {
    pub fn server(&self) -> &VirtualServer {
        match self {
            Command::AddService(service) | Command::SetService(service) => &service.server,
            Command::DeleteService(server)
            | Command::AddDestination(server, _)
            | Command::SetDestination(server, _)
            | Command::DeleteDestination(server, _) => server,
        }
    }

    /// The destination that it is about, if it is not about the virtual server.
    pub fn destination(&self) -> Option<SocketAddr> {
        match self {
            Command::AddDestination(_, destination) | Command::SetDestination(_, destination) => {
                Some(destination.at())
            }
            Command::DeleteDestination(_, at) => Some(*at),
            _ => None,
        }
    }

    /// The scheduler that it needs.
    pub fn scheduler(&self) -> Option<&str> {
        match self {
            Command::AddService(service) | Command::SetService(service) => Some(&service.scheduler),
            _ => None,
        }
    }
}

/// The command line after `ipvsadm`: `-A -t 10.96.0.10:80 -s mh -b mh-port -p 10800`,
/// `-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1`.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::AddService(service) => write!(f, "-A {service}"),
            Command::SetService(service) => write!(f, "-E {service}"),
            Command::DeleteService(server) => write!(f, "-D {server}"),
            Command::AddDestination(server, destination) => write!(f, "-a {server} {destination}"),
            Command::SetDestination(server, destination) => write!(f, "-e {server} {destination}"),
            Command::DeleteDestination(server, at) => write!(f, "-d {server} -r {at}"),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -s {}", self.server, self.scheduler)?;
        let flags = scheduler_flags(self);
        if !flags.is_empty() {
            write!(f, " -b {}", flags.join(","))?;
        }
        if self.flags.contains(Flags::PERSISTENT) {
            write!(f, " -p {}", self.timeout)?;
        }
        match self.server.family() {
            family if self.prefix == family.bits() => {}
            Family::V4 => write!(f, " -M {}", Ipv4Addr::from_bits(ipv4_mask(self.prefix)))?,
            Family::V6 => write!(f, " -M {}", self.prefix)?,
        }
        f.write_str(if self.flags.contains(Flags::ONE_PACKET) { " -o" } else { "" })
    }
}

/// ipvsadm knows the flags of `sh` and `mh` by name and those of the others by number.
fn scheduler_flags(service: &Service) -> Vec<&'static str> {
    let names = match &*service.scheduler {
        "sh" => ["sh-fallback", "sh-port", "flag-3"],
        "mh" => ["mh-fallback", "mh-port", "flag-3"],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let flags = [Flags::SCHED_1, Flags::SCHED_2, Flags::SCHED_3];
    let set = flags.into_iter().zip(names).filter(|(flag, _)| service.flags.contains(*flag));
    set.map(|(_, name)| name).collect()
}

/// The netmask of a prefix length.
pub(super) fn ipv4_mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-r {} {} -w {}", self.at(), self.method, self.weight)?;
        if self.upper_threshold != 0 {
            write!(f, " -x {}", self.upper_threshold)?;
        }
        if self.lower_threshold != 0 {
            write!(f, " -y {}", self.lower_threshold)?;
        }
        Ok(())
    }
}

/// ipvsadm has options for three of them only.
impl fmt::Display for ForwardingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ForwardingMethod::Masquerade => "-m",
            ForwardingMethod::Local => "(local)",
            ForwardingMethod::Tunnel => "-i",
            ForwardingMethod::DirectRoute => "-g",
            ForwardingMethod::Bypass => "(bypass)",
        })
    }
}
