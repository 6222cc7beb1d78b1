//! Where a Service may be reached: the addresses and ports it asks for that make sense, before other Services are asked.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Destination, Family, Frontend, FrontendKey};
use crate::sync::objects::{Reason, Service, ServiceKind, ServicePortSpec};

use super::Context;
use super::endpoints::forbidden_range;
use super::problems::Findings;

/// A frontend that a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its place in [`Service::ports`].
    pub port: usize,
    pub frontend: Frontend,
    pub key: FrontendKey,
    /// Its address's place in the list of its kind.
    index: usize,
}

impl Claim {
    pub fn field(&self) -> String {
        match self.frontend {
            Frontend::NodePort(_) => format!("spec.ports[{}].nodePort", self.port),
            _ => address_field(&self.frontend, self.index),
        }
    }
}

fn address_field(frontend: &Frontend, index: usize) -> String {
    match frontend {
        Frontend::ClusterIp(_) => format!("spec.clusterIPs[{index}]"),
        Frontend::ExternalIp(_) => format!("spec.externalIPs[{index}]"),
        // Ingresses without an address or with ipMode Proxy are not counted, so there is no index to give.
        Frontend::LoadBalancer(_) | Frontend::NodePort(_) => "status.loadBalancer.ingress[].ip".to_owned(),
    }
}

/// Everything that a Service asks for in one family. Without a ClusterIP of the family it has nothing there.
pub(super) fn claims(
    service: &Service,
    family: Family,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Vec<Claim> {
    if !service.cluster_ips.iter().any(|address| Family::of(*address) == family) {
        return Vec::new();
    }
    let addresses = addresses(service, family, context, findings);
    let mut claims = Vec::new();
    for (port, spec) in sound_ports(service, None) {
        for &(frontend, address, index) in &addresses {
            let key = FrontendKey {
                destination: Destination::Address(address),
                protocol: spec.protocol,
                port: spec.port,
            };
            claims.push(Claim { port, frontend, key, index });
        }
        if spec.node_port != 0 {
            let key =
                FrontendKey { destination: Destination::Node, protocol: spec.protocol, port: spec.node_port };
            claims.push(Claim { port, frontend: Frontend::NodePort(spec.node_port), key, index: 0 });
        }
    }
    claims
}

/// The addresses of one family that the Service may have, each once: as the kind that guards it most.
fn addresses(
    service: &Service,
    family: Family,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Vec<(Frontend, IpAddr, usize)> {
    let load_balancer_ips = match service.kind {
        ServiceKind::LoadBalancer => &*service.load_balancer_ips,
        // A status that its author's type does not have was written by somebody else.
        ServiceKind::ClusterIp | ServiceKind::NodePort => &[],
    };
    let cluster_ips = service.cluster_ips.iter().copied().map(Frontend::ClusterIp).enumerate();
    let load_balancers = load_balancer_ips.iter().copied().map(Frontend::LoadBalancer).enumerate();
    let external_ips = service.external_ips.iter().copied().map(Frontend::ExternalIp).enumerate();
    let mut seen = BTreeSet::new();
    let mut accepted = Vec::new();
    for (index, frontend) in cluster_ips.chain(load_balancers).chain(external_ips) {
        let Some(address) = frontend.address().filter(|address| Family::of(*address) == family) else {
            continue;
        };
        if seen.contains(&address) {
            continue;
        }
        match refusal(&frontend, address, context) {
            Some((reason, message)) => findings.add(address_field(&frontend, index), reason, message),
            None => {
                seen.insert(address);
                accepted.push((frontend, address, index));
            }
        }
    }
    accepted
}

/// Why no Service may have this address, whatever other Services do.
fn refusal(frontend: &Frontend, address: IpAddr, context: &Context<'_>) -> Option<(Reason, String)> {
    if matches!(frontend, Frontend::ExternalIp(_)) {
        let allowed = &context.settings.allowed_external_ips;
        if !allowed.iter().any(|network| network.contains(&address)) {
            let message = format!("{address} is not in --allowed-external-ips");
            return Some((Reason::ExternalIpNotAllowed, message));
        }
    }
    let whose = if let Some(range) = forbidden_range(address) {
        range.to_owned()
    } else if context.facts.addresses.contains(&address) {
        format!("an address of node {}", context.settings.node_name)
    } else if context.facts.pod_networks.iter().any(|network| network.contains(&address)) {
        format!("an address for pods of node {}", context.settings.node_name)
    } else {
        return None;
    };
    Some((Reason::ForbiddenFrontend, format!("{address} is {whose}")))
}

/// The ports that can be served, with their places in the list. An API server lets no others through, files do.
pub(super) fn sound_ports<'a>(
    service: &'a Service,
    mut findings: Option<&mut Findings>,
) -> Vec<(usize, &'a ServicePortSpec)> {
    let mut sound: Vec<(usize, &ServicePortSpec)> = Vec::with_capacity(service.ports.len());
    for (index, port) in service.ports.iter().enumerate() {
        match unsound(port, &sound) {
            None => sound.push((index, port)),
            Some((field, message)) => {
                if let Some(findings) = findings.as_deref_mut() {
                    findings.add(format!("spec.ports[{index}].{field}"), Reason::Malformed, message);
                }
            }
        }
    }
    sound
}

fn unsound(port: &ServicePortSpec, before: &[(usize, &ServicePortSpec)]) -> Option<(&'static str, String)> {
    if port.port == 0 {
        return Some(("port", "0 is not a port number".to_owned()));
    }
    let same_protocol = || before.iter().filter(|(_, other)| other.protocol == port.protocol);
    let taken_by = |index: usize| format!("is that of spec.ports[{index}] already");
    if let Some((index, _)) = same_protocol().find(|(_, other)| other.name == port.name) {
        return Some(("name", format!("{:?} {}", port.name, taken_by(*index))));
    }
    if let Some((index, _)) = same_protocol().find(|(_, other)| other.port == port.port) {
        return Some(("port", format!("{}/{} {}", port.port, port.protocol, taken_by(*index))));
    }
    let same_node_port = |other: &ServicePortSpec| port.node_port != 0 && other.node_port == port.node_port;
    same_protocol()
        .find(|(_, other)| same_node_port(other))
        .map(|(index, _)| ("nodePort", format!("{}/{} {}", port.node_port, port.protocol, taken_by(*index))))
}

/// Who may use the load balancer addresses of one family; `None` is everybody.
pub(super) fn load_balancer_sources(
    service: &Service,
    family: Family,
    context: &Context<'_>,
) -> Option<Arc<[IpNet]>> {
    let mut sources: Vec<IpNet> =
        service.load_balancer_sources.iter().filter(|network| family.contains(network)).copied().collect();
    if sources.iter().any(|network| network.prefix_len() == 0) {
        return None;
    }
    if sources.is_empty() {
        // A list of which nothing could be read was meant to keep somebody out.
        return has_unreadable_sources(service).then(|| Arc::from([]));
    }
    // Where the load balancer's address is an address of the node, the node's own traffic to it has it as source too.
    let node_allowed = context
        .facts
        .primary(family)
        .is_some_and(|node| sources.iter().any(|network| network.contains(&node)));
    if node_allowed {
        let own = service.load_balancer_ips.iter().filter(|address| Family::of(**address) == family);
        sources.extend(own.copied().map(IpNet::from));
    }
    sources.sort();
    sources.dedup();
    Some(sources.into())
}

fn has_unreadable_sources(service: &Service) -> bool {
    service.load_balancer_sources.is_empty()
        && service.problems.iter().any(|problem| problem.field.starts_with("spec.loadBalancerSourceRanges"))
}
