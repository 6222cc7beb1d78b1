//! Schedulers against endpoints that are only numbers, and Services against the list of kube-proxy's round-robin balancer.

mod schedulers;
mod services;

use std::cell::{Cell, RefCell};

use super::Candidates;

/// Endpoints with their weights and connections. Some take none.
struct Some {
    weights: Vec<u32>,
    connections: RefCell<Vec<u32>>,
    out: RefCell<Vec<usize>>,
    looks: Cell<usize>,
}

impl Some {
    fn of(weights: &[u32]) -> Self {
        Some {
            weights: weights.into(),
            connections: RefCell::new(vec![0; weights.len()]),
            out: RefCell::default(),
            looks: Cell::new(0),
        }
    }

    fn equal(count: usize) -> Self {
        Self::of(&vec![1; count])
    }

    fn connect(&self, index: usize) {
        self.connections.borrow_mut()[index] += 1;
    }
}

impl Candidates for Some {
    fn count(&self) -> usize {
        self.weights.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    fn connections(&self, index: usize) -> u32 {
        self.connections.borrow()[index]
    }

    fn is_usable(&self, index: usize) -> bool {
        self.looks.set(self.looks.get() + 1);
        !self.out.borrow().contains(&index)
    }
}
