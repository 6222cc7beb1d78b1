//! Endpoints that left their Service while they had connections.
//!
//! Such a destination gets the weight 0, which keeps the connections that it has, and goes when they have ended. The
//! kernel does not tell when that is, so it is asked: after a second first, and less often the longer it takes.
//! kube-proxy asks once a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::kernel::ipvs::VirtualServer;

pub(super) const FIRST_LOOK: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A destination of a virtual server.
pub type Place = (VirtualServer, SocketAddr);

/// Every destination that drains.
#[derive(Debug, Default)]
pub struct Drains {
    drains: BTreeMap<Place, Drain>,
    by_time: BTreeSet<(Instant, Place)>,
    /// Those that have no connections any more, or had their time.
    over: BTreeSet<Place>,
    /// How long connections are waited for; `None` is for ever.
    limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    since: Instant,
    pause: Duration,
    look: Instant,
}

impl Drains {
    pub fn new(limit: Option<Duration>) -> Self {
        Drains { limit, ..Drains::default() }
    }

    pub fn len(&self) -> usize {
        self.drains.len()
    }

    pub fn contains(&self, place: &Place) -> bool {
        self.drains.contains_key(place)
    }

    pub fn is_over(&self, place: &Place) -> bool {
        self.over.contains(place)
    }

    pub fn start(&mut self, place: Place, now: Instant) {
        if self.drains.contains_key(&place) {
            return;
        }
        let look = now + self.limit.unwrap_or(FIRST_LOOK).min(FIRST_LOOK);
        let drain = Drain { since: now, pause: FIRST_LOOK, look };
        self.by_time.insert((look, place));
        self.drains.insert(place, drain);
    }

    /// It is gone, or serves again.
    pub fn end(&mut self, place: &Place) {
        if let Some(drain) = self.drains.remove(place) {
            self.by_time.remove(&(drain.look, *place));
            self.over.remove(place);
        }
    }

    /// When to look next.
    pub fn wake(&self) -> Option<Instant> {
        self.by_time.first().map(|(look, _)| *look)
    }

    /// Those whose connections are to be counted now.
    pub fn due(&self, now: Instant) -> Vec<Place> {
        self.by_time.iter().take_while(|(look, _)| *look <= now).map(|(_, place)| *place).collect()
    }

    /// What a count of its connections says; `None` if it could not be counted.
    pub fn counted(&mut self, place: &Place, connections: Option<u32>, now: Instant) {
        let Some(mut drain) = self.drains.get(place).copied() else { return };
        self.by_time.remove(&(drain.look, *place));
        let deadline = self.limit.map(|limit| drain.since + limit);
        if connections == Some(0) || deadline.is_some_and(|deadline| deadline <= now) {
            self.over.insert(*place);
        }
        drain.pause = (drain.pause * 2).min(LONGEST_PAUSE);
        drain.look = now + drain.pause;
        if let Some(deadline) = deadline.filter(|deadline| *deadline > now) {
            drain.look = drain.look.min(deadline);
        }
        self.by_time.insert((drain.look, *place));
        self.drains.insert(*place, drain);
    }

    /// Those that can go.
    pub fn over(&self) -> impl Iterator<Item = &Place> {
        self.over.iter()
    }

    /// Forgets those that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&Place) -> bool) {
        let gone: Vec<_> = self.drains.keys().filter(|place| !is_there(place)).copied().collect();
        gone.iter().for_each(|place| self.end(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    const SECOND: Duration = Duration::from_secs(1);

    fn place(port: u16) -> Place {
        let at = SocketAddr::new([10, 96, 0, 10].into(), 80);
        (VirtualServer::new(Protocol::Tcp, at), SocketAddr::new([10, 244, 1, 5].into(), port))
    }

    #[test]
    fn looks_come_less_often_and_never_stop() {
        let start = Instant::now();
        let mut drains = Drains::new(None);
        drains.start(place(1), start);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let look = drains.wake().unwrap();
            assert_eq!(drains.due(look - Duration::from_millis(1)), []);
            drains.counted(&place(1), Some(3), look);
            pauses.push((drains.wake().unwrap() - look).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(drains.over().count(), 0);
    }

    #[test]
    fn one_without_connections_can_go() {
        let start = Instant::now();
        let mut drains = Drains::new(None);
        drains.start(place(1), start);
        drains.start(place(2), start);
        drains.counted(&place(1), None, start + SECOND);
        drains.counted(&place(2), Some(0), start + SECOND);
        assert_eq!(drains.over().collect::<Vec<_>>(), [&place(2)]);
        drains.end(&place(2));
        assert_eq!((drains.len(), drains.wake()), (1, Some(start + 3 * SECOND)));
    }

    #[test]
    fn a_limit_holds_to_the_moment() {
        let start = Instant::now();
        let mut drains = Drains::new(Some(5 * SECOND));
        drains.start(place(1), start);
        for after in [1, 3] {
            assert_eq!(drains.wake(), Some(start + after * SECOND));
            drains.counted(&place(1), Some(9), start + after * SECOND);
        }
        assert_eq!(drains.wake(), Some(start + 5 * SECOND));
        drains.counted(&place(1), Some(9), start + 5 * SECOND);
        assert!(drains.is_over(&place(1)));
    }
}
