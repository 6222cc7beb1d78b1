//! What to do so that the kernel holds what the table says, as data.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::affinity::Purge;
use super::held::{Held, Presence};
use super::key::Key;
use super::member::Member;
use super::members::Led;
use super::names::SetId;
use super::objects::ObjectChanges;
use super::slots::Packed;
use super::volumes::SlotPlace;
use super::work::Rest;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Name, NftablesError, Refusal, Transaction};
use crate::model::{Family, FrontendKey, ServicePortName};

/// One transaction, of several where there is much to do, and what is known when it is done. `Display` is a script for `nft -f`.
#[derive(Debug)]
pub struct Plan {
    pub(super) written: Written,
    pub(super) outcome: Outcome,
    /// Clients to forget once no new ones can be remembered for what left.
    pub(super) purge: Purge,
    /// What the next plan has to look at, if this one is a part.
    pub(super) rest: Option<Rest>,
    /// When it was made.
    pub(super) made: Instant,
}

/// What goes to the kernel.
#[derive(Debug)]
pub(super) struct Written {
    pub family: Family,
    pub transaction: Transaction,
    pub owners: Owners,
}

/// Whom to blame for what.
#[derive(Debug, Default)]
pub(super) struct Owners {
    pub places: BTreeMap<FrontendKey, ServicePortName>,
    /// The first that needed a chain or a set.
    pub objects: BTreeMap<Name, ServicePortName>,
}

/// What the kernel holds after the plan, where that differs from before.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// `None` for one that is gone.
    pub members: Vec<(Member, Option<Option<Led>>)>,
    /// `None` for those that are gone.
    pub slots: Vec<(SlotPlace, Option<Packed>)>,
    pub objects: ObjectChanges,
}

impl Plan {
    /// Elements, and whatever else is added or deleted.
    pub fn operations(&self) -> usize {
        let count = |operation: &Operation| match operation {
            Operation::AddElements { elements, .. } | Operation::DeleteElements { elements, .. } => {
                elements.len()
            }
            _ => 1,
        };
        self.written.transaction.operations.iter().map(count).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.written.transaction.is_empty()
    }
}

impl Written {
    /// The ServicePort that the kernel means.
    pub fn culprit(&self, error: &NftablesError) -> Option<ServicePortName> {
        error.refusals().iter().find_map(|refusal| self.owner(refusal)).cloned()
    }

    fn owner(&self, refusal: &Refusal) -> Option<&ServicePortName> {
        match self.transaction.operations.get(refusal.operation)? {
            Operation::AddElements { set, .. } | Operation::DeleteElements { set, .. } => {
                let keying = match SetId::parse(set)? {
                    SetId::Fixed(_, keying) => keying,
                    SetId::Slots(map) => map.keying,
                };
                let element = refusal.element.as_ref()?;
                let place = Key::new(self.family, element.key.as_bytes()).place(keying)?;
                self.owners.places.get(&place)
            }
            Operation::AddChain(chain) => self.owners.objects.get(&chain.name),
            Operation::AddRule { chain, .. } => self.owners.objects.get(chain),
            Operation::AddSet(set) => self.owners.objects.get(&set.name),
            _ => None,
        }
    }
}

impl Outcome {
    /// The plan is in the kernel.
    pub fn learn(self, held: &mut Held, now: Instant) {
        held.table = Presence::There;
        held.strangers.clear();
        for (member, after) in self.members {
            match after {
                Some(led) => held.members.insert(member, led),
                None => held.members.remove(&member),
            }
        }
        for (place, after) in self.slots {
            match after {
                Some(slots) => held.slots.insert(place, slots),
                None => held.slots.remove(&place),
            }
        }
        held.objects.learn(self.objects, now);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.written.transaction, self.purge)
    }
}
