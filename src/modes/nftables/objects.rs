//! Chains and sets, and how many elements and rules lead to each: what nothing leads to any more can go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::base::Style;
use super::hooks::{CHAINS, COUNTING_CHAINS};
use super::names::{Set, SetId};
use super::numbers::{ClassId, Number, Numbers};
use super::traffic::Counting;
use crate::kernel::nftables::expression::Expression;
use crate::kernel::nftables::{InstalledRule, Name, Verdict};

/// How long nothing must have led to something before it goes. Before Linux 6.2 a chain counts elements that led to it
/// until they are freed, a moment after the transaction that deleted them.
pub const GRACE: Duration = Duration::from_secs(1);

/// Something that rules or elements can name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Class(ClassId),
    Chain(Name),
    Set(Name),
}

impl Object {
    /// Whether it is there whatever Services there are.
    fn is_of_skeleton(&self, counting: Counting) -> bool {
        let counts = counting == Counting::On;
        match self {
            Object::Class(id) => id.number == Number::ACCEPT,
            Object::Chain(name) => CHAINS.contains(&&**name) || counts && COUNTING_CHAINS.contains(&&**name),
            Object::Set(name) => match SetId::parse(name) {
                Some(SetId::Fixed(set, _)) => counts || !Set::COUNTING.contains(&set),
                _ => false,
            },
        }
    }
}

/// A chain that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldChain {
    /// What its rules name.
    pub names: Vec<Object>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// As its name says, or as the skeleton has it.
    Written,
    Observed(Vec<InstalledRule>),
}

#[derive(Debug, Default)]
pub struct Objects {
    pub chains: BTreeMap<Name, HeldChain>,
    pub numbers: Numbers,
    sets: BTreeSet<Name>,
    users: BTreeMap<Object, usize>,
    /// Those without a user, since when, as far as that is known.
    idle: BTreeMap<Object, Option<Instant>>,
    /// What the skeleton was written for.
    pub written_for: Option<Style>,
    counting: Counting,
}

/// What a plan makes of them.
#[derive(Debug, Default)]
pub struct ObjectChanges {
    /// Created, written anew or found to be as they should.
    pub chains: BTreeMap<Name, HeldChain>,
    pub sets: Vec<Name>,
    pub numbers: Numbers,
    pub gone: Vec<Object>,
    /// How many users more or less.
    pub users: BTreeMap<Object, isize>,
    pub skeleton: Option<Style>,
}

impl ObjectChanges {
    pub fn count(&mut self, objects: impl IntoIterator<Item = Object>, by: isize) {
        for object in objects {
            *self.users.entry(object).or_default() += by;
        }
    }
}

impl Objects {
    pub fn has_set(&self, name: &str) -> bool {
        self.sets.contains(name)
    }

    pub fn observed_chain(&mut self, name: Name, chain: HeldChain) {
        self.observed_users(&chain.names);
        self.chains.insert(name, chain);
    }

    pub fn observed_class(&mut self, id: ClassId, verdict: Verdict) {
        self.observed_users(&led_to(&verdict));
        self.numbers.insert(id, verdict);
    }

    pub fn observed_set(&mut self, name: Name) {
        self.sets.insert(name);
    }

    fn observed_users(&mut self, of: &[Object]) {
        of.iter().for_each(|object| self.observed_user(object.clone()));
    }

    pub fn observed_user(&mut self, of: Object) {
        *self.users.entry(of).or_default() += 1;
    }

    /// To be called when everything was observed.
    pub fn find_idle(&mut self, counting: Counting) {
        self.counting = counting;
        let chains = self.chains.keys().cloned().map(Object::Chain);
        let classes = self.numbers.all().map(|(id, _)| Object::Class(*id));
        let all = chains.chain(self.sets.iter().cloned().map(Object::Set)).chain(classes);
        let is_idle = |object: &Object| !self.users.contains_key(object) && !object.is_of_skeleton(counting);
        self.idle = all.filter(is_idle).map(|object| (object, None)).collect();
    }

    /// What can go now.
    pub fn sweepable(&self, now: Instant) -> impl Iterator<Item = &Object> {
        let is_over = move |since: &Option<Instant>| since.is_some_and(|since| since + GRACE <= now);
        self.idle.iter().filter(move |(_, since)| is_over(since)).map(|(object, _)| object)
    }

    /// When something can go.
    pub fn wake(&self) -> Option<Instant> {
        self.idle.values().flatten().min().map(|since| *since + GRACE)
    }

    /// The changes are in the kernel.
    pub fn learn(&mut self, changes: ObjectChanges, now: Instant) {
        let ObjectChanges { chains, sets, numbers, gone, users, skeleton } = changes;
        if let Some(style) = &skeleton {
            self.counting = style.counting();
        }
        let unknown = self.idle.iter().filter(|(_, since)| since.is_none()).map(|(object, _)| object.clone());
        let mut touched: Vec<Object> = unknown.collect();
        touched.extend(chains.keys().cloned().map(Object::Chain));
        touched.extend(sets.iter().cloned().map(Object::Set));
        for (id, verdict) in numbers.all() {
            touched.push(Object::Class(*id));
            self.numbers.insert(*id, verdict.clone());
        }
        self.chains.extend(chains);
        self.sets.extend(sets);
        for (object, by) in users {
            let count = self.users.remove(&object).unwrap_or_default().saturating_add_signed(by);
            if count > 0 {
                self.users.insert(object.clone(), count);
            }
            touched.push(object);
        }
        touched.into_iter().for_each(|object| self.settle(object, now));
        gone.iter().for_each(|object| self.forget(object));
        self.written_for = skeleton.or(self.written_for.take());
    }

    fn settle(&mut self, object: Object, now: Instant) {
        if self.users.contains_key(&object) || object.is_of_skeleton(self.counting) {
            self.idle.remove(&object);
        } else {
            self.idle.entry(object).or_default().get_or_insert(now);
        }
    }

    fn forget(&mut self, object: &Object) {
        self.idle.remove(object);
        match object {
            Object::Class(id) => self.numbers.remove(*id),
            Object::Chain(name) => drop(self.chains.remove(name)),
            Object::Set(name) => drop(self.sets.remove(name)),
        }
    }
}

/// Where an element leads.
pub fn led_to(verdict: &Verdict) -> Vec<Object> {
    verdict.chain().cloned().map(Object::Chain).into_iter().collect()
}

/// What a rule names.
pub fn named(expressions: &[Expression]) -> impl Iterator<Item = Object> {
    expressions.iter().filter_map(|expression| match expression {
        Expression::Verdict(verdict) => verdict.chain().cloned().map(Object::Chain),
        Expression::Lookup { set, .. } | Expression::ChangeSet { set, .. } => Some(Object::Set(set.clone())),
        Expression::Map { map, .. } | Expression::MappedCounter { map, .. } => Some(Object::Set(map.clone())),
        _ => None,
    })
}
