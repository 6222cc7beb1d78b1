//! Which chains and sets a plan creates, writes anew and takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Settings;
use super::base::Style;
use super::classes::Class;
use super::held::Held;
use super::member::Leads;
use super::names::SetId;
use super::objects::{Content, HeldChain, Object, ObjectChanges, named};
use crate::kernel::nftables::rule::Place;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Chain, InstalledRule, Name, Rule};
use crate::model::{Family, ServicePortName};

pub struct Building<'a> {
    held: &'a Held,
    family: Family,
    mark: u32,
    changes: ObjectChanges,
    seen: BTreeSet<SetId>,
    /// Sets, then chains, then what is in chains: a rule can only name what is there.
    sets: Vec<Operation>,
    chains: Vec<Operation>,
    rules: Vec<Operation>,
}

/// What it came to.
pub struct Built {
    pub changes: ObjectChanges,
    pub created: Vec<Operation>,
    pub swept: Vec<Operation>,
}

/// Whether what was written before is what would be written now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Same,
    Other,
}

impl<'a> Building<'a> {
    pub fn new(held: &'a Held, settings: &Settings, family: Family) -> Self {
        Building {
            held,
            family,
            mark: settings.mark,
            changes: ObjectChanges::default(),
            seen: BTreeSet::new(),
            sets: Vec::new(),
            chains: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub fn skeleton(&mut self, style: &Style) {
        SetId::all_fixed().for_each(|set| self.set(set));
        let before = self.held.objects.written_for.as_ref().map(Style::chains).unwrap_or_default();
        for (chain, rules) in style.chains() {
            let is_same = before.iter().any(|(known, of)| *known == chain && *of == rules);
            self.chain(chain, &rules, if is_same { Written::Same } else { Written::Other });
        }
        self.changes.skeleton = Some(style.clone());
    }

    /// The chain of a class and all that it needs. `owner` is to blame if it is the first.
    pub fn class(
        &mut self,
        class: &Class,
        owners: &mut BTreeMap<Name, ServicePortName>,
        owner: &ServicePortName,
    ) {
        if let Some(next) = class.next() {
            self.class(&next, owners, owner);
        }
        let chain = Chain::regular(&class.to_string());
        let map = class.map().map(SetId::Slots);
        map.into_iter().for_each(|map| self.set(map));
        for name in [chain.name.clone()].into_iter().chain(map.map(|map| map.to_string().into())) {
            owners.entry(name).or_insert_with(|| owner.clone());
        }
        self.chain(chain, &class.rules(self.family, self.mark), Written::Same);
    }

    fn set(&mut self, id: SetId) {
        if !self.seen.insert(id) {
            return;
        }
        let set = id.declaration(self.family);
        if !self.held.objects.has_set(&set.name) {
            self.changes.sets.push(set.name.clone());
            self.sets.push(Operation::AddSet(set));
        }
    }

    fn chain(&mut self, chain: Chain, rules: &[Rule], written: Written) {
        if self.changes.chains.contains_key(&chain.name) {
            return;
        }
        let held = self.held.objects.chains.get(&chain.name);
        let is_right = match held.map(|held| &held.content) {
            Some(Content::Written) if written == Written::Same => return,
            Some(Content::Observed(installed)) => are(rules, installed),
            _ => false,
        };
        let mut names = Vec::new();
        rules.iter().for_each(|rule| names.extend(named(&rule.expressions())));
        let name = chain.name.clone();
        let after = HeldChain { names: names.clone(), content: Content::Written };
        self.changes.chains.insert(name.clone(), after);
        if is_right {
            return;
        }
        self.changes.count(held.into_iter().flat_map(|held| held.names.iter().cloned()), -1);
        self.changes.count(names, 1);
        match held {
            Some(_) => self.rules.push(Operation::FlushChain(name.clone())),
            None => self.chains.push(Operation::AddChain(chain)),
        }
        let add =
            |rule: &Rule| Operation::AddRule { chain: name.clone(), rule: rule.clone(), place: Place::End };
        self.rules.extend(rules.iter().map(add));
    }

    /// A member leads somewhere, or does no more.
    pub fn leads(&mut self, leads: Option<&Leads>, by: isize) {
        let chain = leads.and_then(Leads::chain).cloned();
        self.changes.count(chain.map(Object::Chain), by);
    }

    pub fn finish(mut self, now: Instant) -> Built {
        let is_used = |object: &Object| self.changes.users.get(object).is_some_and(|more| *more > 0);
        let gone = self.held.objects.sweepable(now).filter(|object| !is_used(object));
        let gone: Vec<Object> = gone.cloned().collect();
        let mut swept = Vec::new();
        for object in &gone {
            swept.push(match object {
                Object::Set(name) => Operation::DeleteSet(name.clone()),
                Object::Chain(name) => {
                    let held = self.held.objects.chains.get(name);
                    self.changes.count(held.into_iter().flat_map(|held| held.names.iter().cloned()), -1);
                    Operation::DeleteChain(name.clone())
                }
            });
        }
        self.changes.gone = gone;
        let created = self.sets.into_iter().chain(self.chains).chain(self.rules).collect();
        Built { changes: self.changes, created, swept }
    }
}

fn are(rules: &[Rule], installed: &[InstalledRule]) -> bool {
    rules.len() == installed.len() && rules.iter().zip(installed).all(|(rule, installed)| rule.is(installed))
}
