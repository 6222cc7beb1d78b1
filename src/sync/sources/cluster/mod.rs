//! An API server as the source.

mod backoff;
mod connection;
mod follow;
mod requests;

pub use connection::{Address, ConnectError, Connection};

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::objects::Event;

use super::decode::Interner;
use super::{Selection, SourceStats};
use follow::{Follower, Shared};
use requests::Resource;

/// How patient the watches are.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a watch lasts until the server ends it. One that is silent for longer is dead (k8s#65012).
    pub watch: Duration,
    /// How much later than that the end may arrive.
    pub margin: Duration,
    /// How long the server may take to answer a request.
    pub answer: Duration,
    /// The first wait after a failure, and the longest.
    pub shortest_wait: Duration,
    pub longest_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            watch: Duration::from_secs(270),
            margin: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            shortest_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
        }
    }
}

/// What a proxy or a pod network has to know of an API server.
pub struct Cluster {
    connection: Arc<Connection>,
    selection: Selection,
    timing: Timing,
    stats: Arc<SourceStats>,
}

impl Cluster {
    pub fn new(connection: Arc<Connection>, selection: Selection, stats: Arc<SourceStats>) -> Cluster {
        Cluster { connection, selection, timing: Timing::default(), stats }
    }

    pub fn with_timing(self, timing: Timing) -> Cluster {
        Cluster { timing, ..self }
    }

    /// Sends what there is, then every change, until nobody listens any more. No failure ends it.
    pub async fn run<I: From<Event>>(self, events: Sender<I>) {
        let names = Mutex::new(Interner::default());
        let shared = Shared {
            connection: &self.connection,
            names: &names,
            events: &events,
            stats: &self.stats,
            timing: self.timing,
        };
        let follow = |resource| Follower::new(shared, resource).run();
        match &self.selection {
            Selection::Nodes => follow(Resource::nodes()).await,
            Selection::OfProxy { node } => {
                tokio::join!(
                    follow(Resource::services()),
                    follow(Resource::endpoint_slices()),
                    follow(Resource::node(node)),
                );
            }
        }
    }
}
