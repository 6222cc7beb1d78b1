//! The door to IPVS (generic netlink): virtual servers, their destinations, timeouts.
//!
//! | file | what it is |
//! |-|-|
//! | `virtual_server`, `flags`, `figures` | what there is in the table |
//! | `command` | what can be done to it, printed as ipvsadm commands |
//! | `codec` | both as netlink messages |
//! | `repair` | commands that the table refuses because it is ahead or behind |
//! | `probe` | which schedulers there are |
//! | `kernel`, `fake` | the kernel's table, and one in memory |

mod codec;
mod command;
mod error;
#[cfg(test)]
pub mod fake;
mod figures;
mod flags;
mod kernel;
mod probe;
mod repair;
#[cfg(test)]
mod tests;
mod virtual_server;

pub use command::Command;
pub use error::{Failure, IpvsError};
pub use figures::{Connections, Statistics, Timeouts, Version};
pub use flags::Flags;
pub use kernel::KernelIpvs;
pub use virtual_server::{Destination, ForwardingMethod, Service, VirtualServer};

/// The IPVS table of one network namespace.
pub trait Ipvs {
    /// `ipvsadm -Ln`: every virtual server of both families, in no order. Those that change meanwhile may be missing or come
    /// twice.
    fn services(&mut self, each: &mut dyn FnMut(&Service, &Statistics)) -> Result<(), IpvsError>;

    /// `ipvsadm -Ln -t ADDRESS:PORT`: one virtual server's destinations; none if it is not there.
    fn destinations(
        &mut self,
        of: &VirtualServer,
        each: &mut dyn FnMut(&Destination, &Connections, &Statistics),
    ) -> Result<(), IpvsError>;

    /// Carries commands out in order, many in one write, and all of them even where some fail
    /// ([`IpvsError::Refused`] says which).
    ///
    /// What was there before does not matter: adding what exists sets it, setting what is gone adds it, deleting what is
    /// gone is done.
    fn execute(&mut self, commands: &[Command]) -> Result<(), IpvsError>;

    /// `ipvsadm -Ln --timeout`
    fn timeouts(&mut self) -> Result<Timeouts, IpvsError>;

    /// `ipvsadm --set TCP TCP_FIN UDP`
    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError>;

    /// The first line of `ipvsadm -Ln`.
    fn version(&mut self) -> Result<Version, IpvsError>;

    /// Whether the kernel has a scheduler or can load it. There is no way to ask but to use it: a virtual server with an
    /// address that nobody has is there for a moment.
    fn has_scheduler(&mut self, name: &str) -> Result<bool, IpvsError>;
}
