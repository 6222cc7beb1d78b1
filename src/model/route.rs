//! What becomes of one packet: the oracle.
//!
//! Says in a few lines what every mode has to make a kernel do, so that modes can be tested against it, and so that
//! `ferrovia explain` can tell a user why a packet went where it went.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{
    Endpoint, Family, Frontend, NodePolicy, Protocol, ServicePort, ServiceTable, TrafficPolicy, Verdict,
};

/// The first packet of a connection, as it reaches this node or leaves a process on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub source: IpAddr,
    /// The interface it came in by; `None` for a packet that the node itself sends.
    pub interface: Option<&'a str>,
    pub protocol: Protocol,
    pub destination: IpAddr,
    pub port: u16,
}

/// What becomes of the packet. Its `Display` is the outcome column of a flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to one of these. With session affinity, to the one that the client had before, while that is among them.
    Forward(Vec<Target>),
    Reject,
    Drop,
    /// It is for an address that is there for Services only, and for none of their ports. Modes that have such addresses
    /// to themselves refuse it; the iptables mode leaves it alone, as kube-proxy's does.
    Unused,
    /// It is for a ClusterIP that no Service has. The nftables mode drops it, so that it does not leave the node by its
    /// default route and, perhaps, come back; the other modes leave it alone, as kube-proxy's do.
    Unallocated,
    /// It is no Service's traffic.
    Untouched,
}

/// Where a packet may go, and whose source address it then has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub source: Source,
    pub endpoint: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Kept,
    /// Replaced by an address of this node, so that the answer comes back through it.
    Masqueraded,
}

/// `to A B or to C masqueraded`, `reject`, `drop`, `unused`, `unallocated`, `untouched`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Reject => f.write_str("reject"),
            Outcome::Drop => f.write_str("drop"),
            Outcome::Unused => f.write_str("unused"),
            Outcome::Unallocated => f.write_str("unallocated"),
            Outcome::Untouched => f.write_str("untouched"),
            Outcome::Forward(targets) => {
                for (index, group) in targets.chunk_by(|a, b| a.source == b.source).enumerate() {
                    f.write_str(if index == 0 { "to" } else { " or to" })?;
                    for target in group {
                        write!(f, " {}", target.endpoint)?;
                    }
                    if group[0].source == Source::Masqueraded {
                        f.write_str(" masqueraded")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What a node with this table does with this packet.
pub fn route(table: &ServiceTable, packet: &Packet<'_>) -> Outcome {
    let Some((port, frontend)) = table.reached(packet.destination, packet.protocol, packet.port) else {
        return unserved(table, packet.destination);
    };
    match judge(table.node(), port, frontend, packet) {
        Ruling::Forward(policy, source) => forward(port.endpoints(policy), packet, source),
        Ruling::Reject => Outcome::Reject,
        Ruling::Drop => Outcome::Drop,
    }
}

fn unserved(table: &ServiceTable, destination: IpAddr) -> Outcome {
    if table.is_virtual(destination) {
        Outcome::Unused
    } else if table.node().is_for_cluster_ips(destination) {
        Outcome::Unallocated
    } else {
        Outcome::Untouched
    }
}

/// What becomes of a packet to a frontend, before an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// To an endpoint of this policy. One that is reached from itself is masqueraded in any case.
    Forward(TrafficPolicy, Source),
    Reject,
    Drop,
}

/// What becomes of a packet to this frontend of `port`.
pub fn judge(node: &NodePolicy, port: &ServicePort, frontend: &Frontend, packet: &Packet<'_>) -> Ruling {
    let detects_local = node.local_traffic.detects(Family::of(packet.destination));
    match frontend {
        Frontend::ClusterIp(_) => internal(node, port, packet, detects_local),
        _ => external(node, port, frontend, packet, detects_local),
    }
}

fn is_local_traffic(node: &NodePolicy, packet: &Packet<'_>) -> bool {
    node.local_traffic.is_local(packet.source, packet.interface)
}

/// Traffic to a ClusterIP. From off the cluster it is masqueraded: the client's route leads to this node, the endpoint's
/// may not lead back here.
fn internal(node: &NodePolicy, port: &ServicePort, packet: &Packet<'_>, detects_local: bool) -> Ruling {
    let off_cluster = detects_local && !is_local_traffic(node, packet);
    match port.internal {
        Verdict::Forward(policy) if node.masquerade_all || off_cluster => {
            Ruling::Forward(policy, Source::Masqueraded)
        }
        Verdict::Forward(policy) => Ruling::Forward(policy, Source::Kept),
        Verdict::Reject => Ruling::Reject,
        Verdict::Drop => Ruling::Drop,
    }
}

fn external(
    node: &NodePolicy,
    port: &ServicePort,
    frontend: &Frontend,
    packet: &Packet<'_>,
    detects_local: bool,
) -> Ruling {
    // A Service without endpoints has nothing to guard: everybody is told so, as kube-proxy does.
    if port.external == Verdict::Reject {
        return Ruling::Reject;
    }
    if !is_allowed(port, frontend, packet.source) {
        return Ruling::Drop;
    }
    if port.short_circuit() {
        if detects_local && is_local_traffic(node, packet) {
            return Ruling::Forward(TrafficPolicy::Cluster, Source::Kept);
        }
        // The address may be one of the node's own, and then it is the source too: an endpoint could not answer it.
        if is_own(node, packet.source) {
            return Ruling::Forward(TrafficPolicy::Cluster, Source::Masqueraded);
        }
    }
    match port.external {
        Verdict::Forward(policy @ TrafficPolicy::Cluster) => Ruling::Forward(policy, Source::Masqueraded),
        Verdict::Forward(policy @ TrafficPolicy::Local) => Ruling::Forward(policy, Source::Kept),
        Verdict::Reject => Ruling::Reject,
        Verdict::Drop => Ruling::Drop,
    }
}

/// `loadBalancerSourceRanges` guard the load balancer's addresses only, not NodePorts and external IPs.
fn is_allowed(port: &ServicePort, frontend: &Frontend, source: IpAddr) -> bool {
    match (frontend, &port.load_balancer_sources) {
        (Frontend::LoadBalancer(_), Some(allowed)) => allowed.iter().any(|network| network.contains(&source)),
        _ => true,
    }
}

fn is_own(node: &NodePolicy, source: IpAddr) -> bool {
    source.is_loopback() || node.addresses.binary_search(&source).is_ok()
}

/// A pod that reaches itself must see another source, or it would answer itself past this node.
fn forward(endpoints: &[Endpoint], packet: &Packet<'_>, source: Source) -> Outcome {
    let mut targets: Vec<Target> = endpoints
        .iter()
        .map(|endpoint| {
            let hairpin = endpoint.address == packet.source && endpoint.can_hairpin();
            Target {
                source: if hairpin { Source::Masqueraded } else { source },
                endpoint: SocketAddr::new(endpoint.address, endpoint.port),
            }
        })
        .collect();
    targets.sort();
    Outcome::Forward(targets)
}

#[cfg(test)]
mod tests;
