//! Sharing what comes to a chain among its rules.

use std::fmt;

/// The match that makes a rule hold for its share of what comes to it. The last rule takes what is left.
pub enum Chance {
    Rest,
    /// In units of 2^-31, as `xt_statistic` has it.
    Random(u32),
    Nth(u32),
    /// A hash of the client falls into the first `nodes` of `total` equal parts.
    Cluster {
        nodes: u32,
        total: u32,
        seed: u32,
    },
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chance::Rest => Ok(()),
            Chance::Random(part) => {
                let probability = f64::from(*part) / f64::from(1u32 << 31);
                write!(f, "-m statistic --mode random --probability {probability:.11} ")
            }
            Chance::Nth(every) => write!(f, "-m statistic --mode nth --every {every} --packet 0 "),
            Chance::Cluster { nodes, total, seed } => write!(
                f,
                "-m cluster --cluster-local-nodemask {:#010x} --cluster-total-nodes {total} \
                 --cluster-hash-seed {seed:#010x} ",
                (1 << nodes) - 1
            ),
        }
    }
}

pub struct Weights {
    remaining: u32,
}

impl Weights {
    pub fn new(total: u32) -> Self {
        Weights { remaining: total }
    }

    pub fn random(&mut self, weight: u32) -> Chance {
        let remaining = u64::from(self.remaining);
        self.remaining -= weight;
        if self.remaining == 0 {
            return Chance::Rest;
        }
        Chance::Random((((u64::from(weight) << 31) + remaining / 2) / remaining) as u32)
    }

    /// The first of n rules takes every n-th packet, the next one every (n-1)-th of the others, and so on: exact.
    pub fn in_turn(&mut self) -> Chance {
        let every = self.remaining;
        self.remaining -= 1;
        if self.remaining == 0 { Chance::Rest } else { Chance::Nth(every) }
    }

    /// Each rule has its own hash of the client and takes the least values of it. One endpoint more or less shifts these
    /// limits but little, so that most clients stay where they are.
    pub fn hashed(&mut self, weight: u32, seed: u32) -> Chance {
        let remaining = self.remaining;
        self.remaining -= weight;
        if self.remaining == 0 {
            return Chance::Rest;
        }
        let (nodes, total) = nearest(weight, remaining);
        Chance::Cluster { nodes, total, seed }
    }
}

/// The fraction nearest to `part / whole` that `xt_cluster` can express. It has up to 32 nodes; its iptables extension
/// refuses a node mask above 32, hence no more than five nodes of them (1.8.9).
fn nearest(part: u32, whole: u32) -> (u32, u32) {
    let wanted = f64::from(part) / f64::from(whole);
    let fractions = (1..=5).flat_map(|nodes| (nodes + 1..=32).map(move |total| (nodes, total)));
    let distance = |(nodes, total): &(u32, u32)| (f64::from(*nodes) / f64::from(*total) - wanted).abs();
    fractions.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or((1, 32))
}
