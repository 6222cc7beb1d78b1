//! Numbers of classes. A map from frontends to chains would have the kernel walk all of it for each change; numbers cost
//! nothing, and the map from those to chains is small.

use std::collections::BTreeMap;
use std::fmt;

use super::names::{Keying, Set, SetId};
use crate::kernel::nftables::element::ElementValue;
use crate::kernel::nftables::{Element, Name, Value, Verdict};

/// Of a class, as a class of traffic control: the priority of a packet is where it is kept between two lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u32);

impl Number {
    /// Of no class: the packet is left as it is.
    pub const ACCEPT: Number = Number(0);

    pub fn value(self) -> Value {
        Value::priority(self.0)
    }

    pub fn parse(value: &Value) -> Option<Self> {
        value.as_bytes().try_into().ok().map(|bytes| Number(u32::from_ne_bytes(bytes)))
    }
}

/// An element of a map from numbers to chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassId {
    /// [`Set::Classes`] or [`Set::Timeouts`]: the kernel takes chains that translate only where nat is done.
    pub map: Set,
    pub number: Number,
}

impl ClassId {
    pub fn accept(map: Set) -> Self {
        ClassId { map, number: Number::ACCEPT }
    }

    pub fn set(self) -> SetId {
        SetId::Fixed(self.map, Keying::Address)
    }

    pub fn element(self, verdict: &Verdict) -> Element {
        Element::of_verdict_map(self.number.value(), verdict.clone())
    }

    /// With where it leads.
    pub fn parse(map: Set, element: &Element) -> Option<(Self, Verdict)> {
        let ElementValue::Verdict(verdict) = &element.data else { return None };
        Some((ClassId { map, number: Number::parse(&element.key)? }, verdict.clone()))
    }
}

/// `element 0:3 of classes`
impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {} of {}", self.number.value(), self.set())
    }
}

/// Which numbers stand for what.
#[derive(Debug, Default)]
pub struct Numbers {
    verdicts: BTreeMap<ClassId, Verdict>,
    chains: BTreeMap<(Set, Name), Number>,
}

impl Numbers {
    pub fn insert(&mut self, id: ClassId, verdict: Verdict) {
        self.remove(id);
        if let Some(chain) = verdict.chain() {
            self.chains.insert((id.map, chain.clone()), id.number);
        }
        self.verdicts.insert(id, verdict);
    }

    pub fn remove(&mut self, id: ClassId) {
        let Some(verdict) = self.verdicts.remove(&id) else { return };
        if let Some(chain) = verdict.chain() {
            let key = (id.map, chain.clone());
            if self.chains.get(&key) == Some(&id.number) {
                self.chains.remove(&key);
            }
        }
    }

    pub fn verdict(&self, id: ClassId) -> Option<&Verdict> {
        self.verdicts.get(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = (&ClassId, &Verdict)> {
        self.verdicts.iter()
    }

    /// That leads to a chain.
    pub fn of_chain(&self, map: Set, chain: &Name) -> Option<Number> {
        self.chains.get(&(map, chain.clone())).copied()
    }

    /// The lowest that is not in use, from one on.
    pub fn free(&self, map: Set, first: u32) -> Number {
        let is_used = |number: &u32| self.verdicts.contains_key(&ClassId { map, number: Number(*number) });
        Number((first..).find(|number| !is_used(number)).unwrap_or(u32::MAX))
    }
}
