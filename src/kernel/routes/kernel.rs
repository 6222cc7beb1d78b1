//! The real door.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_sys::constants::NETLINK_ROUTE;

use super::codec;
use super::{Chosen, Refusal, Route, RouteChange, RouteWatch, Routes, RoutesError, Way};
use crate::kernel::netlink::{Connection, NetlinkError, Request};
use crate::model::Family;

/// The routing tables of the network namespace in which it was opened.
pub struct KernelRoutes {
    connection: Connection,
}

impl KernelRoutes {
    pub fn open() -> Result<Self, RoutesError> {
        let mut connection = Connection::open(NETLINK_ROUTE).map_err(RoutesError::Open)?;
        connection.filter_dumps();
        Ok(KernelRoutes { connection })
    }

    /// Hears of what is not done through this door. What changes from now on will be told, so list afterwards.
    pub fn watch(&self) -> Result<RouteWatch, RoutesError> {
        RouteWatch::open(&self.connection).map_err(RoutesError::Watch)
    }

    /// The one route that answers a request, `None` where the kernel knows none.
    fn get(&mut self, address: IpAddr, request: Request) -> Result<Option<codec::Told>, RoutesError> {
        let mut told = None;
        match self.connection.query(request, &mut |payload| told = codec::parse(payload)) {
            Err(error) if is_no_route(&error) => Ok(None),
            result => {
                result.map_err(|source| RoutesError::Ask { address, source })?;
                Ok(told)
            }
        }
    }
}

/// What `fib_lookup` says for a lack of routes, and for routes that prohibit (`EACCES`) or swallow (`EINVAL`).
fn is_no_route(error: &NetlinkError) -> bool {
    let words = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::ENETDOWN];
    error.refusal().is_some_and(|errno| words.contains(&errno))
}

impl Routes for KernelRoutes {
    fn list(&mut self, family: Family) -> Result<Vec<Route>, RoutesError> {
        let mut routes = Vec::new();
        // A kernel without IPv6 takes a request for its routes as one for those of all families.
        let mut note = |payload: &[u8]| {
            let ours = codec::parse(payload).and_then(|told| told.ours());
            routes.extend(ours.filter(|route| family.contains(&route.destination)));
        };
        match self.connection.dump(codec::list(family), &mut note) {
            // There is no table `main` before there is a route in it.
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            result => result.map_err(|source| RoutesError::List { family, source })?,
        }
        routes.sort_unstable();
        routes.dedup();
        Ok(routes)
    }

    fn change(&mut self, changes: &[RouteChange]) -> Result<Vec<Refusal>, RoutesError> {
        let requests: Vec<Request> = changes.iter().map(codec::change).collect();
        let refused = self.connection.execute_all(&requests).map_err(RoutesError::Change)?;
        let refusals = refused.into_iter().map(|(index, source)| Refusal { change: changes[index], source });
        Ok(refusals.filter(|refusal| !is_done(refusal)).collect())
    }

    fn way(&mut self, address: IpAddr) -> Result<Way, RoutesError> {
        let told = self.get(address, codec::way_to(address))?;
        Ok(told.map_or(Way::Unreachable, |told| told.way()))
    }

    fn chosen(&mut self, network: IpNet) -> Result<Option<Chosen>, RoutesError> {
        let host = network.hosts().next().unwrap_or(network.addr());
        Ok(self.get(host, codec::route_of(host))?.map(|told| told.chosen()))
    }
}

/// A route that is gone already is removed.
fn is_done(refusal: &Refusal) -> bool {
    let is_gone = matches!(refusal.source.refusal(), Some(libc::ESRCH | libc::ENOENT));
    matches!(refusal.change, RouteChange::Remove(_)) && is_gone
}
