//! What the sources can tell about themselves, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::sync::objects::{Event, Kind, Object};

/// Nobody listens to events any more: the program is ending.
#[derive(Debug)]
pub struct Gone;

/// Counters of one source. Written by it, read by anybody.
#[derive(Debug)]
pub struct SourceStats {
    started: Instant,
    kinds: [KindStats; 4],
    errors: AtomicU64,
}

#[derive(Debug, Default)]
struct KindStats {
    undecodable: AtomicU64,
    lists: AtomicU64,
    /// Milliseconds after `started`, plus one; 0 is never.
    last_heard: AtomicU64,
}

impl Default for SourceStats {
    fn default() -> Self {
        SourceStats { started: Instant::now(), kinds: Default::default(), errors: AtomicU64::default() }
    }
}

impl SourceStats {
    /// Objects that came and made no sense.
    pub fn undecodable(&self, kind: Kind) -> u64 {
        self.of(kind).undecodable.load(Ordering::Relaxed)
    }

    /// Complete lists, the first included.
    pub fn lists(&self, kind: Kind) -> u64 {
        self.of(kind).lists.load(Ordering::Relaxed)
    }

    /// Requests, watches and files that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// How long ago anything, bookmarks included, was last heard of a kind. Old data stays in force; this tells its age.
    pub fn last_heard(&self, kind: Kind) -> Option<Duration> {
        let millis = self.of(kind).last_heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(millis)))
    }

    pub(super) fn send<I: From<Event>>(&self, events: &Sender<I>, event: Event) -> Result<(), Gone> {
        let kind = match &event {
            Event::ListStarted(kind) | Event::Deleted(kind, _) => *kind,
            // Nobody has said anything.
            Event::ListGivenUp(_) => return events.send(event.into()).map_err(|_| Gone),
            Event::ListDone(kind) => {
                self.of(*kind).lists.fetch_add(1, Ordering::Relaxed);
                *kind
            }
            Event::Applied(object) => kind_of(object),
            Event::Undecodable { kind, name, error } => {
                self.of(*kind).undecodable.fetch_add(1, Ordering::Relaxed);
                let name = name.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%kind, name, error, "undecodable object");
                *kind
            }
        };
        self.heard(kind);
        events.send(event.into()).map_err(|_| Gone)
    }

    pub(super) fn heard(&self, kind: Kind) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.of(kind).last_heard.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &KindStats {
        match kind {
            Kind::Service => &self.kinds[0],
            Kind::EndpointSlice => &self.kinds[1],
            Kind::Node => &self.kinds[2],
            Kind::ServiceCidr => &self.kinds[3],
        }
    }
}

fn kind_of(object: &Object) -> Kind {
    match object {
        Object::Service(_) => Kind::Service,
        Object::EndpointSlice(_) => Kind::EndpointSlice,
        Object::Node(_) => Kind::Node,
        Object::ServiceCidr(_) => Kind::ServiceCidr,
    }
}
