//! What this mode knows to be in the kernel.

use super::members::Members;
use super::names::SetId;
use super::objects::Objects;
use super::volumes::AllSlots;
use crate::kernel::nftables::Element;

/// As read, and as written since.
#[derive(Debug, Default)]
pub struct Held {
    pub table: Presence,
    pub members: Members,
    pub slots: AllSlots,
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
