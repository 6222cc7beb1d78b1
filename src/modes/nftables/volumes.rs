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
}

impl<'a> Volumes<'a> {
    pub fn new(held: &'a AllSlots) -> Self {
        Volumes { held, moved: BTreeMap::new() }
    }

    /// Where a frontend with so many slots belongs: where it is, or the first volume with room.
    pub fn choose(&self, place: FrontendKey, policy: TrafficPolicy, count: u32) -> SlotPlace {
        if let Some(found) = self.held.places_of(place, policy).find(|at| at.count == count) {
            return found;
        }
        let volumes = (1..).map(|volume| SlotPlace { place, policy, count, volume });
        let mut with_room = volumes.filter(|at| self.frontends(&at.map()) < i64::from(at.map().room()));
        with_room.next().unwrap_or(SlotPlace { place, policy, count, volume: 1 })
    }

    pub fn note(&mut self, map: SlotMap, by: i64) {
        *self.moved.entry(map).or_default() += by;
    }

    fn frontends(&self, map: &SlotMap) -> i64 {
        let held = self.held.frontends.get(map).copied().unwrap_or_default();
        i64::from(held) + self.moved.get(map).copied().unwrap_or_default()
    }
}
