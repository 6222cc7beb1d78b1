//! Which chains and sets a plan creates, writes anew and takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Settings;
use super::base::Style;
use super::classes::Class;
use super::edits::Edits;
use super::held::Held;
use super::member::Member;
use super::names::{Set, SetId};
use super::numbers::{ClassId, Number};
use super::objects::{Content, HeldChain, Object, ObjectChanges, led_to, named};
use crate::kernel::nftables::rule::Place;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Chain, InstalledRule, Name, Rule, Verdict};
use crate::model::{Family, ServicePortName};

pub struct Building<'a> {
    held: &'a Held,
    family: Family,
    mark: u32,
    changes: ObjectChanges,
    seen: BTreeSet<SetId>,
    numbered: BTreeMap<Class, Number>,
    /// Lower ones are in use.
    next: BTreeMap<Set, u32>,
    /// Sets, then chains, then what is in chains, then what leads to chains: only what is there can be named.
    sets: Vec<Operation>,
    chains: Vec<Operation>,
    rules: Vec<Operation>,
    classes: Edits,
}

/// What it came to.
pub struct Built {
    pub changes: ObjectChanges,
    pub created: Vec<Operation>,
    pub swept: Vec<Operation>,
}

/// Whether what nothing leads to goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweeping {
    Now,
    Later,
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
            numbered: BTreeMap::new(),
            next: BTreeMap::new(),
            sets: Vec::new(),
            chains: Vec::new(),
            rules: Vec::new(),
            classes: Edits::default(),
        }
    }

    pub fn skeleton(&mut self, style: &Style) {
        SetId::all_fixed(style.counting()).for_each(|set| self.set(set));
        let before = self.held.objects.written_for.as_ref().map(Style::chains).unwrap_or_default();
        for (chain, rules) in style.chains() {
            let is_same = before.iter().any(|(known, of)| *known == chain && *of == rules);
            self.chain(chain, || rules, if is_same { Written::Same } else { Written::Other });
        }
        self.leads_to(ClassId::accept(Set::Classes), Verdict::Accept);
        self.changes.skeleton = Some(style.clone());
    }

    /// The number of a class, whose chain is there with all that it needs. `owner` is to blame if it is the first.
    pub fn class(
        &mut self,
        class: &Class,
        owners: &mut BTreeMap<Name, ServicePortName>,
        owner: &ServicePortName,
    ) -> Number {
        if let Some(known) = self.numbered.get(class) {
            return *known;
        }
        self.chain_of(class, owners, owner);
        let (map, chain) = (class.numbered_in(), class.to_string().into());
        let held = self.held.objects.numbers.of_chain(map, &chain);
        let number = held.unwrap_or_else(|| self.number(map));
        self.leads_to(ClassId { map, number }, Verdict::Goto(chain));
        self.numbered.insert(class.clone(), number);
        number
    }

    fn number(&mut self, map: Set) -> Number {
        let next = self.next.entry(map).or_insert(Number::ACCEPT.0 + 1);
        let number = self.held.objects.numbers.free(map, *next);
        *next = number.0 + 1;
        number
    }

    fn leads_to(&mut self, id: ClassId, verdict: Verdict) {
        let held = self.held.objects.numbers.verdict(id);
        if held == Some(&verdict) {
            return;
        }
        if let Some(held) = held {
            self.classes.delete(id.set(), &id.element(held));
            self.changes.count(led_to(held), -1);
        }
        self.classes.add(id.set(), &id.element(&verdict));
        self.changes.count(led_to(&verdict), 1);
        self.changes.numbers.insert(id, verdict);
    }

    fn chain_of(
        &mut self,
        class: &Class,
        owners: &mut BTreeMap<Name, ServicePortName>,
        owner: &ServicePortName,
    ) {
        if let Some(next) = class.next() {
            self.chain_of(&next, owners, owner);
        }
        let chain = Chain::regular(&class.to_string());
        let map = class.map().map(SetId::Slots);
        map.into_iter().for_each(|map| self.set(map));
        for name in [chain.name.clone()].into_iter().chain(map.map(|map| map.to_string().into())) {
            owners.entry(name).or_insert_with(|| owner.clone());
        }
        let (family, mark) = (self.family, self.mark);
        self.chain(chain, || class.rules(family, mark), Written::Same);
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

    fn chain(&mut self, chain: Chain, rules: impl FnOnce() -> Vec<Rule>, written: Written) {
        if self.changes.chains.contains_key(&chain.name) {
            return;
        }
        let held = self.held.objects.chains.get(&chain.name);
        let content = held.map(|held| &held.content);
        if content == Some(&Content::Written) && written == Written::Same {
            return;
        }
        let rules = rules();
        let is_right = matches!(content, Some(Content::Observed(installed)) if are(&rules, installed));
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
    pub fn leads(&mut self, member: &Member, to: Option<Number>, by: isize) {
        let class = to.and_then(|to| member.class(to));
        self.changes.count(class.map(Object::Class), by);
    }

    pub fn finish(mut self, sweeping: Sweeping, now: Instant) -> Built {
        let is_used = |object: &Object| self.changes.users.get(object).is_some_and(|more| *more > 0);
        let gone = self.held.objects.sweepable(now).filter(|object| !is_used(object));
        let gone: Vec<Object> = gone.filter(|_| sweeping == Sweeping::Now).cloned().collect();
        let (mut swept, mut classes) = (Vec::new(), Edits::default());
        for object in &gone {
            swept.push(match object {
                Object::Class(id) => {
                    if let Some(verdict) = self.held.objects.numbers.verdict(*id) {
                        classes.delete(id.set(), &id.element(verdict));
                        self.changes.count(led_to(verdict), -1);
                    }
                    continue;
                }
                Object::Set(name) => Operation::DeleteSet(name.clone()),
                Object::Chain(name) => {
                    let held = self.held.objects.chains.get(name);
                    self.changes.count(held.into_iter().flat_map(|held| held.names.iter().cloned()), -1);
                    Operation::DeleteChain(name.clone())
                }
            });
        }
        self.changes.gone = gone;
        let created = self.sets.into_iter().chain(self.chains).chain(self.rules);
        let created = created.chain(self.classes.operations()).collect();
        let swept = classes.operations().chain(swept).collect();
        Built { changes: self.changes, created, swept }
    }
}

fn are(rules: &[Rule], installed: &[InstalledRule]) -> bool {
    rules.len() == installed.len() && rules.iter().zip(installed).all(|(rule, installed)| rule.is(installed))
}
