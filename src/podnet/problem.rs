//! What keeps the pods of a Node from being reached, in words and by name.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::claims::Clash;
use crate::model::Family;
use crate::sync::objects::Reason;

/// One network of a Node that has no direct route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub node: Arc<str>,
    pub network: IpNet,
    pub obstacle: Obstacle,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// An older Node has an overlapping network.
    Clash(Clash),
    NoAddress(Family),
    /// Not on a segment with this node.
    BehindGateway {
        address: IpAddr,
        gateway: IpAddr,
    },
    Unreachable(IpAddr),
    /// Another Node claims an address that this one has.
    OwnAddress(IpAddr),
    /// By the kernel, which says why.
    Refused(String),
    /// Somebody else's route to the same network counts.
    Preferred {
        protocol: u8,
    },
}

impl Problem {
    pub fn reason(&self) -> Reason {
        match self.obstacle {
            Obstacle::Clash(_) => Reason::PodCidrOverlap,
            Obstacle::Refused(_) => Reason::RouteRefused,
            Obstacle::Preferred { .. } => Reason::ForeignRoute,
            Obstacle::NoAddress(_)
            | Obstacle::BehindGateway { .. }
            | Obstacle::Unreachable(_)
            | Obstacle::OwnAddress(_) => Reason::NoDirectRoute,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { node, network, obstacle } = self;
        match obstacle {
            Obstacle::Clash(Clash { owner, owned }) => {
                write!(
                    f,
                    "pod CIDR {network} of node {node} overlaps {owned} of node {owner}, which is older and keeps it"
                )
            }
            Obstacle::Refused(why) => {
                write!(f, "the kernel refuses a route to pod CIDR {network} of node {node}: {why}")
            }
            Obstacle::Preferred { protocol } => write!(
                f,
                "packets to pod CIDR {network} of node {node} take a route that is not ours (protocol {protocol})"
            ),
            obstacle => {
                write!(f, "no direct route to pod CIDR {network} of node {node}: ")?;
                write_absence(f, obstacle)
            }
        }
    }
}

fn write_absence(f: &mut fmt::Formatter<'_>, obstacle: &Obstacle) -> fmt::Result {
    match obstacle {
        Obstacle::NoAddress(family) => write!(f, "it has no InternalIP of {family}"),
        Obstacle::BehindGateway { address, gateway } => {
            write!(
                f,
                "its InternalIP {address} is behind the gateway {gateway} and not on a segment with this node"
            )
        }
        Obstacle::Unreachable(address) => write!(f, "there is no way to its InternalIP {address}"),
        Obstacle::OwnAddress(address) => write!(f, "its InternalIP {address} is an address of this node"),
        _ => Ok(()),
    }
}
