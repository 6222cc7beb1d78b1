//! Which tracked flows are stale.
//!
//! The kernel translates only the first packet of a flow by rules, all others as it did the first. UDP has no end, so a
//! client that goes on sending keeps its endpoint for ever, also one that is gone (k8s#19029, #126130, #139628).
//! After the rules of a change are in force, flows that contradict them are therefore deleted, and their next packet
//! meets the rules. TCP and SCTP flows are never touched: their endpoints end them (k8s#100755).
//!
//! What is stale follows from the table and not from events, so that a cleaning that failed is made up for by the next.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::kernel::conntrack::{Conntrack, ConntrackError, Flow};
use crate::model::{Changes, Destination, FrontendKey, Protocol, ServicePort, ServicePortName, ServiceTable};
use crate::modes::Tracking;

/// How many stale flows are held at a time. What is beyond them is found by listing again.
const BATCH: usize = 8192;

/// A packet that passed the old rules just as they were replaced is tracked only after the first look, and its sender would
/// keep that flow alive.
const LOOKS: u8 = 2;

/// Keeps the UDP flows of one address family in agreement with its table.
#[derive(Debug)]
pub struct Reconciler {
    /// How many times to look for stale flows before there can be none.
    looks: u8,
    /// The UDP frontends at the last [`note`](Self::note).
    known: BTreeSet<FrontendKey>,
    /// UDP frontends that were there and are not, since the last reconciliation that succeeded.
    removed: BTreeSet<FrontendKey>,
    tracking: Tracking,
}

/// What a reconciliation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub deleted: usize,
}

impl Reconciler {
    /// Due at once: an earlier process may have left before it was done.
    pub fn new() -> Self {
        Self::of(Tracking::Translated)
    }

    /// The same, for a mode whose flows are tracked like this.
    pub fn of(tracking: Tracking) -> Self {
        Reconciler { looks: LOOKS, known: BTreeSet::new(), removed: BTreeSet::new(), tracking }
    }

    /// Takes note of the table's changes. To be called before they are settled.
    pub fn note(&mut self, table: &ServiceTable) {
        match table.changes() {
            Changes::Everything => {
                self.looks = LOOKS;
                let now =
                    table.frontends().keys().filter(|key| key.protocol == Protocol::Udp).copied().collect();
                let before = std::mem::replace(&mut self.known, now);
                self.removed.extend(before);
            }
            Changes::Some(changes) => {
                for (name, change) in changes.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
                    self.looks = LOOKS;
                    self.note_port(table, name, change.before.as_deref());
                }
            }
        }
        self.removed.retain(|key| !self.known.contains(key));
    }

    fn note_port(&mut self, table: &ServiceTable, name: &ServicePortName, before: Option<&ServicePort>) {
        for key in before.into_iter().flat_map(keys) {
            if !table.frontends().contains_key(&key) && self.known.remove(&key) {
                self.removed.insert(key);
            }
        }
        self.known.extend(table.get(name).into_iter().flat_map(|port| keys(port)));
    }

    /// Whether there may be stale flows.
    pub fn is_due(&self) -> bool {
        self.looks > 0
    }

    /// Deletes what is stale. To be called after the table was applied: before, flows would come back as they were.
    /// It stays due after an error, and after the first of two looks, which should be a moment apart.
    pub fn reconcile(
        &mut self,
        table: &ServiceTable,
        conntrack: &mut dyn Conntrack,
    ) -> Result<Outcome, ConntrackError> {
        let mut outcome = Outcome::default();
        loop {
            let stale = self.list_stale(table, conntrack)?;
            let mut deleted = 0;
            for flow in &stale {
                deleted += usize::from(conntrack.delete(flow)?);
            }
            outcome.deleted += deleted;
            if stale.len() < BATCH || deleted == 0 {
                break;
            }
        }
        self.looks = self.looks.saturating_sub(1);
        if self.looks == 0 {
            self.removed.clear();
        }
        Ok(outcome)
    }

    fn list_stale(
        &self,
        table: &ServiceTable,
        conntrack: &mut dyn Conntrack,
    ) -> Result<Vec<Flow>, ConntrackError> {
        let mut stale = Vec::new();
        conntrack.flows(table.family(), Protocol::Udp, &mut |flow| {
            if stale.len() < BATCH && self.is_stale(table, flow) {
                stale.push(*flow);
            }
        })?;
        Ok(stale)
    }

    fn is_stale(&self, table: &ServiceTable, flow: &Flow) -> bool {
        let destination = flow.original.destination;
        if let Some(port) = candidates(table, destination).find_map(|key| table.frontends().get(&key)) {
            return (flow.is_translated() || self.tracking == Tracking::Translated)
                && contradicts(port, flow);
        }
        // Untranslated, it was never a Service's, and whoever else has that address now may answer it.
        flow.is_translated() && candidates(table, destination).any(|key| self.removed.contains(&key))
    }
}

impl Default for Reconciler {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a flow to a frontend goes where the ServicePort would not let it go. Untranslated flows are older than the
/// rules (k8s#48719): where there is somewhere to go, they have to go there.
fn contradicts(port: &ServicePort, flow: &Flow) -> bool {
    let endpoint = flow.endpoint();
    let forwards = !port.cluster.is_empty() || !port.local.is_empty();
    (flow.is_translated() || forwards) && !port.serves(endpoint.ip(), endpoint.port())
}

/// The frontends that a packet to `destination` may have been sent to. A port alone says nothing: only on the node's own
/// addresses is it a NodePort (k8s#49881).
fn candidates(table: &ServiceTable, destination: SocketAddr) -> impl Iterator<Item = FrontendKey> {
    let key = move |address| FrontendKey {
        destination: address,
        protocol: Protocol::Udp,
        port: destination.port(),
    };
    let node = table.node().has_node_ports(destination.ip()).then_some(Destination::Node);
    [Some(Destination::Address(destination.ip())), node].into_iter().flatten().map(key)
}

fn keys(port: &ServicePort) -> impl Iterator<Item = FrontendKey> {
    port.frontends.iter().map(|frontend| port.key(frontend))
}
