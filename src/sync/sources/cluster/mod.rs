//! An API server as the source.

mod backoff;
mod connection;
mod follow;
mod requests;

pub use connection::{Address, ConnectError, Connection};

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use crate::sync::objects::{Event, Kind};

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
    /// How long a kind that can be done without is waited for at the start.
    pub unneeded_wait: Duration,
    /// After how long to ask again for such a kind where the server does not have it, or not for us. Nothing tells when a
    /// cluster gets it, and thousands of nodes ask.
    pub absent_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            watch: Duration::from_secs(270),
            margin: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            shortest_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
            unneeded_wait: Duration::from_secs(5),
            absent_wait: Duration::from_secs(300),
        }
    }
}

/// Whether the mode has a use for ServiceCIDRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCidrs {
    Followed,
    /// Not even asked for: nothing may be to be had of them.
    Ignored,
}

/// What a proxy or a pod network has to know of an API server.
pub struct Cluster {
    connection: Arc<Connection>,
    selection: Selection,
    service_cidrs: ServiceCidrs,
    timing: Timing,
    stats: Arc<SourceStats>,
}

impl Cluster {
    pub fn new(connection: Arc<Connection>, selection: Selection, stats: Arc<SourceStats>) -> Cluster {
        let (service_cidrs, timing) = (ServiceCidrs::Ignored, Timing::default());
        Cluster { connection, selection, service_cidrs, timing, stats }
    }

    pub fn with_service_cidrs(self, service_cidrs: ServiceCidrs) -> Cluster {
        Cluster { service_cidrs, ..self }
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
                    self.service_cidrs(shared),
                );
            }
        }
    }

    /// A list that has begun is waited for, so that a restart does not find that there are none. But not for long.
    async fn service_cidrs<I: From<Event>>(&self, shared: Shared<'_, I>) {
        const KIND: Kind = Kind::ServiceCidr;
        if self.service_cidrs == ServiceCidrs::Ignored
            || shared.stats.send(shared.events, Event::ListStarted(KIND)).is_err()
        {
            return;
        }
        let give_up = async {
            sleep(self.timing.unneeded_wait).await;
            // Where nobody listens any more, the followers notice.
            let _ = shared.stats.send(shared.events, Event::ListGivenUp(KIND));
        };
        tokio::join!(Follower::new(shared, Resource::service_cidrs()).run(), give_up);
    }
}
