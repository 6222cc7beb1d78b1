//! The condition `NetworkUnavailable` of this Node, by which schedulers and cloud providers tell whether it can have pods.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch::Sender;

use super::cluster::Connection;
use super::patcher::{self, NodePatcher};

const TYPE: &str = "NetworkUnavailable";

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// With a message for people.
    Network(Network, String),
    /// That the condition is nobody's.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Available,
    Unavailable,
}

/// Takes the condition from any thread, without ever waiting.
#[derive(Debug)]
pub struct NodeCondition(Option<Sender<Option<Told>>>);

impl NodeCondition {
    /// Throws everything away, for manifests.
    pub fn disabled() -> Self {
        NodeCondition(None)
    }

    pub fn new(connection: Arc<Connection>, node: &str) -> (Self, NodePatcher<Told>) {
        let (sender, patcher) = patcher::new(connection, node);
        (NodeCondition(Some(sender)), patcher)
    }

    pub fn set(&self, available: bool, message: &str) {
        let network = if available { Network::Available } else { Network::Unavailable };
        if let Some(sender) = &self.0 {
            sender.send_replace(Some(Told::Network(network, message.to_owned())));
        }
    }
}

impl Told {
    /// That nobody says anything about it any more.
    fn removal() -> Value {
        json!({"status": {"conditions": [{"$patch": "delete", "type": TYPE}]}})
    }
}

impl patcher::Told for Told {
    const CONTENT_TYPE: &'static str = "application/strategic-merge-patch+json";
    const WHAT: &'static str = "in the Node's status whether there is a pod network";

    fn patch(&self, now: SystemTime) -> Value {
        match self {
            Told::Network(network, message) => patch(*network, message, now),
            Told::Nothing => Self::removal(),
        }
    }
}

/// Takes the condition from the Node again.
pub async fn remove(connection: &Connection, node: &str) -> Result<(), String> {
    patcher::send(connection, node, &Told::Nothing).await
}

/// Conditions merge by their type: those of others stay.
fn patch(network: Network, message: &str, now: SystemTime) -> Value {
    let time = format!("{:.0}", Timestamp::try_from(now).unwrap_or_default());
    let (status, reason) = match network {
        Network::Available => ("False", "PodNetworkReady"),
        Network::Unavailable => ("True", "PodNetworkNotReady"),
    };
    let message = match message {
        "" => "ferrovia has put the routes to other nodes in place",
        message => message,
    };
    json!({"status": {"conditions": [{
        "type": TYPE,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": time,
        "lastTransitionTime": time,
    }]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_touches_one_condition() {
        let value = patch(Network::Unavailable, "no routes yet", SystemTime::UNIX_EPOCH);
        let condition = &value["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("NetworkUnavailable"), &json!("True"))
        );
        assert_eq!(condition["lastTransitionTime"], json!("1970-01-01T00:00:00Z"));
        assert_eq!(condition["message"], json!("no routes yet"));
    }
}
