//! What people and programs can see of the pod network.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::firewall::Policy;
use super::host_gw::{HostGw, Synced};
use super::problem::{Obstacle, Problem};
use super::state::Condition;
use crate::health::{Health, PodNetwork};
use crate::kernel::routes::{Routes, RoutesError};
use crate::kernel::sysctl::SysctlError;
use crate::metrics::Metrics;
use crate::model::Family;
use crate::sync::objects::{PodNetworkNotes, Reason};
use crate::sync::sources::{EventRecorder, NodeAnnotations, NodeCondition};

/// Events of one look at all Nodes. What is more stands in the log.
const MOST_EVENTS: usize = 10;

/// Whether pods of this node can have a network, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Ready,
    /// But for some other nodes, whose pods cannot be reached.
    Limited(String),
    NotReady(String),
}

impl Status {
    pub fn is_ready(&self) -> bool {
        !matches!(self, Status::NotReady(_))
    }

    /// As the plugin is told.
    pub fn condition(&self) -> (Condition, &str) {
        match self {
            Status::Ready => (Condition::Ready, ""),
            Status::Limited(reason) => (Condition::Limited, reason),
            Status::NotReady(reason) => (Condition::Starting, reason),
        }
    }
}

pub struct Reporter {
    node_name: Arc<str>,
    metrics: Metrics,
    health: Arc<Health>,
    events: EventRecorder,
    condition: NodeCondition,
    annotations: NodeAnnotations,
    known: BTreeSet<Problem>,
    status: Option<Status>,
}

impl Reporter {
    pub fn new(
        node_name: Arc<str>,
        metrics: Metrics,
        health: Arc<Health>,
        events: EventRecorder,
        condition: NodeCondition,
        annotations: NodeAnnotations,
    ) -> Self {
        Reporter {
            node_name,
            metrics,
            health,
            events,
            condition,
            annotations,
            known: BTreeSet::new(),
            status: None,
        }
    }

    pub fn routes<R: Routes>(
        &mut self,
        host_gw: &HostGw<R>,
        result: &Result<Synced, RoutesError>,
        took: Duration,
    ) {
        match result {
            Ok(synced) => self.synced(host_gw, synced, took),
            Err(error) => {
                tracing::error!(
                    error = error as &dyn Error,
                    "Cannot write routes to pods; it is tried again"
                );
            }
        }
    }

    fn synced<R: Routes>(&mut self, host_gw: &HostGw<R>, synced: &Synced, took: Duration) {
        for family in Family::ALL {
            self.metrics.own.pod_routes.of(family).set(host_gw.routes(family) as i64);
        }
        if synced.repaired {
            self.metrics.own.pod_route_repairs.inc();
            tracing::warn!(operations = synced.plan.changes.len(), took = ?took, "Routes to pods were gone or changed; repaired");
        } else if !synced.plan.is_empty() {
            let (nodes, operations) = (host_gw.node_count(), synced.plan.changes.len());
            tracing::info!(nodes, operations, took = ?took, "Wrote routes to pods");
        }
        if !synced.plan.is_empty() {
            tracing::debug!("Applied\n{}", synced.plan);
        }
        self.problems(host_gw.problems());
    }

    fn problems(&mut self, problems: BTreeSet<Problem>) {
        if problems == self.known {
            return;
        }
        let mut counts: BTreeMap<Reason, u64> = BTreeMap::new();
        problems.iter().for_each(|problem| *counts.entry(problem.reason()).or_default() += 1);
        self.metrics.own.set_pod_network_problems(&counts);
        for problem in problems.difference(&self.known) {
            tracing::warn!(node = %problem.node, reason = problem.reason().name(), "{problem}");
        }
        let new = problems.difference(&self.known).filter(|problem| self.concerns_this_node(problem));
        for problem in new.take(MOST_EVENTS) {
            self.events.node_problem(problem.reason(), problem.to_string());
        }
        for problem in self.known.difference(&problems) {
            tracing::info!(node = %problem.node, "No longer so: {problem}");
        }
        self.known = problems;
    }

    /// A clash is seen by all nodes alike; the two that have it tell of it.
    fn concerns_this_node(&self, problem: &Problem) -> bool {
        match &problem.obstacle {
            Obstacle::Clash(clash) => problem.node == self.node_name || clash.owner == self.node_name,
            _ => true,
        }
    }

    pub fn rules(&self, policy: &Policy) {
        let (pods, inside) = (policy.pods.len(), policy.inside.len());
        tracing::info!(family = %policy.family, pods, inside, "Wrote rules for packets of pods");
    }

    pub fn rules_repaired(&self, policy: &Policy) {
        self.metrics.own.pod_route_repairs.inc();
        tracing::warn!(family = %policy.family, "Rules for packets of pods were gone or changed; repaired");
    }

    pub fn rules_failed(&self, reason: &str) {
        tracing::error!(error = reason, "Cannot write rules for packets of pods; it is tried again");
    }

    pub fn sysctls(&self, errors: &[SysctlError], remarks: &[String]) {
        for error in errors {
            tracing::warn!(error = error as &dyn Error, "Cannot set up this node for pods");
        }
        for remark in remarks {
            tracing::info!("{remark}");
        }
    }

    pub fn cannot_look(&self, error: &(dyn Error + 'static)) {
        tracing::warn!(error, "The pod network does not know all of its node");
    }

    /// In the Node's annotations.
    pub fn annotate(&self, notes: PodNetworkNotes) {
        self.annotations.set(notes);
    }

    /// Tells everybody who asks, once for each change.
    pub fn status(&mut self, status: &Status) {
        if self.status.as_ref() == Some(status) {
            return;
        }
        self.metrics.own.pod_network_ready.set(status.is_ready().into());
        self.health.set_pod_network(match status {
            Status::NotReady(reason) => PodNetwork::NotReady(reason.clone()),
            Status::Ready | Status::Limited(_) => PodNetwork::Ready,
        });
        match status {
            Status::Ready => tracing::info!("The pod network is ready"),
            Status::Limited(reason) => tracing::warn!(reason, "The pod network is ready, with limits"),
            Status::NotReady(reason) => tracing::warn!(reason, "The pod network is not ready"),
        }
        self.condition.set(status.is_ready(), status.condition().1);
        self.status = Some(status.clone());
    }
}
