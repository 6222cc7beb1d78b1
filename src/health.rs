//! Whether this proxy does its work, for load balancers and the kubelet.
//!
//! The rules are kube-proxy's (KEP-3836): unhealthy is a proxy whose oldest update has waited too long, and `/healthz`,
//! unlike `/livez`, also fails while the node is about to go. One rule is ours: a proxy that knows that the kernel does
//! not hold what it should is unhealthy too, where kube-proxy goes on answering 200 (k8s#134648).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::Family;

/// One moment by both clocks: waiting is measured by the one that nobody sets, reports give the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub instant: Instant,
    pub wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        Moment { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// Shared by the loop, which says how it gets on, and the HTTP servers, which pass it on.
#[derive(Debug)]
pub struct Health {
    /// How long an update may wait.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    families: BTreeMap<Family, FamilyState>,
    node: Option<NodeEligibility>,
    /// `None` where there is none to wait for.
    pod_network: Option<PodNetwork>,
}

/// Whether pods of this node can have a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    Ready,
    /// And why.
    NotReady(String),
}

/// The answer of `/readyz`: whether this node has all that its pods need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Default)]
struct FamilyState {
    /// When the oldest update that is not in the kernel yet came.
    queued: Option<Instant>,
    /// When the kernel last held everything. `None` during start-up.
    synced: Option<SystemTime>,
    /// How the kernel is known to differ from what it should hold.
    degraded: Option<String>,
}

