//! Which endpoints each traffic policy may use, and what becomes of traffic that has none: the only place for verdicts.

use crate::model::{Endpoint, Locality, TrafficPolicy, Verdict};

use super::endpoints::Candidate;

/// What a ServicePort asks for, once it is known which of its frontends are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policies {
    pub internal: TrafficPolicy,
    /// `None` where the ServicePort is reached by its ClusterIP alone.
    pub external: Option<TrafficPolicy>,
}

impl Policies {
    /// Even with externalTrafficPolicy Local, clients inside the cluster may use every endpoint (short-circuit).
    fn uses_cluster(self) -> bool {
        self.internal == TrafficPolicy::Cluster || self.external.is_some()
    }

    fn uses_local(self) -> bool {
        self.internal == TrafficPolicy::Local || self.external == Some(TrafficPolicy::Local)
    }
}

/// The node as topology hints see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub node: &'a str,
    pub zone: Option<&'a str>,
}

/// The endpoints and verdicts of one ServicePort.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub internal: Verdict,
    pub external: Verdict,
    pub cluster: Box<[Endpoint]>,
    pub local: Box<[Endpoint]>,
    pub draining: Box<[Endpoint]>,
}

/// `candidates` are sorted by address and port, each address and port once.
pub(super) fn decide(candidates: &[Candidate<'_>], policies: Policies, place: Place<'_>) -> Decision {
    let cluster = if policies.uses_cluster() { cluster_endpoints(candidates, place) } else { Box::default() };
    let local = if policies.uses_local() { local_endpoints(candidates) } else { Box::default() };
    let draining = candidates
        .iter()
        .filter(|candidate| candidate.ready || candidate.serving)
        .map(|candidate| candidate.endpoint)
        .filter(|endpoint| cluster.binary_search(endpoint).is_err() && local.binary_search(endpoint).is_err())
        .collect();
    let verdict = |policy| match policy {
        _ if !candidates.iter().any(Candidate::is_usable) => Verdict::Reject,
        TrafficPolicy::Local if local.is_empty() => Verdict::Drop,
        policy => Verdict::Forward(policy),
    };
    Decision {
        internal: verdict(policies.internal),
        // With no external frontends nothing asks for it; equal verdicts leave modes one case less.
        external: verdict(policies.external.unwrap_or(policies.internal)),
        cluster,
        local,
        draining,
    }
}

fn cluster_endpoints(candidates: &[Candidate<'_>], place: Place<'_>) -> Box<[Endpoint]> {
    let topology = Topology::from_hints(candidates, place);
    ready_or_terminating(candidates, |candidate| topology.allows(candidate, place), |_| true)
}

/// Topology hints say nothing about policy Local.
fn local_endpoints(candidates: &[Candidate<'_>]) -> Box<[Endpoint]> {
    let is_local = |candidate: &Candidate<'_>| candidate.endpoint.locality == Locality::Local;
    ready_or_terminating(candidates, is_local, is_local)
}

/// Ready endpoints, or where there are none those that terminate but still serve (KEP-1669).
fn ready_or_terminating(
    candidates: &[Candidate<'_>],
    if_ready: impl Fn(&Candidate<'_>) -> bool,
    if_terminating: impl Fn(&Candidate<'_>) -> bool,
) -> Box<[Endpoint]> {
    let ready: Box<[Endpoint]> = (candidates.iter())
        .filter(|candidate| candidate.ready && if_ready(candidate))
        .map(|candidate| candidate.endpoint)
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    (candidates.iter())
        .filter(|candidate| candidate.is_serving_terminating() && if_terminating(candidate))
        .map(|candidate| candidate.endpoint)
        .collect()
}

/// What the hints of a ServicePort's ready endpoints agree on. Hints come from `spec.trafficDistribution`, which proxies
/// do not look at themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    Anywhere,
}

impl Topology {
    /// A single endpoint without a hint means that hints are being rolled out or taken back: they count for nothing.
    fn from_hints(candidates: &[Candidate<'_>], place: Place<'_>) -> Topology {
        [Topology::SameNode, Topology::SameZone]
            .into_iter()
            .find(|topology| {
                let mut ready = candidates.iter().filter(|candidate| candidate.ready);
                ready.clone().all(|candidate| topology.has_hint(candidate))
                    && ready.any(|candidate| topology.allows(candidate, place))
            })
            .unwrap_or(Topology::Anywhere)
    }

    fn has_hint(self, candidate: &Candidate<'_>) -> bool {
        candidate.hints.is_some_and(|hints| match self {
            Topology::SameNode => !hints.nodes.is_empty(),
            Topology::SameZone => !hints.zones.is_empty(),
            Topology::Anywhere => true,
        })
    }

    fn allows(self, candidate: &Candidate<'_>, place: Place<'_>) -> bool {
        let Some(hints) = candidate.hints else { return self == Topology::Anywhere };
        match self {
            Topology::SameNode => hints.nodes.iter().any(|node| **node == *place.node),
            Topology::SameZone => hints.zones.iter().any(|zone| Some(&**zone) == place.zone),
            Topology::Anywhere => true,
        }
    }
}
