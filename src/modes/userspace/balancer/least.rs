//! The endpoint that has the fewest connections.

use std::cmp::Ordering;

use super::Candidates;

/// What counts as few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    Connections,
    /// For each unit of its weight.
    ConnectionsPerWeight,
}

impl Load {
    fn compare(self, candidates: &impl Candidates, a: usize, b: usize) -> Ordering {
        let load = |of: usize, other: usize| match self {
            Load::Connections => u64::from(candidates.connections(of)),
            // a/w < b/v as a*v < b*w.
            Load::ConnectionsPerWeight => {
                u64::from(candidates.connections(of)) * u64::from(candidates.weight(other))
            }
        };
        load(a, b).cmp(&load(b, a))
    }
}

/// Of those that have equally few, one after the other.
#[derive(Debug)]
pub struct Least {
    load: Load,
    next: usize,
}

impl Least {
    pub fn new(load: Load) -> Self {
        Least { load, next: 0 }
    }

    pub fn pick(&mut self, candidates: &impl Candidates) -> Option<usize> {
        let count = candidates.count();
        let in_turn = (0..count).map(|step| (self.next + step) % count);
        let picked = in_turn.filter(|index| candidates.is_usable(*index)).reduce(|best, index| match self
            .load
            .compare(candidates, index, best)
        {
            Ordering::Less => index,
            _ => best,
        })?;
        self.next = picked + 1;
        Some(picked)
    }
}

/// Any, each as likely as the others.
pub fn random(candidates: &impl Candidates, draw: u64) -> Option<usize> {
    let usable = || (0..candidates.count()).filter(|index| candidates.is_usable(*index));
    let count = usable().count() as u64;
    if count == 0 { None } else { usable().nth((draw % count) as usize) }
}

/// The better one of two that are drawn: nearly as even as the best of all, and no herd runs to it (Mitzenmacher, 1996).
pub fn better_of_two(candidates: &impl Candidates, draw: u64) -> Option<usize> {
    let usable = || (0..candidates.count()).filter(|index| candidates.is_usable(*index));
    let count = usable().count() as u64;
    if count < 2 {
        return usable().next();
    }
    let first = draw % count;
    let second = (first + 1 + (draw >> 32) % (count - 1)) % count;
    let (first, second) = (usable().nth(first as usize)?, usable().nth(second as usize)?);
    match Load::ConnectionsPerWeight.compare(candidates, second, first) {
        Ordering::Less => Some(second),
        _ => Some(first),
    }
}
