//! Where objects come from.

pub mod cluster;
pub mod decode;
pub mod manifests;
mod recorder;
mod stats;

pub use cluster::{Cluster, ServiceCidrs};
pub use manifests::Manifests;
pub use recorder::{EventRecorder, Poster, Regarding};
pub use stats::{Gone, SourceStats};

use std::sync::mpsc::Sender;

use crate::sync::Input;

/// The source that this proxy has.
pub enum Source {
    Cluster(Cluster),
    Manifests(Manifests),
}

impl Source {
    /// Sends complete first lists of all kinds, then changes. Ends only when nobody listens any more.
    pub async fn run(self, events: Sender<Input>) {
        match self {
            Source::Cluster(cluster) => cluster.run(events).await,
            Source::Manifests(manifests) => manifests.run(events).await,
        }
    }
}
