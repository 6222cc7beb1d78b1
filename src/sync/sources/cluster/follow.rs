//! List and watch of one kind, for ever.
//!
//! kube's own `watcher` is not used: it repeats a streaming list that the server rejects (API server 1.33 by default)
//! and a watch answered with HTTP 410 for ever, and it drops deletions that come before a streaming list's end.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::sync::objects::Event;

use super::super::decode::{self, Change, Decoded, Interner, Item, Line, Page, WatchStatus};
use super::super::{Gone, SourceStats};
use super::Timing;
use super::backoff::Backoff;
use super::connection::Connection;
use super::requests::{Failure, Lines, Resource, Start, Without};

/// As kube-proxy asks for them.
const PAGE: u32 = 500;

/// Watches last up to this many times what is set, so that those of all nodes do not end together.
const WATCH_SPREAD: f64 = 1.2;

/// A watch that says nothing and is closed this soon is a fault of the server, not its time-out.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What the watches of all kinds share.
pub struct Shared<'a, I> {
    pub connection: &'a Connection,
    pub names: &'a Mutex<Interner>,
    pub events: &'a Sender<I>,
    pub stats: &'a SourceStats,
    pub timing: Timing,
}

impl<I> Clone for Shared<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Shared<'_, I> {}

/// Follows the objects of one kind.
pub struct Follower<'a, I> {
    shared: Shared<'a, I>,
    resource: Resource,
    /// How the next list is asked for.
    strategy: Strategy,
    /// How lists are asked for while none fails.
    usual: Strategy,
    /// Where to go on; `None` where only a list can tell.
    version: Option<String>,
    /// Whether there was anything at all, so that a list of nothing is doubtful.
    any: bool,
    /// Objects in the list that is under way.
    seen: usize,
    /// Whether it has been said that the server does not have this kind.
    absence_told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Streaming,
    /// A list in pages, then a watch.
    Pages,
    /// The same with all in one page.
    OnePage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    Watching,
}

/// Why following stopped.
enum Stop {
    Gone,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

impl<'a, I: From<Event>> Follower<'a, I> {
    pub fn new(shared: Shared<'a, I>, resource: Resource) -> Self {
        Follower {
            shared,
            resource,
            strategy: Strategy::Streaming,
            usual: Strategy::Streaming,
            version: None,
            any: false,
            seen: 0,
            absence_told: false,
        }
    }

    /// Ends only when nobody listens any more.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(self.shared.timing.shortest_wait, self.shared.timing.longest_wait);
        let mut expired_before = false;
        loop {
            match self.list_or_watch().await {
                Ok(()) => {}
                Err(Stop::Gone) => return,
                Err(Stop::Failed(failure)) if self.can_do_without_streaming(&failure) => {}
                Err(Stop::Failed(failure)) if self.can_do_without_kind(&failure) => {
                    if self.go_on_without(&failure).is_err() {
                        return;
                    }
                    sleep(self.shared.timing.absent_wait.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
                }
                Err(Stop::Failed(failure)) => {
                    // "Expired" comes from a server that works. Only one that says nothing else deserves a long wait.
                    let expired = failure.is_expired();
                    if expired && !expired_before {
                        backoff.forget();
                    }
                    expired_before = expired;
                    let wait = backoff.wait(Instant::now().into_std(), rand::random());
                    self.recover(failure, wait).await;
                    sleep(wait).await;
                }
            }
        }
    }

    /// Lists in pages where the server has no streaming lists, or fails to make one.
    fn can_do_without_streaming(&mut self, failure: &Failure) -> bool {
        let kind = self.resource.kind;
        if self.version.is_some() || self.strategy != Strategy::Streaming {
            return false;
        }
        let Some(without) = failure.rules_out_streaming() else { return false };
        tracing::info!(%kind, reason = %failure, "no streaming list, listing in pages instead");
        self.strategy = Strategy::Pages;
        if without == Without::ForGood {
            self.usual = Strategy::Pages;
        }
        true
    }

    fn can_do_without_kind(&self, failure: &Failure) -> bool {
        !self.resource.kind.is_needed() && failure.is_absence()
    }

    /// What is known stays in force, as with any other failure.
    fn go_on_without(&mut self, failure: &Failure) -> Result<(), Gone> {
        let kind = self.resource.kind;
        if !std::mem::replace(&mut self.absence_told, true) {
            let again = self.shared.timing.absent_wait;
            tracing::warn!(%kind, reason = %failure, asked_again_within = ?again, "going on without this kind");
        }
        self.send(Event::ListGivenUp(kind))
    }

    async fn list_or_watch(&mut self) -> Result<(), Stop> {
        match (self.version.clone(), self.strategy) {
            (None, Strategy::Pages) => self.list(Some(PAGE)).await,
            (None, Strategy::OnePage) => self.list(None).await,
            (None, Strategy::Streaming) => {
                let lines = self.open(Start::Everything).await?;
                self.begin_list()?;
                self.follow(lines, Phase::Listing).await
            }
            (Some(version), _) => {
                let lines = self.open(Start::Version(&version)).await?;
                self.follow(lines, Phase::Watching).await
            }
        }
    }

