//! How long to wait after a failure.

use std::time::{Duration, Instant};

/// Exponential waits with jitter, so that the proxies of 5,000 nodes do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
    last: Option<Instant>,
}

impl Backoff {
    pub fn new(shortest: Duration, longest: Duration) -> Backoff {
        Backoff { shortest, longest, next: shortest, last: None }
    }

    /// The wait after a failure at `now`; `dice` is in 0..1. It doubles until nothing has failed for twice the longest
    /// wait: a list that succeeds between two failures proves nothing (k8s#3216).
    pub fn wait(&mut self, now: Instant, dice: f64) -> Duration {
        let calm = self.last.is_some_and(|last| now.saturating_duration_since(last) > self.longest * 2);
        if calm {
            self.next = self.shortest;
        }
        self.last = Some(now);
        let wait = self.next.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// Begins with the shortest wait again.
    pub fn forget(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_calm() {
        let mut backoff = Backoff::new(MS(200), MS(1000));
        let start = Instant::now();
        let waits: Vec<_> = (0..5).map(|_| backoff.wait(start, 1.0)).collect();
        assert_eq!(waits, [MS(200), MS(400), MS(800), MS(1000), MS(1000)]);
        assert_eq!(backoff.wait(start + MS(2000), 1.0), MS(1000));
        assert_eq!(backoff.wait(start + MS(4001), 1.0), MS(200));
    }

    #[test]
    fn jitter_takes_away_half_at_most() {
        let wait = |dice| Backoff::new(MS(200), MS(1000)).wait(Instant::now(), dice);
        assert_eq!((wait(0.0), wait(1.0)), (MS(100), MS(200)));
    }
}
