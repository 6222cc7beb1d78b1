//! Which endpoint a connection gets.
//!
//! Schedulers are small and pure: what they know of endpoints and of chance comes in as arguments.

mod affinity;
mod lasting;
mod least;
mod maglev;
mod member;
mod picker;
mod pool;
mod round_robin;
mod service;
#[cfg(test)]
mod tests;

use crate::model::Scheduler;

pub use affinity::{Affinities, BoundedMap};
pub use member::{Lease, Member};
pub use service::{Choice, Service};

/// What this mode has, its default first.
pub const SCHEDULERS: &[Scheduler] = &[
    Scheduler::RoundRobin,
    Scheduler::WeightedRoundRobin,
    Scheduler::LeastConnection,
    Scheduler::WeightedLeastConnection,
    Scheduler::SourceHash,
    Scheduler::Maglev,
    Scheduler::Random,
    Scheduler::PowerOfTwo,
];

/// The endpoints that a scheduler chooses from, by their index.
pub trait Candidates {
    fn count(&self) -> usize;

    /// Never 0.
    fn weight(&self, index: usize) -> u32;

    /// How many connections it has now.
    fn connections(&self, index: usize) -> u32;

    /// Whether it may get this connection. It may not if it was tried, or failed too often of late.
    fn is_usable(&self, index: usize) -> bool;
}

/// What is known of a new connection.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Of the client's address, and of its port where the Service wants that.
    pub hash: u64,
    /// Any number.
    pub draw: u64,
}

/// A hash that is the same on every node and in every version: FNV-1a, and a mixing of its bits (splitmix64).
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
