//! Sets in memory, as strict as the kernel's.

use std::collections::BTreeMap;

use super::{
    Change, Definition, Element, Header, Marks, Member, Refusal, RefusedChange, SetError, SetType, Sets,
};
use crate::model::Family;

#[derive(Default)]
pub struct FakeSets {
    pub sets: BTreeMap<Box<str>, FakeSet>,
    /// Types that this kernel lacks.
    pub unknown: Vec<SetType>,
    /// Everything that was asked for and done, as text.
    pub commands: Vec<String>,
}

pub struct FakeSet {
    pub definition: Definition,
    pub members: BTreeMap<Element, Option<u32>>,
    /// How many rules refer to it. They refer to a name: it stays with it when sets are swapped.
    pub references: u32,
}

impl FakeSets {
    /// What `ipset save` prints of one set, without the options.
    pub fn list(&self, name: &str) -> Vec<String> {
        let members = self.sets.get(name).map(|set| &set.members);
        let print =
            |(element, mark): (&Element, &Option<u32>)| Member { element: *element, mark: *mark }.to_string();
        members.into_iter().flatten().map(print).collect()
    }

    fn find(&mut self, name: &str) -> Result<&mut FakeSet, Refusal> {
        if name.is_empty() || name.len() > 31 {
            return Err(Refusal::Name);
        }
        self.sets.get_mut(name).ok_or(Refusal::NoSuchSet)
    }

    fn run(
        &mut self,
        command: String,
        work: impl FnOnce(&mut Self) -> Result<(), Refusal>,
    ) -> Result<(), SetError> {
        let result = work(self);
        self.commands.push(command.clone());
        result.map_err(|source| SetError::Command { command: command.into(), source })
    }

    fn create_new(&mut self, definition: &Definition) -> Result<(), Refusal> {
        if self.unknown.contains(&definition.kind) {
            return Err(Refusal::UnknownType(definition.kind));
        }
        match self.find(&definition.name) {
            Ok(set) if set.definition == *definition => Ok(()),
            Ok(_) => Err(Refusal::Different),
            Err(Refusal::NoSuchSet) => {
                let set = FakeSet { definition: definition.clone(), members: BTreeMap::new(), references: 0 };
                self.sets.insert(definition.name.clone(), set);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn swap_contents(&mut self, one: &str, other: &str) -> Result<(), Refusal> {
        let kind = |set: &mut FakeSet| (set.definition.kind, set.definition.family);
        if self.find(one).map(kind)? != self.find(other).map(kind)? {
            return Err(Refusal::Incompatible);
        }
        if one == other {
            return Ok(());
        }
        let mut held = self.sets.remove(one).ok_or(Refusal::NoSuchSet)?;
        let there = self.find(other)?;
        std::mem::swap(&mut held.members, &mut there.members);
        std::mem::swap(&mut held.definition, &mut there.definition);
        std::mem::swap(&mut held.definition.name, &mut there.definition.name);
        self.sets.insert(one.into(), held);
        Ok(())
    }

    fn make(&mut self, change: &Change) -> Result<(), Refusal> {
        let set = self.find(change.set())?;
        set.check(change)?;
        match change {
            Change::Add { member, .. } => {
                let is_full = set.definition.kind != SetType::BitmapPort
                    && set.members.len() >= set.definition.max_elements as usize;
                if is_full && !set.members.contains_key(&member.element) {
                    return Err(Refusal::Full);
                }
                set.members.insert(member.element, member.mark.filter(|mark| *mark != 0));
            }
            Change::Remove { element, .. } => {
                set.members.remove(element);
            }
        }
        Ok(())
    }
}

impl FakeSet {
    fn check(&self, change: &Change) -> Result<(), Refusal> {
        let (kind, families): (_, &[Family]) = match change.element() {
            Element::Ip(a) => (SetType::HashIp, &[Family::of(*a)]),
            Element::IpPort(a, ..) => (SetType::HashIpPort, &[Family::of(*a)]),
            Element::IpPortNet(a, .., n) => (SetType::HashIpPortNet, &[Family::of(*a), Family::of(n.addr())]),
            Element::NetNet(one, other) => {
                (SetType::HashNetNet, &[Family::of(one.addr()), Family::of(other.addr())])
            }
            Element::Port(_) => (SetType::BitmapPort, &[]),
        };
        let has_mark = matches!(change, Change::Add { member, .. } if member.mark.is_some());
        if change.element().is_too_wide() {
            Err(Refusal::TooWide)
        } else if kind != self.definition.kind
            || has_mark && self.definition.marks == Marks::Without
            || families.iter().any(|family| *family != self.definition.family)
        {
            Err(Refusal::OtherElements)
        } else {
            Ok(())
        }
    }

    fn header(&self) -> Header {
        Header {
            name: self.definition.name.clone(),
            definition: Some(self.definition.clone()),
            elements: self.members.len() as u32,
            references: self.references,
        }
    }
}

impl Sets for FakeSets {
    fn headers(&mut self, prefix: &str) -> Result<Vec<Header>, SetError> {
        let named = self.sets.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(_, set)| set.header()).collect())
    }

    fn members(&mut self, name: &str, each: &mut dyn FnMut(Member)) -> Result<(), SetError> {
        let members = self.sets.get(name).map(|set| &set.members).into_iter().flatten();
        members.map(|(element, mark)| Member { element: *element, mark: *mark }).for_each(each);
        Ok(())
    }

    fn create(&mut self, definition: &Definition) -> Result<(), SetError> {
        self.run(definition.to_string(), |sets| sets.create_new(definition))
    }

    fn destroy(&mut self, name: &str) -> Result<(), SetError> {
        self.run(format!("destroy {name}"), |sets| match sets.find(name) {
            Ok(set) if set.references > 0 => Err(Refusal::InUse),
            Ok(_) | Err(Refusal::NoSuchSet) => {
                sets.sets.remove(name);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        })
    }

    fn swap(&mut self, one: &str, other: &str) -> Result<(), SetError> {
        self.run(format!("swap {one} {other}"), |sets| sets.swap_contents(one, other))
    }

    fn flush(&mut self, name: &str) -> Result<(), SetError> {
        self.run(format!("flush {name}"), |sets| sets.find(name).map(|set| set.members.clear()))
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), SetError> {
        let mut failures = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            self.commands.push(change.to_string());
            if let Err(reason) = self.make(change) {
                failures.push(RefusedChange { index, change: change.to_string(), reason });
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(SetError::Refused { failures }) }
    }
}
