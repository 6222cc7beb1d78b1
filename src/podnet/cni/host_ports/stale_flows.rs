//! Tracked UDP flows that lead elsewhere than the ports do: clients that go on sending would keep them for ever.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::HostPortError;
use super::mapping::Mapped;
use crate::kernel::conntrack::{Conntrack, Flow, KernelConntrack};
use crate::kernel::links;
use crate::model::{Family, Protocol};

/// Forgets flows to ports of the node that were taken over, as far as they do not go to the pod.
pub fn clear_contradicting(family: Family, mapped: &[Mapped]) -> Result<(), HostPortError> {
    let udp: Vec<&Mapped> = mapped.iter().filter(|mapped| mapped.is_udp()).collect();
    if udp.is_empty() {
        return Ok(());
    }
    let own = links::addresses()?;
    let contradicts = |flow: &Flow| {
        let to = flow.original.destination;
        let concerns = |mapped: &&&Mapped| {
            mapped.port == to.port() && mapped.at.map_or_else(|| own.contains(&to.ip()), |at| at == to.ip())
        };
        udp.iter().find(concerns).is_some_and(|mapped| flow.endpoint() != mapped.pod)
    };
    delete(family, &contradicts)
}

/// Forgets translated flows to pods that leave.
pub fn clear_to(family: Family, pods: &BTreeSet<IpAddr>) -> Result<(), HostPortError> {
    delete(family, &|flow| flow.is_translated() && pods.contains(&flow.endpoint().ip()))
}

fn delete(family: Family, is_stale: &dyn Fn(&Flow) -> bool) -> Result<(), HostPortError> {
    let mut conntrack = KernelConntrack::open()?;
    let mut stale = Vec::new();
    conntrack.flows(family, Protocol::Udp, &mut |flow| stale.extend(is_stale(flow).then_some(*flow)))?;
    stale.iter().try_for_each(|flow| conntrack.delete(flow).map(drop))?;
    Ok(())
}
