//! Routes without a kernel, which refuse what the kernel refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Chosen, ROUTE_PROTOCOL, Refusal, Route, RouteChange, Routes, RoutesError, Way};
use crate::kernel::netlink::NetlinkError;
use crate::model::Family;

/// A node on one segment.
#[derive(Clone, Debug, Default)]
pub struct FakeRoutes {
    /// Ours, by where they lead.
    pub ours: BTreeMap<IpNet, Route>,
    /// Of others to the same network: with our metric they stand in our way, without it they are preferred.
    pub with_our_metric: BTreeSet<IpNet>,
    pub preferred: BTreeSet<IpNet>,
    /// The networks of the node's links, by their numbers.
    pub links: BTreeMap<IpNet, u32>,
    pub addresses: BTreeSet<IpAddr>,
    pub router: Option<IpAddr>,
    /// All that was ever changed, in order.
    pub log: Vec<RouteChange>,
    /// How many more calls fail as a whole.
    pub failures: usize,
    /// How many ways were asked for.
    pub asked: usize,
}

impl FakeRoutes {
    pub fn with_link(network: &str, link: u32) -> Self {
        FakeRoutes { links: [(network.parse().unwrap(), link)].into(), ..FakeRoutes::default() }
    }

    fn attempt(&mut self) -> Result<(), NetlinkError> {
        match self.failures.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                self.failures = left;
                Err(refused(libc::ENOBUFS))
            }
        }
    }

    /// `fib_check_nh` and `ip6_route_check_nh`: a gateway is a neighbour.
    fn check_gateway(&self, route: &Route) -> Result<(), i32> {
        if Family::of(route.gateway) != Family::of(route.destination.addr()) {
            return Err(libc::EINVAL);
        }
        let family = Family::of(route.gateway);
        if !self.links.values().any(|link| *link == route.link) {
            return Err(if family == Family::V4 { libc::ENETUNREACH } else { libc::ENODEV });
        }
        match self.links.iter().any(|(net, link)| *link == route.link && net.contains(&route.gateway)) {
            true => Ok(()),
            false if family == Family::V4 => Err(libc::ENETUNREACH),
            false => Err(libc::EHOSTUNREACH),
        }
    }

    fn make(&mut self, change: &RouteChange) -> Result<(), i32> {
        let route = change.route();
        let before = self.ours.get(&route.destination).copied();
        match change {
            RouteChange::Add(_) => {
                self.check_gateway(&route)?;
                if before.is_some() || self.with_our_metric.contains(&route.destination) {
                    return Err(libc::EEXIST);
                }
                self.ours.insert(route.destination, route);
            }
            RouteChange::Replace(_) => {
                self.check_gateway(&route)?;
                if before.is_none() {
                    return Err(libc::ENOENT);
                }
                self.ours.insert(route.destination, route);
            }
            RouteChange::Remove(_) => {
                if before == Some(route) {
                    self.ours.remove(&route.destination);
                }
            }
        }
        Ok(())
    }
}

fn refused(errno: i32) -> NetlinkError {
    NetlinkError::Refused { errno: io::Error::from_raw_os_error(errno), explanation: None }
}

impl Routes for FakeRoutes {
    fn list(&mut self, family: Family) -> Result<Vec<Route>, RoutesError> {
        self.attempt().map_err(|source| RoutesError::List { family, source })?;
        Ok(self.ours.values().filter(|route| family.contains(&route.destination)).copied().collect())
    }

    fn change(&mut self, changes: &[RouteChange]) -> Result<Vec<Refusal>, RoutesError> {
        self.attempt().map_err(RoutesError::Change)?;
        let mut refusals = Vec::new();
        for change in changes {
            assert_eq!(change.route().destination, change.route().destination.trunc(), "EINVAL");
            self.log.push(*change);
            if let Err(errno) = self.make(change) {
                refusals.push(Refusal { change: *change, source: refused(errno) });
            }
        }
        Ok(refusals)
    }

    fn way(&mut self, address: IpAddr) -> Result<Way, RoutesError> {
        self.attempt().map_err(|source| RoutesError::Ask { address, source })?;
        self.asked += 1;
        if self.addresses.contains(&address) {
            return Ok(Way::Local);
        }
        let link = self.links.iter().find(|(network, _)| network.contains(&address));
        let router = self.router.filter(|router| Family::of(*router) == Family::of(address));
        Ok(match (link, router) {
            (Some((_, link)), _) => Way::OnLink(*link),
            (None, Some(router)) => Way::Gateway(router),
            (None, None) => Way::Unreachable,
        })
    }

    fn chosen(&mut self, network: IpNet) -> Result<Option<Chosen>, RoutesError> {
        if self.preferred.contains(&network) {
            let protocol = libc::RTPROT_STATIC;
            return Ok(Some(Chosen { destination: network, gateway: None, protocol }));
        }
        let ours = self.ours.get(&network);
        Ok(ours.map(|route| Chosen {
            destination: network,
            gateway: Some(route.gateway),
            protocol: ROUTE_PROTOCOL,
        }))
    }
}