/// Whether load balancers may send new connections to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEligibility {
    Eligible,
    /// Being deleted, or tainted `ToBeDeletedByClusterAutoscaler`.
    Leaving,
}

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`: should this node get traffic?
    Ready,
    /// `/livez`: does this proxy work?
    Live,
}

/// An answer, in the form of kube-proxy's. `reason` is ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    /// Of the proxy, whatever the node's state.
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: Timestamp,
    healthy: bool,
}

impl Report {
    /// Whether the answer is 200.
    pub fn is_ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }

    pub fn to_json(&self) -> String {
        // Plain structs with text keys cannot fail to become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Health {
    /// An update that waits for two sync periods is late.
    pub fn new(sync_period: Duration) -> Self {
        Health { patience: sync_period * 2, state: Mutex::default() }
    }

    /// Something changed that the kernel does not hold yet.
    pub fn queued(&self, family: Family, now: Instant) {
        self.state().families.entry(family).or_default().queued.get_or_insert(now);
    }

    /// The kernel holds everything that came so far.
    pub fn synced(&self, family: Family, now: SystemTime) {
        self.state().families.insert(family, FamilyState { synced: Some(now), ..FamilyState::default() });
    }

    /// The kernel is known to hold something else than it should, until the next [`synced`](Self::synced).
    pub fn degraded(&self, family: Family, reason: impl Into<String>) {
        self.state().families.entry(family).or_default().degraded = Some(reason.into());
    }

    /// What the Node object says; `None` if there is none.
    pub fn set_node(&self, node: Option<NodeEligibility>) {
        self.state().node = node;
    }

    /// How the pod network does. Until it is told for the first time, `/readyz` does not ask for one.
    pub fn set_pod_network(&self, pod_network: PodNetwork) {
        self.state().pod_network = Some(pod_network);
    }

    /// Services are programmed, no update of them is late, and the pod network, if there is one, is ready.
    pub fn readiness(&self, now: Instant) -> Readiness {
        let state = self.state();
        let missing = || Some("Services have not been programmed yet".to_owned());
        let services = match state.families.values().any(|family| family.synced.is_some()) {
            true => state.families.values().find_map(|family| family.complaint(now, self.patience)),
            false => missing(),
        };
        let pods = state.pod_network.as_ref().and_then(|network| match network {
            PodNetwork::Ready => None,
            PodNetwork::NotReady(reason) => Some(format!("pod network: {reason}")),
        });
        let reason = services.or(pods);
        Readiness { ready: reason.is_none(), reason }
    }

    /// Whether this proxy works, whatever becomes of the node.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.state().families.values().all(|family| family.complaint(now, self.patience).is_none())
    }

    /// Whether new connections should go to other nodes. A Node that nobody told about stays.
    pub fn is_node_leaving(&self) -> bool {
        self.state().node == Some(NodeEligibility::Leaving)
    }

    pub fn report(&self, probe: Probe, now: Moment) -> Report {
        let state = self.state();
        let complaints: Vec<(Family, String)> = state
            .families
            .iter()
            .filter_map(|(family, state)| Some((*family, state.complaint(now.instant, self.patience)?)))
            .collect();
        let node_eligible = (probe == Probe::Ready).then_some(state.node == Some(NodeEligibility::Eligible));
        let status = state.families.iter().filter_map(|(family, state)| {
            let healthy = !complaints.iter().any(|(complaining, _)| complaining == family);
            Some((family.to_string(), FamilyReport { last_updated: timestamp(state.synced?), healthy }))
        });
        let mut report = Report {
            last_updated: state
                .families
                .values()
                .filter_map(|state| state.synced)
                .max()
                .map_or(NEVER, timestamp),
            current_time: timestamp(now.wall),
            node_eligible,
            healthy: complaints.is_empty(),
            status: status.collect(),
            reason: reason(&complaints, node_eligible, state.node),
        };
        // Since kube-proxy syncs only when something changes, its "last updated" is now unless something is wrong.
        if report.is_ok() {
            report.last_updated = report.current_time;
        }
        report
    }

    /// A panic elsewhere leaves whole values behind, as each is set in one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FamilyState {
    fn complaint(&self, now: Instant, patience: Duration) -> Option<String> {
        if let Some(reason) = &self.degraded {
            return Some(reason.clone());
        }
        // Before the first sync, nobody was promised anything.
        self.synced?;
        let waiting = now.saturating_duration_since(self.queued?);
        (waiting >= patience).then(|| format!("an update has been waiting for {} s", waiting.as_secs()))
    }
}

/// Go's zero time, which kube-proxy shows before its first sync.
const NEVER: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Years beyond 9999 do not happen to a clock that anybody reads.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX)
}

fn reason(
    complaints: &[(Family, String)],
    node_eligible: Option<bool>,
    node: Option<NodeEligibility>,
) -> Option<String> {
    let mut reasons: Vec<String> =
        complaints.iter().map(|(family, complaint)| format!("{family}: {complaint}")).collect();
    if node_eligible == Some(false) {
        reasons.push(match node {
            None => "this node is not known to the API server".to_owned(),
            Some(_) => "this node is about to be removed".to_owned(),
        });
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    /// A clock that stands at 2026-11-21T09:30:00Z, some seconds later.
    struct Clock(Instant);

    impl Clock {
        fn new() -> Self {
            Clock(Instant::now())
        }

        fn at(&self, seconds: u64) -> Moment {
            let start: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
            let later = Duration::from_secs(seconds);
            Moment { instant: self.0 + later, wall: SystemTime::from(start) + later }
        }
    }

    fn eligible() -> Health {
        let health = Health::new(PERIOD);
        health.set_node(Some(NodeEligibility::Eligible));
        health
    }

    fn ok(health: &Health, now: Moment) -> (bool, bool) {
        let answers = [Probe::Ready, Probe::Live].map(|probe| health.report(probe, now).is_ok());
        assert_eq!(answers[1], health.is_healthy(now.instant));
        (answers[0], answers[1])
    }

    #[test]
    fn start_up_is_healthy_however_long_it_takes() {
        let (health, clock) = (eligible(), Clock::new());
        health.queued(Family::V4, clock.at(0).instant);
        assert_eq!(ok(&health, clock.at(0)), (true, true));
        assert_eq!(ok(&health, clock.at(100_000)), (true, true));
    }

    #[test]
    fn an_update_may_wait_for_just_under_two_periods() {
        let (health, clock) = (eligible(), Clock::new());
        health.synced(Family::V4, clock.at(0).wall);
        health.synced(Family::V6, clock.at(0).wall);
        assert_eq!(ok(&health, clock.at(100_000)), (true, true), "nothing waits");
        health.queued(Family::V6, clock.at(10).instant);
        health.queued(Family::V6, clock.at(60).instant);
        assert_eq!(ok(&health, clock.at(69)), (true, true));
        assert_eq!(ok(&health, clock.at(70)), (false, false), "the oldest update counts, of either family");
        health.synced(Family::V4, clock.at(71).wall);
        assert_eq!(ok(&health, clock.at(71)), (false, false), "the other family does not help");
        health.synced(Family::V6, clock.at(72).wall);
        assert_eq!(ok(&health, clock.at(72)), (true, true));
        health.queued(Family::V6, clock.at(80).instant);
        assert_eq!(ok(&health, clock.at(139)), (true, true), "a new update waits anew");
    }

    /// Row L6 of the faults: 200 while all Service traffic failed.
    #[test]
    fn l6_a_kernel_known_to_differ_is_unhealthy_at_once() {
        let (health, clock) = (eligible(), Clock::new());
        health.degraded(Family::V4, "iptables-restore: exit status 4");
        assert_eq!(ok(&health, clock.at(0)), (false, false), "even before the first sync");
        let report = health.report(Probe::Live, clock.at(0));
        assert_eq!(report.reason.as_deref(), Some("IPv4: iptables-restore: exit status 4"));
        health.synced(Family::V4, clock.at(1).wall);
        assert_eq!(ok(&health, clock.at(1)), (true, true));
        assert_eq!(health.report(Probe::Live, clock.at(1)).reason, None);
    }

    #[test]
    fn the_node_concerns_readiness_alone() {
        let (health, clock) = (Health::new(PERIOD), Clock::new());
        assert_eq!(ok(&health, clock.at(0)), (false, true), "unknown");
        health.set_node(Some(NodeEligibility::Eligible));
        assert_eq!(ok(&health, clock.at(0)), (true, true));
        health.set_node(Some(NodeEligibility::Leaving));
        assert_eq!(ok(&health, clock.at(0)), (false, true));
        health.set_node(None);
        assert_eq!(ok(&health, clock.at(0)), (false, true));
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_late() {
        let (health, clock) = (eligible(), Clock::new());
        health.synced(Family::V4, clock.at(0).wall);
        health.queued(Family::V4, clock.at(100).instant);
        assert_eq!(ok(&health, clock.at(0)), (true, true));
    }

    #[test]
    fn bodies_are_those_of_kube_proxy() {
        let (health, clock) = (eligible(), Clock::new());
        health.synced(Family::V4, clock.at(0).wall);
        health.synced(Family::V6, clock.at(1).wall);
        let body = |probe, seconds| health.report(probe, clock.at(seconds)).to_json();
        let healthy = r#"{"lastUpdated":"2026-11-21T09:30:10Z","currentTime":"2026-11-21T09:30:10Z","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-11-21T09:30:00Z","healthy":true},"IPv6":{"lastUpdated":"2026-11-21T09:30:01Z","healthy":true}}}"#;
        assert_eq!(body(Probe::Ready, 10), healthy);
        assert_eq!(body(Probe::Live, 10), healthy.replace(r#""nodeEligible":true,"#, ""));
        health.queued(Family::V6, clock.at(10).instant);
        let late = r#"{"lastUpdated":"2026-11-21T09:30:01Z","currentTime":"2026-11-21T09:31:10Z","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"2026-11-21T09:30:00Z","healthy":true},"IPv6":{"lastUpdated":"2026-11-21T09:30:01Z","healthy":false}},"reason":"IPv6: an update has been waiting for 60 s"}"#;
        assert_eq!(body(Probe::Ready, 70), late);
    }

    #[test]
    fn before_the_first_sync_there_is_no_status() {
        let (health, clock) = (Health::new(PERIOD), Clock::new());
        let body = health.report(Probe::Ready, clock.at(0)).to_json();
        let expected = r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-11-21T09:30:00Z","nodeEligible":false,"healthy":true,"reason":"this node is not known to the API server"}"#;
        assert_eq!(body, expected);
    }
}
