//! What this mode knows to be in the kernel.

use std::collections::BTreeMap;

use super::member::{Leads, Member};
use super::names::{Keying, SetId, SlotMap};
use super::objects::Objects;
use super::slots::Slots;
use crate::kernel::nftables::Element;
use crate::model::{FrontendKey, TrafficPolicy};

/// As read, and as written since.
#[derive(Debug, Default)]
pub struct Held {
    pub table: Presence,
    pub members: BTreeMap<Member, Option<Leads>>,
    pub slots: BTreeMap<SlotPlace, Slots>,
    pub objects: Objects,
    /// Elements of our sets that are never written here.
    pub strangers: Vec<(SetId, Element)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    #[default]
    Absent,
    There,
    /// There, and out of force until it is added again.
    Dormant,
    /// Another version made it, or somebody changed what only a new table can change back.
    OfAnotherShape,
}

/// The slots of a frontend in one map. It is in one for each policy, unless somebody else wrote to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotPlace {
    pub place: FrontendKey,
    pub policy: TrafficPolicy,
    pub count: u32,
}

impl SlotPlace {
    pub fn map(&self) -> SlotMap {
        SlotMap { keying: Keying::of(&self.place), policy: self.policy, slots: self.count }
    }
}

impl Held {
    /// The slots of a frontend in all maps.
    pub fn slots_of(
        &self,
        place: FrontendKey,
        policy: TrafficPolicy,
    ) -> impl Iterator<Item = (&SlotPlace, &Slots)> {
        let at = |count| SlotPlace { place, policy, count };
        self.slots.range(at(0)..=at(u32::MAX))
    }
}
