//! The slots of all frontends, and how full the maps are that hold them.

use std::collections::BTreeMap;

use super::names::{Keying, SlotMap};
use super::slots::{Packed, Slots};
use crate::model::{FrontendKey, TrafficPolicy};

/// The slots of a frontend in one map. It is in one for each policy, unless somebody else wrote to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotPlace {
    pub place: FrontendKey,
    pub policy: TrafficPolicy,
    pub count: u32,
    pub volume: u32,
}

impl SlotPlace {
    pub fn map(&self) -> SlotMap {
        let keying = Keying::of(&self.place);
        SlotMap { keying, policy: self.policy, slots: self.count, volume: self.volume }
    }
}

#[derive(Debug, Default)]
pub struct AllSlots {
    slots: BTreeMap<SlotPlace, Packed>,
    frontends: BTreeMap<SlotMap, u32>,
}

impl AllSlots {
    pub fn insert(&mut self, at: SlotPlace, slots: Packed) {
        if self.slots.insert(at, slots).is_none() {
            *self.frontends.entry(at.map()).or_default() += 1;
        }
    }

    pub fn remove(&mut self, at: &SlotPlace) {
        if self.slots.remove(at).is_some()
            && let Some(frontends) = self.frontends.get_mut(&at.map())
        {
            *frontends -= 1;
        }
    }

    pub fn places(&self) -> impl Iterator<Item = FrontendKey> {
        self.slots.keys().map(|at| at.place)
    }

    /// The slots of a frontend in all maps.
    pub fn of(&self, place: FrontendKey, policy: TrafficPolicy) -> impl Iterator<Item = (SlotPlace, Slots)> {
        self.range(place, policy).map(|(at, slots)| (*at, slots.unpacked()))
    }

    /// Where they are.
    pub fn places_of(&self, place: FrontendKey, policy: TrafficPolicy) -> impl Iterator<Item = SlotPlace> {
        self.range(place, policy).map(|(at, _)| *at)
    }

    fn range(
        &self,
        place: FrontendKey,
        policy: TrafficPolicy,
    ) -> impl Iterator<Item = (&SlotPlace, &Packed)> {
        let first = SlotPlace { place, policy, count: 0, volume: 0 };
        let last = SlotPlace { place, policy, count: u32::MAX, volume: u32::MAX };
        self.slots.range(first..=last)
    }
}

/// Which volumes a plan puts frontends into.
#[derive(Debug)]
pub struct Volumes<'a> {
    held: &'a AllSlots,
    /// How many frontends more or less than are held.
    moved: BTreeMap<SlotMap, i64>,
    /// For volumes that differ in nothing but their number, named by the first: lower ones are full. Of a large load every
    /// frontend would look at all of them.
    next: BTreeMap<SlotMap, u32>,
}

impl<'a> Volumes<'a> {
    pub fn new(held: &'a AllSlots) -> Self {
        Volumes { held, moved: BTreeMap::new(), next: BTreeMap::new() }
    }

    /// Where a frontend with so many slots belongs: where it is, or the first volume with room.
    pub fn choose(&self, place: FrontendKey, policy: TrafficPolicy, count: u32) -> SlotPlace {
        if let Some(found) = self.held.places_of(place, policy).find(|at| at.count == count) {
            return found;
        }
        let first = SlotPlace { place, policy, count, volume: 1 };
        let next = self.next.get(&first.map()).copied().unwrap_or(1);
        let volumes = (next..).map(|volume| SlotPlace { volume, ..first });
        let mut with_room = volumes.filter(|at| self.frontends(&at.map()) < i64::from(at.map().room()));
        with_room.next().unwrap_or(first)
    }

    /// So many frontends more in a volume that was chosen, or less in any.
    pub fn note(&mut self, map: SlotMap, by: i64) {
        *self.moved.entry(map).or_default() += by;
        let next = self.next.entry(SlotMap { volume: 1, ..map }).or_insert(1);
        match by {
            1.. => *next = map.volume.max(*next),
            0 => {}
            _ => *next = map.volume.min(*next),
        }
    }

    fn frontends(&self, map: &SlotMap) -> i64 {
        let held = self.held.frontends.get(map).copied().unwrap_or_default();
        i64::from(held) + self.moved.get(map).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Destination, Protocol};

    fn place(number: u16) -> FrontendKey {
        FrontendKey { destination: Destination::Node, protocol: Protocol::Tcp, port: number }
    }

    #[test]
    fn the_first_volume_with_room_is_taken_and_one_that_gets_room_again_too() {
        let held = AllSlots::default();
        let mut volumes = Volumes::new(&held);
        let take = |volumes: &mut Volumes<'_>, number| {
            let chosen = volumes.choose(place(number), TrafficPolicy::Cluster, 512);
            volumes.note(chosen.map(), 1);
            chosen
        };
        let rooms = [1, 2].map(|volume| slot_place(volume).map().room());
        let taken: Vec<u32> =
            (0..(rooms[0] + rooms[1] + 1) as u16).map(|number| take(&mut volumes, number).volume).collect();
        let count = |of| taken.iter().filter(|volume| **volume == of).count() as u32;
        assert_eq!([count(1), count(2), count(3)], [rooms[0], rooms[1], 1]);
        assert!(taken.is_sorted());
        volumes.note(slot_place(1).map(), -1);
        assert_eq!([1000, 1001].map(|number| take(&mut volumes, number).volume), [1, 3]);
    }

    fn slot_place(volume: u32) -> SlotPlace {
        SlotPlace { place: place(0), policy: TrafficPolicy::Cluster, count: 512, volume }
    }
}
