//! Ports of the node that lead to a pod.
//!
//! They are kept in tables of nf_tables, one per family, or in iptables where the kernel has no nf_tables for IPv4 and IPv6;
//! each with the name of the pod's link at the node, so that a port whose link is gone is nobody's.
//!
//! `127.0.0.1` and `::1` do not lead to pods: that takes `route_localnet`, which opens the node's own ports (CVE-2020-8558).

mod iptables;
mod mapping;
mod nftables;
mod stale_flows;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

pub use mapping::{Mapped, PortMapping};

use super::error::CniError;
use crate::kernel::conntrack::ConntrackError;
use crate::kernel::iptables::{Error as IptablesError, Flavour};
use crate::kernel::links::LinksError;
use crate::kernel::nftables::NftablesError;
use crate::kernel::rtnetlink::{Network, NetworkError};
use crate::model::Family;
use iptables::IptablesPorts;
use nftables::NftablesPorts;

#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    #[error("the pod behind {owner} has {mapped} already")]
    Taken { mapped: Mapped, owner: String },
    #[error("the kernel has no nf_tables, and there is no iptables")]
    NoBackend,
    #[error("there is no iptables for {0}")]
    NoPrograms(Family),
    #[error("cannot lock the ports")]
    Lock(#[source] io::Error),
    #[error(transparent)]
    Nftables(#[from] NftablesError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Where ports are kept. Owners are names of links.
trait Ports {
    /// Opens ports instead of those of owners that are gone; a port of one that is there is an error.
    fn open(&mut self, family: Family, owner: &str, wanted: &[Mapped]) -> Result<(), HostPortError>;

    fn list(&mut self, family: Family, is_meant: &dyn Fn(&str) -> bool)
    -> Result<Vec<Mapped>, HostPortError>;

    /// Closes the ports of whoever is meant, and says which.
    fn remove(
        &mut self,
        family: Family,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Mapped>, HostPortError>;

    /// Takes away what holds ports, if it holds none.
    fn retire(&mut self, family: Family) -> Result<(), HostPortError>;
}

/// Where ports are, if there are any.
fn in_use() -> Result<Option<Box<dyn Ports>>, HostPortError> {
    match nftables_in_use() {
        Some(ports) => Ok(Some(ports)),
        None => Ok(IptablesPorts::find()?.map(boxed)),
    }
}

fn nftables_in_use() -> Option<Box<dyn Ports>> {
    let mut ports = NftablesPorts::find()?;
    ports.is_in_use().then(|| boxed(ports))
}

fn boxed(ports: impl Ports + 'static) -> Box<dyn Ports> {
    Box::new(ports)
}

/// Opens ports for the pod whose link at the node is called `owner`.
pub fn open(owner: &str, addresses: &[IpAddr], mappings: &[PortMapping]) -> Result<(), HostPortError> {
    for family in Family::ALL {
        let wanted = mapping::of_family(family, addresses, mappings);
        if !wanted.is_empty() {
            open_of_family(family, owner, &wanted)?;
            stale_flows::clear_contradicting(family, &wanted)?;
        }
    }
    Ok(())
}

/// A kernel may have nf_tables and no tables of this family in it.
fn open_of_family(family: Family, owner: &str, wanted: &[Mapped]) -> Result<(), HostPortError> {
    if let Some(mut ports) = NftablesPorts::find() {
        match ports.open(family, owner, wanted) {
            Err(HostPortError::Nftables(error)) if error.is_unsupported() => {}
            opened => return opened,
        }
    }
    IptablesPorts::find()?.ok_or(HostPortError::NoBackend)?.open(family, owner, wanted)
}

/// Closes whatever ports are open for `owner`, and forgets the UDP flows to its addresses. What was mapped only tells
/// whether it is worth to start iptables, where that is needed.
pub fn close(owner: &str, addresses: &[IpAddr], mappings: &[PortMapping]) -> Result<(), HostPortError> {
    let found = if mappings.is_empty() { nftables_in_use() } else { in_use()? };
    let Some(mut ports) = found else { return Ok(()) };
    for family in Family::ALL {
        let removed = ports.remove(family, &|other| other == owner)?;
        let of_family = addresses.iter().copied().filter(|address| Family::of(*address) == family);
        let pods: BTreeSet<IpAddr> = of_family.chain(removed.iter().map(|mapped| mapped.pod.ip())).collect();
        if removed.iter().any(Mapped::is_udp) {
            stale_flows::clear_to(family, &pods)?;
        }
    }
    Ok(())
}

/// Closes ports whose pods have no link any more.
pub fn collect(network: &mut Network) -> Result<(), HostPortError> {
    let Some(ports) = in_use()? else { return Ok(()) };
    collect_in(network, ports).map(drop)
}

fn collect_in(network: &mut Network, mut ports: Box<dyn Ports>) -> Result<Box<dyn Ports>, HostPortError> {
    let names: BTreeSet<String> = network.links()?.into_iter().map(|link| link.name).collect();
    for family in Family::ALL {
        ports.remove(family, &|owner| !names.contains(owner))?;
    }
    Ok(ports)
}

/// The same wherever ports may be, and takes away what held them where no pod has any more.
pub fn cleanup() -> Result<(), HostPortError> {
    let mut network = Network::open()?;
    if let Some(ports) = nftables_in_use() {
        retire(&mut network, ports)?;
    }
    // One after the other: they share a lock.
    for flavour in [Flavour::Legacy, Flavour::Nft] {
        retire(&mut network, boxed(IptablesPorts::of_flavour(flavour)?))?;
    }
    Ok(())
}

fn retire(network: &mut Network, ports: Box<dyn Ports>) -> Result<(), HostPortError> {
    let mut ports = collect_in(network, ports)?;
    Family::ALL.into_iter().try_for_each(|family| ports.retire(family))
}

/// Whether the ports are open.
pub fn check(owner: &str, addresses: &[IpAddr], mappings: &[PortMapping]) -> Result<(), CniError> {
    for family in Family::ALL {
        let wanted = mapping::of_family(family, addresses, mappings);
        if wanted.is_empty() {
            continue;
        }
        let mut ports = in_use()?.ok_or(HostPortError::NoBackend)?;
        let open = ports.list(family, &|other| other == owner)?;
        if let Some(missing) = wanted.iter().find(|mapped| !open.contains(mapped)) {
            return Err(CniError::Differs(format!("{missing} does not lead to the pod")));
        }
    }
    Ok(())
}
