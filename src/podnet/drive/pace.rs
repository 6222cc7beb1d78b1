//! How often routes are written.

use std::time::{Duration, Instant};

/// After a failure; doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When routes may be written again.
#[derive(Debug)]
pub(super) struct Pace {
    pub not_before: Instant,
    pause: Duration,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Pace { not_before: now, pause: FIRST_PAUSE }
    }

    /// As long as it took: whoever undoes our routes as fast as we make them costs half of the time at most.
    pub fn succeeded(&mut self, started: Instant, now: Instant) {
        self.pause = FIRST_PAUSE;
        self.not_before = now + (now - started).min(FIRST_PAUSE);
    }

    pub fn failed(&mut self, now: Instant) {
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_met_with_patience_and_success_ends_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut waits = Vec::new();
        for _ in 0..12 {
            pace.failed(start);
            waits.push((pace.not_before - start).as_millis());
        }
        assert_eq!((waits[0], waits[1], waits[11]), (50, 100, 30_000));
        pace.succeeded(start, start + Duration::from_millis(3));
        assert_eq!(pace.not_before, start + Duration::from_millis(6), "as long as it took");
        pace.failed(start);
        assert_eq!(pace.not_before, start + FIRST_PAUSE);
    }
}
