//! A listener to a source: folds its events into what a proxy would believe, and waits for beliefs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ferrovia::sync::Input;
use ferrovia::sync::objects::{Event, Kind, Object};
use ferrovia::sync::sources::SourceStats;
use ferrovia::sync::sources::decode::name_of;

/// Enough for the slowest machine; only a failing test waits this long.
pub use super::apiserver::PATIENCE;

/// How long nothing must happen before "nothing happened" is believed.
pub const A_WHILE: Duration = Duration::from_millis(400);

/// An object's kind and name, as `Service default/web`.
pub type Key = String;

pub fn key(kind: Kind, name: &str) -> Key {
    format!("{kind} {name}")
}

/// Runs a source in a thread of its own and listens to it.
pub struct Listener {
    events: Receiver<Input>,
    pub stats: Arc<SourceStats>,
    /// What is believed: replaced at the end of a list, changed by single events.
    pub objects: BTreeMap<Key, Object>,
    listing: BTreeMap<Kind, BTreeMap<Key, Object>>,
    kept: BTreeMap<Kind, BTreeSet<Key>>,
    /// Complete lists of each kind.
    pub listed: BTreeMap<Kind, usize>,
    /// Every event that came, in order.
    pub log: Vec<Event>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// `run` makes the source's future, which is dropped when the listener is.
    pub fn start<F, R>(run: F) -> Listener
    where
        F: FnOnce(Sender<Input>, Arc<SourceStats>) -> R + Send + 'static,
        R: Future<Output = ()>,
    {
        let (sender, events) = channel();
        let stats = Arc::new(SourceStats::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let of_source = Arc::clone(&stats);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = run(sender, of_source) => {}
                    _ = stopped => {}
                }
            });
        });
        Listener {
            events,
            stats,
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            kept: BTreeMap::new(),
            listed: BTreeMap::new(),
            log: Vec::new(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Listens until `wanted` holds; fails with what is believed if it never does.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Listener) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(input) => self.take(input),
                Err(_) => panic!("never: {what}; believed: {:#?}", self.objects.keys()),
            }
        }
    }

    /// Listens for a while, for tests of what must not happen.
    pub fn for_a_while(&mut self) {
        let end = Instant::now() + A_WHILE;
        while let Ok(input) = self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.take(input);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Object(event) => self.fold(event),
            other => panic!("a source said {other:?}"),
        }
    }

    #[track_caller]
    pub fn until_listed(&mut self) {
        let all = [Kind::Service, Kind::EndpointSlice, Kind::Node];
        self.until("the first lists", |listener| all.iter().all(|kind| listener.listed.contains_key(kind)));
    }

    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.objects.contains_key(&key(kind, name))
    }

    pub fn lists(&self, kind: Kind) -> usize {
        self.listed.get(&kind).copied().unwrap_or(0)
    }

    /// The keys of one kind.
    pub fn names(&self, kind: Kind) -> Vec<&str> {
        let prefix = format!("{kind} ");
        self.objects.keys().filter_map(|key| key.strip_prefix(prefix.as_str())).collect()
    }

    /// The errors of undecodable objects.
    pub fn undecodable(&self) -> Vec<&str> {
        let errors = self.log.iter().filter_map(|event| match event {
            Event::Undecodable { error, .. } => Some(error.as_str()),
            _ => None,
        });
        errors.collect()
    }

    fn fold(&mut self, event: Event) {
        self.log.push(event.clone());
        match event {
            Event::ListStarted(kind) => {
                self.listing.insert(kind, BTreeMap::new());
                self.kept.insert(kind, BTreeSet::new());
            }
            Event::ListDone(kind) => self.finish_list(kind),
            Event::ListGivenUp(kind) => drop(self.listing.remove(&kind)),
            Event::Applied(object) => self.apply(object),
            Event::Deleted(kind, name) => {
                let key = key(kind, &text(&name));
                self.objects.remove(&key);
                if let Some(listing) = self.listing.get_mut(&kind) {
                    listing.remove(&key);
                }
            }
            Event::Undecodable { kind, name: Some(name), .. } => {
                if let Some(kept) = self.kept.get_mut(&kind) {
                    kept.insert(key(kind, &text(&name)));
                }
            }
            Event::Undecodable { .. } => {}
        }
    }

    fn apply(&mut self, object: Object) {
        let kind = match &object {
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Node(_) => Kind::Node,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
        };
        let key = key(kind, &text(&name_of(&object)));
        match self.listing.get_mut(&kind) {
            Some(listing) => listing.insert(key, object),
            None => self.objects.insert(key, object),
        };
    }

    fn finish_list(&mut self, kind: Kind) {
        let listing = self.listing.remove(&kind).unwrap_or_default();
        let kept = self.kept.remove(&kind).unwrap_or_default();
        let prefix = format!("{kind} ");
        self.objects.retain(|key, _| !key.starts_with(&prefix) || kept.contains(key));
        self.objects.extend(listing);
        *self.listed.entry(kind).or_default() += 1;
    }
}

/// A Node's name stands alone.
fn text(name: &ferrovia::model::ServiceName) -> String {
    if name.namespace.is_empty() { name.name.to_string() } else { name.to_string() }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the source panicked");
        }
    }
}
