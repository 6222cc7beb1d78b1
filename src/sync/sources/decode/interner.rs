//! One copy of every name.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::sync::objects::Hints;

/// The strings and hints that occur over and over: namespaces, Services, nodes, zones, ports.
#[derive(Default)]
pub struct Interner {
    names: Shared<str>,
    hints: Shared<Hints>,
}

impl Interner {
    pub fn name(&mut self, name: &str) -> Arc<str> {
        self.names.share(name, || Arc::from(name))
    }

    pub fn hints(&mut self, hints: Hints) -> Arc<Hints> {
        match self.hints.known.get(&hints) {
            Some(known) => Arc::clone(known),
            None => self.hints.insert(Arc::new(hints)),
        }
    }
}

struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>, FixedState>,
    /// How many there may be before those that nobody uses any more are looked for.
    sweep_at: usize,
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn share(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        match self.known.get(value) {
            Some(known) => Arc::clone(known),
            None => self.insert(make()),
        }
    }

    fn insert(&mut self, value: Arc<T>) -> Arc<T> {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.known.len() * 2).max(Self::SMALLEST_SWEEP);
        }
        self.known.insert(Arc::clone(&value));
        value
    }

    const SMALLEST_SWEEP: usize = 1024;
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Shared { known: HashSet::default(), sweep_at: 1024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_memory() {
        let mut interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.name("kube-system"), &interner.name("kube-system")));
        let hints = Hints { zones: [interner.name("a")].into(), nodes: [].into() };
        assert!(Arc::ptr_eq(&interner.hints(hints.clone()), &interner.hints(hints)));
    }

    /// Pods, nodes and Services come and go for months (A6).
    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.name("kept");
        for i in 0..100_000 {
            interner.name(&format!("pod-{i}"));
        }
        assert!(interner.names.known.len() <= 2048, "{}", interner.names.known.len());
        assert!(Arc::ptr_eq(&kept, &interner.name("kept")));
    }
}
