//! The ways of choosing an endpoint, one type for all modes.

use std::fmt;
use std::str::FromStr;

/// How a new connection is given to one of several endpoints. Names are those of IPVS where IPVS has the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// Each endpoint with the same probability.
    Random,
    /// Round-robin.
    RoundRobin,
    /// Least connections.
    LeastConnection,
    /// By a hash of the client's address.
    SourceHash,
    WeightedRoundRobin,
    WeightedLeastConnection,
    /// By a hash of the destination address.
    DestinationHash,
    ShortestExpectedDelay,
    NeverQueue,
    /// Maglev consistent hashing.
    Maglev,
    /// By destination address, to the endpoint that has it already unless that is overloaded.
    LocalityLeastConnection,
    /// The same with a set of endpoints for each destination.
    LocalityLeastConnectionReplicated,
    /// The endpoint of the highest weight that is there.
    WeightedFailover,
    /// The endpoint of the highest weight that has fewer connections than its weight.
    WeightedOverflow,
    /// The better one of two that were drawn at random. Linux 5.16.
    PowerOfTwo,
}

impl Scheduler {
    pub const ALL: [Scheduler; 15] = [
        Scheduler::Random,
        Scheduler::RoundRobin,
        Scheduler::LeastConnection,
        Scheduler::SourceHash,
        Scheduler::WeightedRoundRobin,
        Scheduler::WeightedLeastConnection,
        Scheduler::DestinationHash,
        Scheduler::ShortestExpectedDelay,
        Scheduler::NeverQueue,
        Scheduler::Maglev,
        Scheduler::LocalityLeastConnection,
        Scheduler::LocalityLeastConnectionReplicated,
        Scheduler::WeightedFailover,
        Scheduler::WeightedOverflow,
        Scheduler::PowerOfTwo,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Random => "random",
            Scheduler::RoundRobin => "rr",
            Scheduler::LeastConnection => "lc",
            Scheduler::SourceHash => "sh",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::WeightedLeastConnection => "wlc",
            Scheduler::DestinationHash => "dh",
            Scheduler::ShortestExpectedDelay => "sed",
            Scheduler::NeverQueue => "nq",
            Scheduler::Maglev => "mh",
            Scheduler::LocalityLeastConnection => "lblc",
            Scheduler::LocalityLeastConnectionReplicated => "lblcr",
            Scheduler::WeightedFailover => "fo",
            Scheduler::WeightedOverflow => "ovf",
            Scheduler::PowerOfTwo => "twos",
        }
    }

    /// Whether [`Hashing`](super::Hashing) says anything to it.
    pub fn hashes(self) -> bool {
        matches!(self, Scheduler::SourceHash | Scheduler::Maglev)
    }

    /// The modes that have it, for messages: a mode cannot speak of the others.
    pub fn modes(self) -> &'static str {
        match self {
            Scheduler::Random => "iptables, nftables, userspace",
            Scheduler::RoundRobin => "iptables, ipvs, nftables, userspace",
            Scheduler::LeastConnection => "ipvs, userspace",
            Scheduler::SourceHash => "iptables, ipvs, nftables, userspace",
            Scheduler::WeightedRoundRobin
            | Scheduler::WeightedLeastConnection
            | Scheduler::Maglev
            | Scheduler::PowerOfTwo => "ipvs, userspace",
            Scheduler::DestinationHash
            | Scheduler::ShortestExpectedDelay
            | Scheduler::NeverQueue
            | Scheduler::LocalityLeastConnection
            | Scheduler::LocalityLeastConnectionReplicated
            | Scheduler::WeightedFailover
            | Scheduler::WeightedOverflow => "ipvs",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A scheduler name that no mode has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown scheduler {0:?}: it is one of random, rr, lc, sh, wrr, wlc, dh, sed, nq, mh, lblc, lblcr, fo, ovf, twos"
)]
pub struct ParseSchedulerError(String);

impl FromStr for Scheduler {
    type Err = ParseSchedulerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Scheduler::ALL
            .into_iter()
            .find(|scheduler| scheduler.name() == text)
            .ok_or_else(|| ParseSchedulerError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.name().parse(), Ok(scheduler));
        }
        assert!("RR".parse::<Scheduler>().is_err());
    }
}
