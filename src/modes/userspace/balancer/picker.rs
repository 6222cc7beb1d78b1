//! The schedulers by their shared names.

use std::net::SocketAddr;

use super::least::{self, Least, Load};
use super::maglev::Maglev;
use super::round_robin::{RoundRobin, Smooth};
use super::{Arrival, Candidates};
use crate::model::Scheduler;

/// A scheduler with what it remembers.
#[derive(Debug)]
pub enum Picker {
    RoundRobin(RoundRobin),
    Smooth(Smooth),
    Least(Least),
    Hash(Maglev),
    Random,
    BetterOfTwo,
}

impl Picker {
    /// One that has seen no connection. A scheduler that this mode does not have is taken for round-robin: whoever asked
    /// for it was told.
    pub fn new(scheduler: Scheduler, endpoints: impl Iterator<Item = (SocketAddr, u16)>) -> Self {
        match scheduler {
            Scheduler::WeightedRoundRobin => Picker::Smooth(Smooth::default()),
            Scheduler::LeastConnection => Picker::Least(Least::new(Load::Connections)),
            Scheduler::WeightedLeastConnection => Picker::Least(Least::new(Load::ConnectionsPerWeight)),
            Scheduler::SourceHash | Scheduler::Maglev => Picker::Hash(Maglev::new(endpoints)),
            Scheduler::Random => Picker::Random,
            Scheduler::PowerOfTwo => Picker::BetterOfTwo,
            _ => Picker::RoundRobin(RoundRobin::default()),
        }
    }

    /// `None` if no candidate is usable.
    pub fn pick(&mut self, candidates: &impl Candidates, arrival: Arrival) -> Option<usize> {
        match self {
            Picker::RoundRobin(round_robin) => round_robin.pick(candidates),
            Picker::Smooth(smooth) => smooth.pick(candidates),
            Picker::Least(least) => least.pick(candidates),
            Picker::Hash(maglev) => maglev.pick(candidates, arrival),
            Picker::Random => least::random(candidates, arrival.draw),
            Picker::BetterOfTwo => least::better_of_two(candidates, arrival.draw),
        }
    }
}
