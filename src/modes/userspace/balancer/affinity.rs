//! Which client had which endpoint.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Clients that one ServicePort remembers. Whoever is beyond that is the longest silent one.
const CLIENTS: usize = 65_536;

/// A map that holds no more than so many: who was not asked for goes first (a clock, which is a good guess at the least
/// recently used one and costs nothing to ask).
#[derive(Debug)]
pub struct BoundedMap<K, V> {
    limit: usize,
    entries: HashMap<K, Entry<V>, foldhash::fast::RandomState>,
    hand: VecDeque<K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    is_recent: bool,
}

impl<K: Copy + Eq + Hash, V> BoundedMap<K, V> {
    pub fn new(limit: usize) -> Self {
        BoundedMap { limit, entries: HashMap::default(), hand: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| {
            entry.is_recent = true;
            &mut entry.value
        })
    }

    /// Returns what went for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let is_new = !self.entries.contains_key(&key);
        let evicted = if is_new && self.entries.len() >= self.limit { self.evict() } else { None };
        let before = self.entries.insert(key, Entry { value, is_recent: false });
        if is_new {
            self.hand.push_back(key);
        }
        evicted.or(before.map(|entry| entry.value))
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.remove(key).map(|entry| entry.value);
        // Keys of those that are gone are passed over, until they are too many.
        if self.hand.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            let mut seen = std::collections::HashSet::new();
            self.hand.retain(|key| entries.contains_key(key) && seen.insert(*key));
        }
        removed
    }

    /// Whoever was not asked for since the hand last came by.
    pub fn evict(&mut self) -> Option<V> {
        while let Some(key) = self.hand.pop_front() {
            match self.entries.get_mut(&key) {
                Some(entry) if entry.is_recent => {
                    entry.is_recent = false;
                    self.hand.push_back(key);
                }
                Some(_) => return self.entries.remove(&key).map(|entry| entry.value),
                None => {}
            }
        }
        None
    }
}

/// Of one ServicePort.
#[derive(Debug)]
pub struct Affinities {
    clients: BoundedMap<IpAddr, (SocketAddr, Instant)>,
}

impl Default for Affinities {
    fn default() -> Self {
        Affinities { clients: BoundedMap::new(CLIENTS) }
    }
}

impl Affinities {
    /// The endpoint that a client had, if it was not silent for longer than `timeout`.
    pub fn of(&mut self, client: IpAddr, timeout: Duration, now: Instant) -> Option<SocketAddr> {
        let (endpoint, last) = *self.clients.get(&client)?;
        let is_over = now.saturating_duration_since(last) > timeout;
        if is_over {
            self.clients.remove(&client);
        }
        (!is_over).then_some(endpoint)
    }

    /// The client got this endpoint.
    pub fn note(&mut self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        match self.clients.get(&client) {
            Some(known) => *known = (endpoint, now),
            None => drop(self.clients.insert(client, (endpoint, now))),
        }
    }
}
