//! One endpoint after the other.

use super::Candidates;

/// Each in turn, weights aside.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    pub fn pick(&mut self, candidates: &impl Candidates) -> Option<usize> {
        let count = candidates.count();
        let picked =
            (0..count).map(|step| (self.next + step) % count).find(|index| candidates.is_usable(*index))?;
        self.next = picked + 1;
        Some(picked)
    }
}

/// Each as often as its weight says, those of one endpoint as far apart as they can be: the smooth order of nginx. Of
/// weights 5, 1 and 1 it makes `a a b a c a a`.
#[derive(Debug, Default)]
pub struct Smooth {
    credit: Vec<i64>,
}

impl Smooth {
    pub fn pick(&mut self, candidates: &impl Candidates) -> Option<usize> {
        self.credit.resize(candidates.count(), 0);
        let (mut best, mut total) = (None, 0);
        for index in (0..candidates.count()).filter(|index| candidates.is_usable(*index)) {
            let weight = i64::from(candidates.weight(index));
            self.credit[index] += weight;
            total += weight;
            if best.is_none_or(|best: usize| self.credit[index] > self.credit[best]) {
                best = Some(index);
            }
        }
        let picked = best?;
        self.credit[picked] -= total;
        Some(picked)
    }
}
