//! From EndpointSlices to the endpoints that a ServicePort may have.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::model::{Endpoint, Family, Locality, Protocol, ServiceName};
use crate::sync::objects::{Hints, Kind, Reason};
use crate::sync::store::{Slice, StoredEndpoint};

use super::problems::{Findings, Problem};

/// An endpoint with what decides whether it may be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate<'a> {
    pub endpoint: Endpoint,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hints: Option<&'a Hints>,
}

impl Candidate<'_> {
    pub fn is_serving_terminating(&self) -> bool {
        !self.ready && self.serving && self.terminating
    }

    pub fn is_usable(&self) -> bool {
        self.ready || self.is_serving_terminating()
    }

    /// What is believed where two slices disagree about one address and port. Either an endpoint is on its way from one
    /// slice to the other, and the one that says ready is the newer state more often than not; or its address went from
    /// a terminating pod to a new one, and then the pod that lives on has it, ready or not.
    fn precedence(&self) -> (bool, bool, bool) {
        (self.ready, !self.terminating, self.serving)
    }
}

/// The endpoints of one ServicePort, sorted, every address and port once.
pub(super) fn candidates<'a>(
    slices: &'a [Slice],
    family: Family,
    port_name: &str,
    protocol: Protocol,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|port| *port.name == *port_name && port.protocol == protocol);
        for port in ports {
            let endpoints = slice.endpoints.iter().filter(|endpoint| is_acceptable(endpoint.address, family));
            found.extend(endpoints.map(|endpoint| candidate(endpoint, port.port, slice.weight)));
        }
    }
    // The sort is stable and slices come by name, so that which of two equals is kept depends on no order of events.
    found.sort_by_key(|candidate| {
        (candidate.endpoint.address, candidate.endpoint.port, Reverse(candidate.precedence()))
    });
    found.dedup_by_key(|candidate| (candidate.endpoint.address, candidate.endpoint.port));
    found
}

fn candidate(endpoint: StoredEndpoint<'_>, port: u16, weight: u16) -> Candidate<'_> {
    Candidate {
        endpoint: Endpoint { address: endpoint.address, port, locality: endpoint.locality, weight },
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        hints: endpoint.hints,
    }
}

fn is_acceptable(address: IpAddr, family: Family) -> bool {
    Family::of(address) == family && forbidden_range(address).is_none()
}

/// Why no connection may be led to an address: it would reach services of the node or its link that trust their
/// surroundings (CVE-2021-25737), or nothing that answers.
pub(super) fn forbidden_range(address: IpAddr) -> Option<&'static str> {
    // An IPv4 address in IPv6 clothing is judged as what it stands for.
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else if matches!(address, IpAddr::V4(address) if address.is_broadcast()) {
        Some("the broadcast address")
    } else {
        None
    }
}

/// How many addresses of this node are ready for the Service, whatever the port: what its health check answers.
pub(super) fn count_local_ready(slices: &[Slice], family: Family) -> usize {
    let mut addresses: Vec<IpAddr> = slices
        .iter()
        .filter(|slice| slice.family == family && !slice.ports.is_empty())
        .flat_map(|slice| slice.endpoints.iter())
        .filter(|endpoint| endpoint.ready && endpoint.locality == Locality::Local)
        .map(|endpoint| endpoint.address)
        .filter(|address| is_acceptable(*address, family))
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.len()
}

/// What is wrong with the slices of one family.
pub(super) fn problems(service: &ServiceName, slices: &[Slice], family: Family) -> Vec<Problem> {
    let mut all = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let mut findings = Findings::of(Kind::EndpointSlice, slice.object_name(service));
        findings.add_all(&slice.problems);
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            if let Some(range) = forbidden_range(endpoint.address) {
                let field = format!("endpoints[{index}].addresses[0]");
                findings.add(field, Reason::ForbiddenEndpoint, format!("{} is {range}", endpoint.address));
            }
        }
        all.extend(findings.into_vec());
    }
    all
}
