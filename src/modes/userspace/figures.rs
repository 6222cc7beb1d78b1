//! What the listeners count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the times that connects take, in milliseconds. The last ones are the time-outs.
pub const CONNECT_BOUNDS: [u64; 8] = [1, 5, 25, 100, 250, 500, 1000, 2000];

/// Of one ServicePort, or of all.
#[derive(Debug, Default)]
pub struct Meter {
    /// Accepted, and UDP flows begun.
    pub connections: Counter,
    pub active: Counter,
    /// From clients, and to them.
    pub received: Counter,
    pub sent: Counter,
    pub retries: Counter,
    pub ejections: Counter,
    /// Connections that found no endpoint.
    pub refused: Counter,
    connects: [Counter; CONNECT_BOUNDS.len() + 1],
    connect_time: Counter,
}

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn take(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Meter {
    pub fn connected(&self, took: Duration) {
        let milliseconds = took.as_millis() as u64;
        let at = CONNECT_BOUNDS.iter().position(|bound| milliseconds <= *bound);
        self.connects[at.unwrap_or(CONNECT_BOUNDS.len())].add(1);
        self.connect_time.add(took.as_micros() as u64);
    }

    /// How many connects took no longer than each of the bounds, and how many there were in all.
    pub fn connect_times(&self) -> (Vec<u64>, u64) {
        let mut sum = 0;
        let cumulated = self.connects.iter().map(|count| {
            sum += count.get();
            sum
        });
        let mut all: Vec<u64> = cumulated.collect();
        let total = all.pop().unwrap_or_default();
        (all, total)
    }

    pub fn connect_time(&self) -> Duration {
        Duration::from_micros(self.connect_time.get())
    }
}

/// A connection that is open, until it is dropped.
#[derive(Debug)]
pub struct Active(std::sync::Arc<Meter>);

impl Active {
    pub fn new(meter: &std::sync::Arc<Meter>) -> Self {
        meter.connections.add(1);
        meter.active.add(1);
        Active(std::sync::Arc::clone(meter))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.take(1);
    }
}

/// Of the process.
#[derive(Debug, Default)]
pub struct Totals {
    pub accepted: Counter,
    /// Times that accepting had to wait, as there were no file descriptors or too many connections.
    pub accept_pauses: Counter,
    /// UDP flows that had to go for others.
    pub evicted_flows: Counter,
    /// Datagrams that found no endpoint or no room.
    pub dropped_datagrams: Counter,
    pub pipes: Counter,
}
