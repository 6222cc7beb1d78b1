//! Annotations of this Node that say what kind of pod network it has: for people, and for programs that debug.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tokio::sync::watch::Sender;

use super::cluster::Connection;
use super::patcher::{self, NodePatcher, Told};
use crate::sync::objects::PodNetworkNotes;

pub const KIND: &str = "ferrovia.dev/pod-network";
pub const INTERFACE: &str = "ferrovia.dev/pod-network-interface";
pub const MTU: &str = "ferrovia.dev/pod-network-mtu";

/// Takes them from any thread, without ever waiting.
#[derive(Debug)]
pub struct NodeAnnotations(Option<Sender<Option<PodNetworkNotes>>>);

impl NodeAnnotations {
    /// Throws everything away, for manifests.
    pub fn disabled() -> Self {
        NodeAnnotations(None)
    }

    pub fn new(connection: Arc<Connection>, node: &str) -> (Self, NodePatcher<PodNetworkNotes>) {
        let (sender, patcher) = patcher::new(connection, node);
        (NodeAnnotations(Some(sender)), patcher)
    }

    pub fn set(&self, notes: PodNetworkNotes) {
        if let Some(sender) = &self.0 {
            sender.send_replace(Some(notes));
        }
    }
}

/// Takes them from the Node again.
pub async fn remove(connection: &Connection, node: &str) -> Result<(), String> {
    patcher::send(connection, node, &PodNetworkNotes::default()).await
}

impl Told for PodNetworkNotes {
    const CONTENT_TYPE: &'static str = "application/merge-patch+json";
    const WHAT: &'static str = "in the Node's annotations what pod network it has";

    /// What is not known is taken away.
    fn patch(&self, _: SystemTime) -> Value {
        let notes = [(KIND, &self.kind), (INTERFACE, &self.interface), (MTU, &self.mtu)];
        let annotations: Map<String, Value> =
            notes.into_iter().map(|(name, text)| (name.to_owned(), json!(text))).collect();
        json!({"metadata": {"annotations": annotations}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_taken_away_and_others_annotations_are_not_named() {
        let notes =
            PodNetworkNotes { kind: Some("host-gw".into()), interface: None, mtu: Some("1500".into()) };
        let patch = notes.patch(SystemTime::UNIX_EPOCH);
        let expected = json!({
            "ferrovia.dev/pod-network": "host-gw",
            "ferrovia.dev/pod-network-interface": null,
            "ferrovia.dev/pod-network-mtu": "1500",
        });
        assert_eq!(patch, json!({"metadata": {"annotations": expected}}));
    }
}
