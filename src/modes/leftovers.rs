//! What another mode or another proxy may have left in the kernel.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use crate::kernel::iptables::Door;

use super::iptables::{remove_kube_proxy, remove_ours};

/// Why something could not be removed.
pub type RemovalError = Box<dyn Error + Send + Sync>;

/// Something that a node must not have beside the mode in use. It is removed once that mode's own rules are in place, so
/// that there is no moment without any.
pub trait Leftovers: fmt::Debug {
    /// Removes it, or what of it can go now. Done if there is none.
    fn remove(&mut self, now: Instant) -> Result<(), RemovalError>;

    /// When more of it may go: connections go on through the rest.
    fn wake(&self) -> Option<Instant> {
        None
    }

    /// Whether it has to go before other rules are in: what these mark it would take for its own.
    fn is_in_the_way(&self) -> bool {
        false
    }
}

/// All that an earlier proxy may have left.
#[derive(Debug, Default)]
pub struct Predecessors {
    left: Vec<Box<dyn Leftovers>>,
}

impl Predecessors {
    pub fn new(left: Vec<Box<dyn Leftovers>>) -> Self {
        Predecessors { left }
    }

    /// Removes what is in the way of rules that are about to be written. What fails is tried again by [`retire`](Self::retire).
    pub fn make_way(&mut self, now: Instant) {
        self.left.retain_mut(|left| !left.is_in_the_way() || left.remove(now).is_err());
    }

    /// Removes what can go now, going on after an error. Returns the first. What failed is tried again by the next call.
    pub fn retire(&mut self, now: Instant) -> Result<(), RemovalError> {
        let mut outcome = Ok(());
        self.left.retain_mut(|left| {
            if left.wake().is_some_and(|wake| wake > now) {
                return true;
            }
            let removed = left.remove(now);
            let stays = removed.is_err() || left.wake().is_some();
            if outcome.is_ok() {
                outcome = removed;
            }
            stays
        });
        outcome
    }

    pub fn wake(&self) -> Option<Instant> {
        self.left.iter().filter_map(|left| left.wake()).min()
    }
}

/// Rules in the flavour of iptables that is not in use: both are asked for each packet, and the first to translate it
/// wins, with endpoints of long ago (k8s#71305).
#[derive(Debug)]
pub struct OtherFlavour<D>(pub D);

impl<D: Door + fmt::Debug> Leftovers for OtherFlavour<D> {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        remove_ours(&mut self.0)?;
        Ok(remove_kube_proxy(&mut self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    /// Goes when it has been asked so often, once each second.
    #[derive(Debug)]
    struct Slow {
        asked: Rc<Cell<u32>>,
        goes_at: u32,
        wake: Option<Instant>,
    }

    impl Leftovers for Slow {
        fn remove(&mut self, now: Instant) -> Result<(), RemovalError> {
            self.asked.set(self.asked.get() + 1);
            self.wake = (self.asked.get() < self.goes_at).then(|| now + Duration::from_secs(1));
            Ok(())
        }

        fn wake(&self) -> Option<Instant> {
            self.wake
        }
    }

    #[test]
    fn what_goes_slowly_is_asked_when_it_says_and_holds_up_nothing_else() {
        let asked = [Rc::new(Cell::new(0)), Rc::new(Cell::new(0))];
        let slow = |of: usize, goes_at| -> Box<dyn Leftovers> {
            Box::new(Slow { asked: Rc::clone(&asked[of]), goes_at, wake: None })
        };
        let mut predecessors = Predecessors::new(vec![slow(0, 3), slow(1, 1)]);
        let start = Instant::now();
        assert_eq!(predecessors.wake(), None);
        predecessors.retire(start).unwrap();
        assert_eq!(predecessors.wake(), Some(start + Duration::from_secs(1)));
        predecessors.retire(start + Duration::from_millis(1)).unwrap();
        assert_eq!((asked[0].get(), asked[1].get()), (1, 1));
        (1..5).for_each(|seconds| predecessors.retire(start + Duration::from_secs(seconds)).unwrap());
        assert_eq!((asked[0].get(), asked[1].get()), (3, 1));
        assert_eq!(predecessors.wake(), None);
    }

    #[derive(Debug)]
    struct InTheWay(Rc<Cell<u32>>);

    impl Leftovers for InTheWay {
        fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
            self.0.set(self.0.get() + 1);
            if self.0.get() < 2 { Err("busy".into()) } else { Ok(()) }
        }

        fn is_in_the_way(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_is_in_the_way_goes_before_the_rest_and_is_tried_again() {
        let (early, late) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let slow = Slow { asked: Rc::clone(&late), goes_at: 1, wake: None };
        let mut predecessors = Predecessors::new(vec![Box::new(InTheWay(Rc::clone(&early))), Box::new(slow)]);
        let now = Instant::now();
        predecessors.make_way(now);
        assert_eq!((early.get(), late.get()), (1, 0));
        assert!(predecessors.retire(now).is_ok());
        assert_eq!((early.get(), late.get()), (2, 1));
        predecessors.make_way(now);
        assert_eq!(early.get(), 2, "it is gone");
    }
}
