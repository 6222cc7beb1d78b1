//! The Nodes as last seen.
//!
//! Lists are taken in by mark and sweep, as in the store of Services. A Node that is deleted stays for a moment: one that
//! registers again under its name, with what it had before, loses no packet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::Peer;
use crate::sync::objects::{Event, Kind, Object};

/// How long a deleted Node is reached still.
pub const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Nodes {
    known: BTreeMap<Arc<str>, Known>,
    generation: u32,
    listing: bool,
    listed: bool,
    changed: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    peer: Peer,
    /// The list that it was last in.
    generation: u32,
    /// When it will be forgotten; `None` while it is there.
    leaves: Option<Instant>,
}

/// A Node, and whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    pub peer: &'a Peer,
    pub presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    There,
    /// Deleted a moment ago. Whoever is there takes precedence.
    Leaving,
}

impl Nodes {
    pub fn handle(&mut self, event: &Event, now: Instant) {
        match event {
            Event::ListStarted(Kind::Node) => {
                self.generation = self.generation.wrapping_add(1);
                self.listing = true;
            }
            Event::ListDone(Kind::Node) => self.finish_list(now),
            Event::Applied(Object::Node(node)) => self.apply(Peer::from(&**node)),
            Event::Deleted(Kind::Node, name) => self.delete(&name.name, now),
            // What was known of it stays in force.
            Event::Undecodable { kind: Kind::Node, name: Some(name), .. } => {
                if let Some(known) = self.known.get_mut(&name.name) {
                    known.generation = self.generation;
                }
            }
            _ => {}
        }
    }

    /// Whether all Nodes were listed once. Before that, nobody knows which routes are wanted.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    pub fn get(&self, name: &str) -> Option<Seen<'_>> {
        let known = self.known.get(name)?;
        let presence = if known.leaves.is_some() { Presence::Leaving } else { Presence::There };
        Some(Seen { peer: &known.peer, presence })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.known.values().map(|known| &known.peer)
    }

    /// The names of those that came, changed, left or are to be forgotten by `now`.
    pub fn take_changed(&mut self, now: Instant) -> BTreeSet<Arc<str>> {
        let gone = |known: &Known| known.leaves.is_some_and(|leaves| leaves <= now);
        self.known.retain(|name, known| {
            if gone(known) {
                self.changed.insert(Arc::clone(name));
            }
            !gone(known)
        });
        std::mem::take(&mut self.changed)
    }

    /// Whether [`take_changed`](Self::take_changed) would return any.
    pub fn has_changed(&self, now: Instant) -> bool {
        !self.changed.is_empty() || self.wake().is_some_and(|wake| wake <= now)
    }

    /// When the next one is forgotten.
    pub fn wake(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.leaves).min()
    }

    fn apply(&mut self, peer: Peer) {
        let generation = self.generation;
        match self.known.get_mut(&peer.name) {
            Some(known) if known.peer == peer && known.leaves.is_none() => known.generation = generation,
            _ => {
                self.changed.insert(Arc::clone(&peer.name));
                self.known.insert(Arc::clone(&peer.name), Known { peer, generation, leaves: None });
            }
        }
    }

    fn delete(&mut self, name: &Arc<str>, now: Instant) {
        if let Some(known) = self.known.get_mut(name).filter(|known| known.leaves.is_none()) {
            known.leaves = Some(now + LINGER);
            self.changed.insert(Arc::clone(name));
        }
    }

    fn finish_list(&mut self, now: Instant) {
        if !std::mem::take(&mut self.listing) {
            return;
        }
        self.listed = true;
        let generation = self.generation;
        let left_behind = self.known.iter().filter(|(_, known)| known.generation != generation);
        let names: Vec<_> = left_behind.map(|(name, _)| Arc::clone(name)).collect();
        names.iter().for_each(|name| self.delete(name, now));
    }
}
