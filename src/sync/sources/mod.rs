//! Where objects come from.

pub mod annotations;
pub mod cluster;
pub mod condition;
pub mod decode;
pub mod manifests;
pub mod patcher;
mod recorder;
mod stats;

pub use annotations::NodeAnnotations;
pub use cluster::{Cluster, ServiceCidrs};
pub use condition::NodeCondition;
pub use manifests::Manifests;
pub use recorder::{EventRecorder, Poster, Regarding};
pub use stats::{Gone, SourceStats};

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::model::ServiceName;
use crate::sync::objects::{Event, Kind};

/// Which objects a source is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All Services and EndpointSlices, and of the Nodes this one.
    OfProxy { node: Arc<str> },
    /// All Nodes, and nothing else.
    Nodes,
}

impl Selection {
    pub fn of_proxy(node: &str) -> Self {
        Selection::OfProxy { node: node.into() }
    }

    pub fn takes(&self, kind: Kind, name: &ServiceName) -> bool {
        match self {
            Selection::OfProxy { node } => kind != Kind::Node || name.name == *node,
            Selection::Nodes => kind == Kind::Node,
        }
    }
}

/// The source that this proxy has.
pub enum Source {
    Cluster(Cluster),
    Manifests(Manifests),
}

impl Source {
    /// Sends complete first lists of all kinds, then changes. Ends only when nobody listens any more.
    pub async fn run<I: From<Event> + Send + 'static>(self, events: Sender<I>) {
        match self {
            Source::Cluster(cluster) => cluster.run(events).await,
            Source::Manifests(manifests) => manifests.run(events).await,
        }
    }
}
