//! The condition `NetworkUnavailable` of this Node, by which schedulers and cloud providers tell whether it can have pods.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::cluster::Connection;

const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    network: Network,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
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

    /// A taker, and what has to run for the API server to hear of it.
    pub fn new(connection: Arc<Connection>, node: &str) -> (Self, ConditionPatcher) {
        let (sender, receiver) = channel(None);
        let patcher = ConditionPatcher { connection, node: node.into(), wanted: receiver };
        (NodeCondition(Some(sender)), patcher)
    }

    pub fn set(&self, available: bool, message: &str) {
        let network = if available { Network::Available } else { Network::Unavailable };
        if let Some(sender) = &self.0 {
            sender.send_replace(Some(Told { network, message: message.to_owned() }));
        }
    }
}

/// Patches the Node's status, until the newest condition is there.
pub struct ConditionPatcher {
    connection: Arc<Connection>,
    node: Arc<str>,
    wanted: Receiver<Option<Told>>,
}

impl ConditionPatcher {
    /// Ends when nobody can say anything any more.
    pub async fn run(mut self) {
        while self.wanted.changed().await.is_ok() {
            let mut wait = FIRST_WAIT;
            loop {
                let told = self.wanted.borrow_and_update().clone();
                let Some(told) = told else { break };
                match self.patch(&told).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(error, retry_in = ?wait, "Cannot say in the Node's status whether there is a pod network");
                    }
                }
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    async fn patch(&self, told: &Told) -> Result<(), String> {
        let request = Request::patch(format!("/api/v1/nodes/{}/status", self.node))
            .header(CONTENT_TYPE, "application/strategic-merge-patch+json")
            .body(patch(told, SystemTime::now()).to_string().into_bytes())
            .map_err(|error| error.to_string())?;
        let client = self.connection.client().await;
        match timeout(PATIENCE, client.request_text(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }
}

/// Conditions merge by their type: those of others stay.
fn patch(told: &Told, now: SystemTime) -> Value {
    let time = format!("{:.0}", Timestamp::try_from(now).unwrap_or_default());
    let (status, reason) = match told.network {
        Network::Available => ("False", "PodNetworkReady"),
        Network::Unavailable => ("True", "PodNetworkNotReady"),
    };
    let message = match told.message.as_str() {
        "" => "ferrovia has put the routes to other nodes in place",
        message => message,
    };
    json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
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
        let told = Told { network: Network::Unavailable, message: "no routes yet".into() };
        let value = patch(&told, SystemTime::UNIX_EPOCH);
        let condition = &value["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("NetworkUnavailable"), &json!("True"))
        );
        assert_eq!(condition["lastTransitionTime"], json!("1970-01-01T00:00:00Z"));
        assert_eq!(condition["message"], json!("no routes yet"));
    }
}
