//! The same endpoint for the same hash on every node, with few that move when endpoints come and go (Eisenbud et al.,
//! Maglev, NSDI 2016).

use std::net::SocketAddr;

use super::{Arrival, Candidates, hash};

/// Slots of a table, a prime. With up to 160 endpoints no share is off by more than 1 %. It never changes, or all clients
/// would move at once; 32 KiB for each ServicePort that hashes.
pub const SLOTS: usize = 16_381;

/// Who has which slot.
pub struct Maglev {
    slots: Box<[u16]>,
}

impl std::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maglev")
    }
}

/// The order in which an endpoint takes slots.
struct Preference {
    next: usize,
    step: usize,
    weight: usize,
}

impl Preference {
    fn new(endpoint: SocketAddr, weight: usize) -> Self {
        let name = endpoint.to_string();
        let next = (hash(name.as_bytes(), 1) % SLOTS as u64) as usize;
        let step = (hash(name.as_bytes(), 2) % (SLOTS as u64 - 1)) as usize + 1;
        Preference { next, step, weight }
    }

    fn take(&mut self, slots: &mut [u16], owner: u16) {
        while slots[self.next] != FREE {
            self.next = (self.next + self.step) % SLOTS;
        }
        slots[self.next] = owner;
    }
}

const FREE: u16 = u16::MAX;

impl Maglev {
    /// Endpoints beyond [`SLOTS`] get nothing.
    pub fn new(endpoints: impl Iterator<Item = (SocketAddr, u16)>) -> Self {
        let endpoints: Vec<_> = endpoints.take(SLOTS).collect();
        let divisor = endpoints.iter().fold(0, |a, (_, weight)| greatest_common_divisor(a, *weight)).max(1);
        let prefer = |(endpoint, weight): &(SocketAddr, u16)| {
            Preference::new(*endpoint, usize::from(weight / divisor).max(1))
        };
        let mut preferences: Vec<_> = endpoints.iter().map(prefer).collect();
        let mut slots = vec![FREE; SLOTS].into_boxed_slice();
        if !preferences.is_empty() {
            fill(&mut slots, &mut preferences);
        }
        Maglev { slots }
    }

    /// If the owner of the slot is not usable, that of the next one that is.
    pub fn pick(&self, candidates: &impl Candidates, arrival: Arrival) -> Option<usize> {
        let first = (arrival.hash % SLOTS as u64) as usize;
        let from_there = self.slots[first..].iter().chain(&self.slots[..first]);
        let mut owners = from_there.map(|owner| usize::from(*owner));
        owners.find(|owner| *owner < candidates.count() && candidates.is_usable(*owner))
    }
}

fn fill(slots: &mut [u16], preferences: &mut [Preference]) {
    let mut free = SLOTS;
    loop {
        for (owner, preference) in preferences.iter_mut().enumerate() {
            for _ in 0..preference.weight {
                preference.take(slots, owner as u16);
                free -= 1;
                if free == 0 {
                    return;
                }
            }
        }
    }
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
