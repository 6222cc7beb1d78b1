//! Which packets the kernel gives to this process, which it refuses and which it drops: what has to be in the sets for one
//! frontend or one address. How the kernel is told is up to [`nftables`] or [`iptables`].

mod difference;
pub mod iptables;
mod members;
pub mod nftables;

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Scope;
use super::error::Error;
use crate::kernel::alarm::Ring;
use crate::model::{
    Destination, Family, Frontend, FrontendKey, Protocol, ServicePort, ServiceTable, Verdict,
};
use crate::modes::Drift;

/// By what packets come to this process, for one address family. The methods are those of [`Mode`](crate::modes::Mode).
pub trait Capture {
    type Plan: fmt::Display;

    fn observe(&mut self) -> Result<(), Error>;

    /// What is held is compared as far as the scope says, or wholly where little is known.
    fn plan(&self, want: &ServiceTable, scope: Scope) -> Self::Plan;

    fn operations(plan: &Self::Plan) -> usize;

    fn apply(&mut self, plan: Self::Plan) -> Result<(), Error>;

    fn drift(&mut self) -> Result<Drift, Error>;

    fn alert(&mut self, _ring: Ring) -> io::Result<()> {
        Ok(())
    }

    fn cleanup(&mut self) -> Result<(), Error>;
}

/// The sets: each answers one question about a packet, so that the rules need not know any Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Frontends whose packets are for this process.
    Captured,
    /// Frontends that only [`SourceRanges`](Set::SourceRanges) may use.
    Guarded,
    SourceRanges,
    /// Policy Local without an endpoint here.
    Drop,
    /// The same, except for clients of this node.
    DropOutside,
    /// Without endpoints, at an address that the node has for other reasons too.
    Reject,
    /// Addresses that are there for Services only: what is not served there is refused.
    VirtualIps,
}

/// What is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    Place(Set, FrontendKey),
    /// Clients that may use a guarded frontend.
    Range(FrontendKey, IpNet),
    VirtualIp(IpAddr),
}

/// The sets that have one element for a frontend.
pub const OF_PLACES: [Set; 5] = [Set::Captured, Set::Guarded, Set::Drop, Set::DropOutside, Set::Reject];

/// What a frontend has in the sets. Nothing, if it is nobody's or of a protocol that this mode does not speak.
pub fn of_place(table: &ServiceTable, place: FrontendKey) -> Vec<Member> {
    let owner = table.frontends().get(&place).filter(|port| port.name.protocol != Protocol::Sctp);
    let found = owner.and_then(|port| port.frontend(&place).map(|frontend| (port, frontend)));
    let Some((port, frontend)) = found else { return Vec::new() };
    let mut members: Vec<Member> =
        sets(table, port, frontend, place).map(|set| Member::Place(set, place)).collect();
    // A Service without endpoints has nothing to guard: everybody is told so.
    if let Some(sources) = port.admits(frontend).filter(|_| port.external != Verdict::Reject) {
        guard(&mut members, place, sources, table.family());
    }
    members
}

fn sets(
    table: &ServiceTable,
    port: &ServicePort,
    frontend: &Frontend,
    place: FrontendKey,
) -> impl Iterator<Item = Set> {
    let short_circuit = !matches!(frontend, Frontend::ClusterIp(_)) && port.short_circuit();
    let is_virtual = match place.destination {
        Destination::Address(address) => table.is_virtual(address),
        Destination::Node => false,
    };
    let (captured, other) = match port.verdict(frontend) {
        Verdict::Forward(_) => (true, None),
        Verdict::Drop if short_circuit => (true, Some(Set::DropOutside)),
        Verdict::Drop => (false, Some(Set::Drop)),
        // At a virtual address, what is not served is refused anyway.
        Verdict::Reject => (false, (!is_virtual).then_some(Set::Reject)),
    };
    captured.then_some(Set::Captured).into_iter().chain(other)
}

fn guard(members: &mut Vec<Member>, place: FrontendKey, sources: &[IpNet], family: Family) {
    let own: Vec<IpNet> = sources.iter().copied().filter(|network| family.contains(network)).collect();
    // The kernel refuses intervals that overlap.
    let ranges = IpNet::aggregate(&own);
    if ranges.iter().any(|network| network.prefix_len() == 0) {
        return;
    }
    members.push(Member::Place(Set::Guarded, place));
    members.extend(ranges.into_iter().map(|network| Member::Range(place, network)));
}

/// Whether an address is among the virtual ones.
pub fn of_address(table: &ServiceTable, address: IpAddr) -> Option<Member> {
    table.is_virtual(address).then_some(Member::VirtualIp(address))
}
