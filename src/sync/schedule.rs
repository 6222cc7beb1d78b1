//! When to sync: at once where possible, never more often than it can be afforded, again after a failure.
//!
//! Time comes in as `now`; nothing here reads a clock.

use std::time::{Duration, Instant};

/// The bounds that the user set, or the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The time between the end of one sync and the start of the next, `--iptables-min-sync-period`.
    /// `None` lets it follow what syncs cost.
    pub min: Option<Duration>,
    /// A sync that failed is retried after this time at the latest, `--iptables-sync-period`.
    pub max: Duration,
}

/// Where the user sets no minimum, a sync may take half of the time at most: the pause is as long as the sync was.
/// It never exceeds kube-proxy's own default of 1 s.
const LONGEST_ADAPTIVE_PAUSE: Duration = Duration::from_secs(1);

/// A failed sync is first retried after this time, then after twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Decides when the next sync is due.
///
/// Bounded frequency as in kube-proxy's `BoundedFrequencyRunner`, with two differences: the minimum adapts, and a
/// failure is retried with exponential back-off instead of after the whole sync period.
#[derive(Debug)]
pub struct Schedule {
    bounds: Bounds,
    /// Not before this time, whatever is requested.
    earliest: Option<Instant>,
    requested: Option<Instant>,
    retry: Option<Instant>,
    failures: u32,
}

impl Schedule {
    pub fn new(bounds: Bounds) -> Self {
        Schedule { bounds, earliest: None, requested: None, retry: None, failures: 0 }
    }

    /// Something changed: sync as soon as the bounds allow.
    pub fn request(&mut self, now: Instant) {
        self.requested.get_or_insert(now);
    }

    /// When a sync is due, or `None` if nothing is to do.
    pub fn due(&self) -> Option<Instant> {
        let wanted = match (self.requested, self.retry) {
            // A change does not wait for a retry's back-off: it may be the cure.
            (Some(requested), _) => requested,
            (None, Some(retry)) => retry,
            (None, None) => return None,
        };
        Some(self.earliest.map_or(wanted, |earliest| wanted.max(earliest)))
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// A sync that began at `started` is over and everything requested before is done.
    pub fn succeeded(&mut self, started: Instant, now: Instant) {
        self.failures = 0;
        self.retry = None;
        self.requested = None;
        self.earliest = Some(now + self.pause(now - started));
    }

    /// A sync that began at `started` failed: it is retried, later each time.
    pub fn failed(&mut self, started: Instant, now: Instant) {
        let back_off = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(self.bounds.max);
        self.failures += 1;
        self.requested = None;
        self.retry = Some(now + back_off);
        self.earliest = Some(now + self.pause(now - started).min(back_off));
    }

    fn pause(&self, cost: Duration) -> Duration {
        self.bounds.min.unwrap_or(cost.min(LONGEST_ADAPTIVE_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn adaptive() -> Schedule {
        Schedule::new(Bounds { min: None, max: Duration::from_secs(30) })
    }

    #[test]
    fn nothing_is_due_until_something_is_requested() {
        let now = Instant::now();
        let mut schedule = adaptive();
        assert_eq!(schedule.due(), None);
        schedule.request(now);
        assert!(schedule.is_due(now));
    }

    #[test]
    fn the_first_sync_is_immediate_even_with_a_large_minimum() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Bounds { min: Some(20 * 60 * 1000 * MS), max: 3600 * 1000 * MS });
        schedule.request(now);
        assert!(schedule.is_due(now), "k8s#53736: a large minSyncPeriod delayed the first sync by as much");
    }

    #[test]
    fn a_cheap_sync_is_hardly_held_back_and_a_dear_one_is() {
        let start = Instant::now();
        for (cost, pause) in [(2 * MS, 2 * MS), (400 * MS, 400 * MS), (5000 * MS, 1000 * MS)] {
            let mut schedule = adaptive();
            schedule.request(start);
            schedule.succeeded(start, start + cost);
            schedule.request(start + cost);
            assert_eq!(schedule.due(), Some(start + cost + pause));
        }
    }

    #[test]
    fn a_minimum_set_by_the_user_holds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Bounds { min: Some(1000 * MS), max: 30_000 * MS });
        schedule.request(start);
        schedule.succeeded(start, start + 2 * MS);
        schedule.request(start + 3 * MS);
        assert_eq!(schedule.due(), Some(start + 1002 * MS));
        assert!(!schedule.is_due(start + 1001 * MS));
    }

    #[test]
    fn failures_back_off_up_to_the_maximum_and_success_forgets_them() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(Bounds { min: None, max: 1000 * MS });
        let mut waits = Vec::new();
        for _ in 0..6 {
            schedule.failed(now, now);
            let due = schedule.due().expect("a failure is always retried");
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        schedule.succeeded(now, now);
        assert_eq!(schedule.due(), None);
        schedule.failed(now, now);
        assert_eq!(schedule.due(), Some(now + 100 * MS));
    }

    #[test]
    fn a_change_after_a_failure_does_not_wait_for_the_back_off() {
        let start = Instant::now();
        let mut schedule = adaptive();
        for _ in 0..8 {
            schedule.failed(start, start + 5 * MS);
        }
        schedule.request(start + 6 * MS);
        assert_eq!(schedule.due(), Some(start + 10 * MS));
    }

    #[test]
    fn a_due_time_in_the_past_does_not_spin_after_a_failure() {
        let start = Instant::now();
        let mut schedule = adaptive();
        schedule.request(start);
        schedule.failed(start, start + 50 * MS);
        assert!(!schedule.is_due(start + 50 * MS));
    }
}