    async fn recover(&mut self, failure: Failure, wait: Duration) {
        let kind = self.resource.kind;
        self.shared.stats.count_error();
        tracing::warn!(%kind, error = %failure, retry_in = ?wait, "following the API server failed");
        if failure.is_expired() {
            self.version = None;
        }
        if failure.needs_new_connection() {
            self.shared.connection.renew().await;
        }
    }

    async fn open(&self, start: Start<'_>) -> Result<Lines, Failure> {
        let client = self.shared.connection.client().await;
        let lasting = self.shared.timing.watch.mul_f64(1.0 + rand::random::<f64>() * (WATCH_SPREAD - 1.0));
        self.resource.watch(&client, start, lasting, self.shared.timing.answer).await
    }

    async fn list(&mut self, limit: Option<u32>) -> Result<(), Stop> {
        self.begin_list()?;
        let mut next = None;
        loop {
            let page = self.page(limit, next).await?;
            for decoded in page.items {
                self.applied(decoded)?;
            }
            next = page.next;
            if next.is_none() {
                return self.end_list(page.resource_version).await;
            }
        }
    }

    async fn page(&mut self, limit: Option<u32>, next: Option<String>) -> Result<Page, Failure> {
        let client = self.shared.connection.client().await;
        let continued = next.is_some();
        let body = self.resource.list(&client, limit, next, self.shared.timing.answer).await;
        if continued && body.as_ref().is_err_and(Failure::is_expired) {
            // The list takes longer than the server remembers: ask for all at once, as client-go does.
            self.strategy = Strategy::OnePage;
        }
        decode::page(self.resource.kind, &body?, &mut self.names()).map_err(Failure::NoList)
    }

    fn begin_list(&mut self) -> Result<(), Gone> {
        self.seen = 0;
        self.send(Event::ListStarted(self.resource.kind))
    }

    async fn end_list(&mut self, version: Option<String>) -> Result<(), Stop> {
        let version = version.ok_or(Failure::NoVersion)?;
        if self.seen == 0 && self.any {
            self.confirm_empty().await?;
        }
        self.strategy = self.usual;
        self.any = self.seen > 0;
        self.version = Some(version);
        self.absence_told = false;
        tracing::info!(kind = %self.resource.kind, objects = self.seen, "listed");
        Ok(self.send(Event::ListDone(self.resource.kind))?)
    }

    /// A broken server, or a proxy before it, may answer with nothing. Before all is deleted, it is asked again, with a
    /// consistent read this time.
    async fn confirm_empty(&mut self) -> Result<(), Failure> {
        let page = self.page(Some(1), None).await?;
        if page.items.is_empty() { Ok(()) } else { Err(Failure::DoubtfullyEmpty) }
    }

    async fn follow(&mut self, mut lines: Lines, mut phase: Phase) -> Result<(), Stop> {
        let kind = self.resource.kind;
        let silence = self.shared.timing.watch.mul_f64(WATCH_SPREAD) + self.shared.timing.margin;
        let opened = Instant::now();
        let mut heard = false;
        while let Some(line) = lines.next(silence).await? {
            heard = true;
            let line = decode::watch_line(kind, line, &mut self.names());
            if !matches!(line, Ok(Line::Item(_))) {
                // What is sent on counts by itself.
                self.shared.stats.heard(kind);
            }
            match line {
                Ok(Line::Item(item)) => self.item(item, phase)?,
                Ok(Line::Bookmark { resource_version, initial_events_end: true })
                    if phase == Phase::Listing =>
                {
                    self.end_list(resource_version).await?;
                    phase = Phase::Watching;
                }
                Ok(Line::Bookmark { resource_version, .. }) => self.passed(resource_version, phase),
                Ok(Line::Error(WatchStatus { code, reason, message })) => {
                    return Err(Failure::Ended { code, reason, message }.into());
                }
                Err(error) => self.send(Event::Undecodable { kind, name: None, error: error.to_string() })?,
            }
        }
        match phase {
            Phase::Listing => Err(Failure::Unfinished.into()),
            Phase::Watching if !heard && opened.elapsed() < AT_ONCE => Err(Failure::ClosedAtOnce.into()),
            Phase::Watching => Ok(()),
        }
    }

    fn item(&mut self, item: Item, phase: Phase) -> Result<(), Gone> {
        self.passed(item.resource_version, phase);
        match (item.change, item.decoded.name()) {
            (Change::Applied, _) => self.applied(item.decoded),
            (Change::Deleted, Some(name)) => self.send(Event::Deleted(self.resource.kind, name)),
            // What had no usable name when it was there was never known.
            (Change::Deleted, None) => Ok(()),
        }
    }

    fn applied(&mut self, decoded: Decoded) -> Result<(), Gone> {
        self.seen += 1;
        self.any = true;
        self.send(decoded.into_event(self.resource.kind))
    }

    /// Versions of a streaming list come in the order of names: only its end is a place to go on from.
    fn passed(&mut self, version: Option<String>, phase: Phase) {
        if phase == Phase::Watching && version.is_some() {
            self.version = version;
        }
    }

    fn send(&self, event: Event) -> Result<(), Gone> {
        self.shared.stats.send(self.shared.events, event)
    }

    fn names(&self) -> MutexGuard<'_, Interner> {
        self.shared.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
