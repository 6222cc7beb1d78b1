//! A directory of manifests as the source: no API server needed.

mod directory;
mod read;
mod watch;

pub use read::FileError;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::sync::objects::{Event, Kind};

use super::{Gone, Selection, SourceStats};
use directory::{Directory, Seen};
use watch::Watch;

const KINDS: [Kind; 4] = [Kind::ServiceCidr, Kind::Service, Kind::EndpointSlice, Kind::Node];

/// What a directory of manifests holds at one moment.
pub struct Listing {
    /// One complete list of each kind.
    pub events: Vec<Event>,
    /// What in its files makes no sense; all else counts.
    pub malformed: Vec<FileError>,
}

/// All objects of a directory. Of the Nodes, only `node`.
pub fn read_once(directory: &Path, node: &str) -> io::Result<Listing> {
    let seen = Directory::new(directory.to_owned(), Selection::of_proxy(node)).look()?;
    Ok(Listing { events: listed(seen.events), malformed: seen.malformed })
}

fn listed(events: Vec<Event>) -> Vec<Event> {
    let started = KINDS.map(Event::ListStarted);
    let done = KINDS.map(Event::ListDone);
    started.into_iter().chain(events).chain(done).collect()
}

/// A directory of manifests that is watched for changes.
pub struct Manifests {
    directory: PathBuf,
    selection: Selection,
    stats: Arc<SourceStats>,
}

impl Manifests {
    pub fn new(directory: PathBuf, selection: Selection, stats: Arc<SourceStats>) -> Manifests {
        Manifests { directory, selection, stats }
    }

    /// Sends what the directory holds, then every change of it, until nobody listens any more.
    pub async fn run<I: From<Event>>(self, events: Sender<I>) {
        // Watched before it is read, so that no change falls in between.
        let mut watch = Watch::new(&self.directory);
        let mut directory = Directory::new(self.directory.clone(), self.selection.clone());
        let mut first = true;
        loop {
            let seen;
            (directory, seen) = look(directory).await;
            match seen {
                Ok(seen) => {
                    if self.deliver(seen, std::mem::take(&mut first), &events).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.stats.count_error();
                    tracing::error!(directory = %self.directory.display(), %error, "cannot read manifests");
                }
            }
            watch.changed().await;
        }
    }

    fn deliver<I: From<Event>>(&self, seen: Seen, first: bool, events: &Sender<I>) -> Result<(), Gone> {
        for error in &seen.malformed {
            self.stats.count_error();
            tracing::error!("{error}; what it was before stays in force");
        }
        let changes = if first { listed(seen.events) } else { seen.events };
        changes.into_iter().try_for_each(|event| self.stats.send(events, event))
    }
}

/// Reads in another thread: thousands of files must not hold up what else this one does.
async fn look(mut directory: Directory) -> (Directory, io::Result<Seen>) {
    let looking = tokio::task::spawn_blocking(move || {
        let seen = directory.look();
        (directory, seen)
    });
    match looking.await {
        Ok(looked) => looked,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
