//! What other proxies left in the kernel: it goes once our own rules are in, and what cannot go yet is tried again.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::schedule::{Bounds, Schedule};

/// Between two attempts: somebody's rule may keep one of their sets for ever.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Predecessors {
    schedule: Schedule,
    /// When more of them may go: connections go on through the rest.
    leaving: Option<Instant>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Nothing was tried yet.
    Unknown,
    /// The last attempt ended with these words.
    Remain(String),
    /// What connections go on through is still there, and all else gone.
    Leaving,
    Gone,
}

/// What an attempt found out that was not known before.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Remain(String),
    /// After it was told that they remain, or when the last connection through them has ended.
    Gone,
}

impl Default for Predecessors {
    fn default() -> Self {
        let schedule = Schedule::new(Bounds { min: None, max: LONGEST_PAUSE });
        Predecessors { schedule, leaving: None, state: State::Unknown }
    }
}

impl Predecessors {
    /// Rules of our own are in: from here on a change from another proxy loses no connection.
    pub fn replaced(&mut self, now: Instant) {
        if self.state == State::Unknown && self.schedule.due().is_none() {
            self.schedule.request(now);
        }
    }

    /// Nothing of them was removed yet.
    pub fn are_untouched(&self) -> bool {
        self.state == State::Unknown
    }

    pub fn due(&self) -> Option<Instant> {
        [self.schedule.due(), self.leaving].into_iter().flatten().min()
    }

    /// Tries to remove them: whether it failed, and when more of them may go. A failed attempt is made again, later each time.
    pub fn attempt<E: Display>(
        &mut self,
        remove: impl FnOnce() -> (Result<(), E>, Option<Instant>),
        clock: impl Fn() -> Instant,
    ) -> Option<News> {
        let started = clock();
        let (result, leaving) = remove();
        self.leaving = leaving;
        match &result {
            Ok(()) => self.schedule.succeeded(started, clock()),
            Err(_) => self.schedule.failed(started, clock()),
        }
        let done = if leaving.is_some() { State::Leaving } else { State::Gone };
        let state = result.map_or_else(|error| State::Remain(error.to_string()), |()| done);
        let before = std::mem::replace(&mut self.state, state);
        match (&before, &self.state) {
            (State::Remain(_) | State::Leaving, State::Gone) => Some(News::Gone),
            (_, State::Remain(error)) if before != self.state => Some(News::Remain(error.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_before_our_rules_are_in_and_what_went_is_not_looked_for_again() {
        let now = Instant::now();
        let mut predecessors = Predecessors::default();
        assert_eq!(predecessors.due(), None);
        predecessors.replaced(now);
        assert_eq!(predecessors.due(), Some(now));
        assert_eq!(predecessors.attempt(|| (Ok::<_, String>(()), None), || now), None);
        predecessors.replaced(now);
        assert_eq!(predecessors.due(), None);
    }

    #[test]
    fn i8_what_is_busy_is_tried_again_later_each_time_and_told_once() {
        let mut now = Instant::now();
        let mut predecessors = Predecessors::default();
        predecessors.replaced(now);
        let mut pauses = Vec::new();
        for attempt in 0..11 {
            let news = predecessors.attempt(|| (Err("busy"), None), || now);
            assert_eq!(news, (attempt == 0).then(|| News::Remain("busy".into())));
            // A sync meanwhile changes nothing.
            predecessors.replaced(now);
            let due = predecessors.due().unwrap();
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(predecessors.attempt(|| (Ok::<_, String>(()), None), || now), Some(News::Gone));
        assert_eq!(predecessors.due(), None);
    }

    #[test]
    fn what_connections_go_on_through_is_asked_for_when_it_may_be_gone() {
        let now = Instant::now();
        let mut predecessors = Predecessors::default();
        predecessors.replaced(now);
        let later = now + Duration::from_secs(5);
        assert_eq!(predecessors.attempt(|| (Ok::<_, String>(()), Some(later)), || now), None);
        assert_eq!(predecessors.due(), Some(later));
        let news = predecessors.attempt(|| (Ok::<_, String>(()), None), || later);
        assert_eq!((news, predecessors.due()), (Some(News::Gone), None));
    }
}
