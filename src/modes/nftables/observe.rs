//! What is in our table.

use std::collections::BTreeMap;

use super::base::Style;
use super::error::{self, Error};
use super::held::{Held, Presence};
use super::key;
use super::member::Member;
use super::members::Led;
use super::names::{self, Keying, Set, SetId, SlotMap};
use super::numbers::ClassId;
use super::objects::{Content, HeldChain, Object, named};
use super::slots::{Packed, Target};
use super::volumes::SlotPlace;
use crate::kernel::nftables::set::SetData;
use crate::kernel::nftables::table::{Activity, Ownership};
use crate::kernel::nftables::{self as door, Element, InstalledRule, InstalledTable, Name, Nftables, Table};
use crate::model::{Family, FrontendKey};

/// `style` is any that the skeleton may have been written for: packets enter at the same hooks in all.
pub fn observe(nftables: &mut dyn Nftables, family: Family, style: &Style) -> Result<Held, Error> {
    let table = names::table(family);
    let tables = nftables.tables(table.family).map_err(error::observing)?;
    let Some(found) = tables.into_iter().find(|found| found.table == table) else {
        return Ok(Held::default());
    };
    check_owner(&found)?;
    let mut reading = Reading { nftables, family, table, held: Held::default() };
    let is_ours = reading.sets()? && reading.chains(style)?;
    let mut held = reading.held;
    // Newer kernels take no base chain in a transaction that ends a table's dormancy (`nf_tables_addchain`, Linux 6.9).
    let can_wake = found.activity == Activity::Active || has_base_chains(&held, style);
    if !(is_ours && can_wake) {
        return Ok(Held { table: Presence::OfAnotherShape, ..Held::default() });
    }
    held.table = match found.activity {
        Activity::Active => Presence::There,
        Activity::Dormant => Presence::Dormant,
    };
    held.objects.find_idle(style.counting());
    Ok(held)
}

fn has_base_chains(held: &Held, style: &Style) -> bool {
    let mut base = style.chains().into_iter().map(|(chain, _)| chain).filter(|chain| chain.base.is_some());
    base.all(|chain| held.objects.chains.contains_key(&chain.name))
}

fn check_owner(found: &InstalledTable) -> Result<(), Error> {
    let foreign = found.comment.as_ref().filter(|comment| comment.as_str() != names::COMMENT);
    match (found.ownership, foreign) {
        (Ownership::Socket, _) => Err(Error::Owned(found.table.clone())),
        (_, Some(comment)) => Err(Error::Foreign(found.table.clone(), comment.clone())),
        _ => Ok(()),
    }
}

struct Reading<'a> {
    nftables: &'a mut dyn Nftables,
    family: Family,
    table: Table,
    held: Held,
}

impl Reading<'_> {
    /// Whether they are as they would be made now.
    fn sets(&mut self) -> Result<bool, Error> {
        for set in self.nftables.sets(&self.table).map_err(error::observing)? {
            let id = SetId::parse(&set.name);
            if id.is_some_and(|id| !has_shape(&set, &id.declaration(self.family))) {
                return Ok(false);
            }
            match id {
                Some(SetId::Fixed(Set::Affinity, _)) | None => {}
                Some(SetId::Fixed(map @ (Set::Classes | Set::Timeouts), _)) => self.classes(&set, map)?,
                Some(SetId::Fixed(fixed, keying)) => self.members(&set, fixed, keying)?,
                Some(SetId::Slots(map)) => self.slots(&set, map)?,
            }
            self.held.objects.observed_set(set.name);
        }
        Ok(true)
    }

    fn classes(&mut self, set: &door::Set, map: Set) -> Result<(), Error> {
        let objects = &mut self.held.objects;
        let mut note = |element: &Element| {
            if let Some((id, verdict)) = ClassId::parse(map, element) {
                objects.observed_class(id, verdict);
            }
        };
        self.nftables.elements(&self.table, set, &mut note).map_err(error::observing)
    }

    fn members(&mut self, set: &door::Set, fixed: Set, keying: Keying) -> Result<(), Error> {
        let (family, held) = (self.family, &mut self.held);
        let mut note = |element: &Element| match Member::parse(fixed, keying, family, element) {
            Some((member, leads)) => {
                if let Some(class) = leads.as_ref().and_then(|leads| member.class(leads.to)) {
                    held.objects.observed_user(Object::Class(class));
                }
                held.members.insert(member, leads.as_ref().map(Led::by));
            }
            None => held.strangers.push((SetId::Fixed(fixed, keying), element.clone())),
        };
        self.nftables.elements(&self.table, set, &mut note).map_err(error::observing)
    }

    fn slots(&mut self, set: &door::Set, map: SlotMap) -> Result<(), Error> {
        let mut found: BTreeMap<FrontendKey, Vec<Option<Target>>> = BTreeMap::new();
        let (family, strangers) = (self.family, &mut self.held.strangers);
        let mut note = |element: &Element| match key::parse_slot(map, family, element) {
            Some((place, number, target)) => {
                let slots = found.entry(place).or_insert_with(|| vec![None; map.slots as usize]);
                slots[number] = Some(target);
            }
            None => strangers.push((SetId::Slots(map), element.clone())),
        };
        self.nftables.elements(&self.table, set, &mut note).map_err(error::observing)?;
        for (place, slots) in found {
            let SlotMap { policy, slots: count, volume, .. } = map;
            let at = SlotPlace { place, policy, count, volume };
            self.held.slots.insert(at, Packed::of(&slots));
        }
        Ok(())
    }

    /// Whether packets enter them where they would now.
    fn chains(&mut self, style: &Style) -> Result<bool, Error> {
        let mut rules: BTreeMap<Name, Vec<InstalledRule>> = BTreeMap::new();
        for rule in self.nftables.rules(&self.table, None).map_err(error::observing)? {
            rules.entry(rule.chain.clone()).or_default().push(rule);
        }
        let fixed = style.chains();
        for chain in self.nftables.chains(&self.table).map_err(error::observing)? {
            let wanted = fixed.iter().find(|(wanted, _)| wanted.name == chain.name);
            if wanted.is_some_and(|(wanted, _)| wanted.base != chain.base) {
                return Ok(false);
            }
            let rules = rules.remove(&chain.name).unwrap_or_default();
            let mut names = Vec::new();
            rules.iter().for_each(|rule| names.extend(named(&rule.expressions)));
            let held = HeldChain { names, content: Content::Observed(rules) };
            self.held.objects.observed_chain(chain.name, held);
        }
        Ok(true)
    }
}

/// Whether the kernel would look up and keep the same in both.
fn has_shape(found: &door::Set, wanted: &door::Set) -> bool {
    let data = |set: &door::Set| match &set.data {
        SetData::Value(shape) => Some(shape.kind()),
        _ => None,
    };
    let shape = |set: &door::Set| {
        (
            set.key.kind(),
            data(set),
            std::mem::discriminant(&set.data),
            set.intervals,
            set.dynamic,
            set.counted,
        )
    };
    shape(found) == shape(wanted)
}
