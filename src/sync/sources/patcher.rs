//! Telling the API server something about this Node, until the newest of it is there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use super::cluster::Connection;

const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Something to be said, as a patch of `nodes/status`. That subresource takes annotations too, as kubelet writes its own, so
/// that no right to change anything else of Nodes is needed.
pub trait Told: Clone {
    /// Of the patch.
    const CONTENT_TYPE: &'static str;
    /// What could not be said, for the log.
    const WHAT: &'static str;

    fn patch(&self, now: SystemTime) -> Value;
}

/// Patches the Node's status.
pub struct NodePatcher<T> {
    connection: Arc<Connection>,
    node: Arc<str>,
    wanted: Receiver<Option<T>>,
}

/// A taker of what is to be said, and what has to run for the API server to hear of it.
pub fn new<T: Told>(connection: Arc<Connection>, node: &str) -> (Sender<Option<T>>, NodePatcher<T>) {
    let (sender, wanted) = channel(None);
    (sender, NodePatcher { connection, node: node.into(), wanted })
}

impl<T: Told> NodePatcher<T> {
    /// Ends when nobody can say anything any more.
    pub async fn run(mut self) {
        while self.wanted.changed().await.is_ok() {
            let mut wait = FIRST_WAIT;
            loop {
                let told = self.wanted.borrow_and_update().clone();
                let Some(told) = told else { break };
                match send(&self.connection, &self.node, &told).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(error, retry_in = ?wait, "Cannot tell {}", T::WHAT),
                }
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Says it once.
pub async fn send<T: Told>(connection: &Connection, node: &str, told: &T) -> Result<(), String> {
    let request = Request::patch(format!("/api/v1/nodes/{node}/status"))
        .header(CONTENT_TYPE, T::CONTENT_TYPE)
        .body(told.patch(SystemTime::now()).to_string().into_bytes())
        .map_err(|error| error.to_string())?;
    let client = connection.client().await;
    match timeout(PATIENCE, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
