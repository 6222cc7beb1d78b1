//! The door to the routes between nodes: table `main`, one gateway, a protocol number of our own.
//!
//! ```text
//! ip route show table main proto 104
//! 10.244.2.0/24 via 172.18.0.3 dev eth0 metric 1104
//! ```
//!
//! The number tells our routes from everybody else's, who are never changed. The metric keeps ours apart from others to the
//! same network, which the kernel would take for the same route and replace: `NLM_F_REPLACE` does not look at protocols.

mod codec;
#[cfg(test)]
pub mod fake;
mod kernel;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::NetlinkError;
use crate::model::Family;

pub use kernel::KernelRoutes;
pub use watch::{Notice, RouteWatch};

/// Our number in `ip route show proto N`. 102 marks addresses of Services and 103 the pods of this node.
pub const ROUTE_PROTOCOL: u8 = 104;
/// Higher than the 1024 that the kernel gives IPv6 routes without a metric: whoever has a route of his own to the same
/// network has a reason for it, and it counts.
pub const METRIC: u32 = 1104;

#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    #[error("cannot reach the routing tables")]
    Open(#[source] NetlinkError),
    #[error("cannot list our {family} routes")]
    List { family: Family, source: NetlinkError },
    #[error("cannot change routes")]
    Change(#[source] NetlinkError),
    #[error("cannot ask for the way to {address}")]
    Ask { address: IpAddr, source: NetlinkError },
    #[error("cannot watch the routing tables")]
    Watch(#[source] io::Error),
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: IpAddr,
    /// The number of the interface.
    pub link: u32,
}

/// As `ip route` takes it, but for the interface, which has a number here.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {} dev #{}", self.destination, self.gateway, self.link)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteChange {
    /// Where there is none of our metric.
    Add(Route),
    /// In place of one of ours to the same network, without a moment in which there is none.
    Replace(Route),
    Remove(Route),
}

impl RouteChange {
    pub fn route(&self) -> Route {
        match self {
            RouteChange::Add(route) | RouteChange::Replace(route) | RouteChange::Remove(route) => *route,
        }
    }
}

impl fmt::Display for RouteChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self {
            RouteChange::Add(_) => "add",
            RouteChange::Replace(_) => "replace",
            RouteChange::Remove(_) => "del",
        };
        write!(f, "ip route {verb} {}", self.route())
    }
}

/// How packets of this node get to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Without anybody between, through the interface of this number.
    OnLink(u32),
    /// By way of a router.
    Gateway(IpAddr),
    /// It is this node's own.
    Local,
    Unreachable,
}

/// The route that packets to a network take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub protocol: u8,
}

/// A change that the kernel did not make.
#[derive(Debug)]
pub struct Refusal {
    pub change: RouteChange,
    pub source: NetlinkError,
}

/// The routes of one network namespace.
pub trait Routes {
    /// All of ours. There may be several to one network, if others made them so.
    fn list(&mut self, family: Family) -> Result<Vec<Route>, RoutesError>;

    /// Makes changes in order. Those that are refused are returned, the others are carried out; removing what is not there
    /// is done.
    fn change(&mut self, changes: &[RouteChange]) -> Result<Vec<Refusal>, RoutesError>;

    /// `ip route get ADDRESS`
    fn way(&mut self, address: IpAddr) -> Result<Way, RoutesError>;

    /// `ip route get fibmatch ADDRESS`, asked of the first host of a network. `None` where there is no route.
    fn chosen(&mut self, network: IpNet) -> Result<Option<Chosen>, RoutesError>;
}
