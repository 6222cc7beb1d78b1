//! By iptables and ipset, where the kernel has no nf_tables that would do: a fixed skeleton of rules, and sets that change
//! without any program.

mod base;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::Capture;
use super::Member;
use super::difference::differences;
use super::members::Members;
use crate::kernel::ipset::{Change, Definition, KernelSets, SetError, Sets, replace};
use crate::kernel::iptables::{Door, Programs};
use crate::model::{Changes, Family, ServiceTable};
use crate::modes::iptables::{remove_chain, remove_ours};
use crate::modes::skeleton::{self, Skeleton};
use crate::modes::userspace::error::{self, Error};
use crate::modes::userspace::{Scope, Settings};
use crate::modes::{Drift, Leftovers, RemovalError};

use base::Style;
use names::{SETS, SetId};

pub struct ByIptables<D> {
    family: Family,
    rules: Skeleton<D, Style>,
    pub(in crate::modes::userspace) sets: Box<dyn Sets>,
    held: Held,
}

/// What is known to be in the sets.
#[derive(Debug, Default)]
struct Held {
    members: Members,
    /// Of the sets that there are, by their place in `SETS`.
    shapes: BTreeMap<usize, Shape>,
    /// How many members each has.
    counts: [usize; SETS.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    AsCreated,
    /// Somebody made it in another way, or put something else into it.
    Other,
}

/// `Display` is the commands and the input of iptables-restore, in their order.
#[derive(Debug)]
pub struct Plan {
    family: Family,
    created: Vec<SetId>,
    /// With all that they are to hold.
    replaced: Vec<SetId>,
    added: Vec<Change>,
    rules: Option<skeleton::Rules<Style>>,
    removed: Vec<Change>,
    gone: Vec<Member>,
    new: Vec<Member>,
}

impl<D: Door> ByIptables<D> {
    pub fn new(rules: D, sets: Box<dyn Sets>, settings: Settings) -> Self {
        let family = rules.family();
        ByIptables { family, rules: Skeleton::new(rules, settings), sets, held: Held::default() }
    }

    fn observe_sets(&mut self) -> Result<Held, SetError> {
        let mut held = Held::default();
        for header in self.sets.headers(names::of_family(self.family))? {
            let Some(id) = SetId::of_name(&header.name, self.family) else { continue };
            let number = id.number();
            let mut shape = match header.definition.as_ref() == Some(&id.definition(self.family)) {
                true => Shape::AsCreated,
                false => Shape::Other,
            };
            self.sets.members(&header.name, &mut |member| match id.parse(&member.element) {
                Some(member) => held.counts[number] += usize::from(held.members.insert(member)),
                None => shape = Shape::Other,
            })?;
            held.shapes.insert(number, shape);
        }
        Ok(held)
    }
}

impl<D: fmt::Debug> fmt::Debug for ByIptables<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByIptables")
            .field("rules", &self.rules)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl<D: Door> Capture for ByIptables<D> {
    type Plan = Plan;

    fn observe(&mut self) -> Result<(), Error> {
        self.rules.observe().map_err(error::observing)?;
        self.held = self.observe_sets().map_err(error::observing)?;
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, scope: Scope) -> Plan {
        plan(&self.held, self.rules.plan(want), want, scope)
    }

    fn operations(plan: &Plan) -> usize {
        let rules = plan.rules.as_ref().map_or(0, skeleton::Rules::operations);
        plan.created.len() + plan.replaced.len() + plan.added.len() + rules + plan.removed.len()
    }

    fn apply(&mut self, plan: Plan) -> Result<(), Error> {
        self.write_sets(&plan).map_err(error::applying)?;
        if let Some(rules) = &plan.rules {
            self.rules.apply(rules).map_err(error::applying)?;
        }
        self.sets.change(&plan.removed).map_err(error::applying)?;
        self.held.learn(plan);
        Ok(())
    }

    fn drift(&mut self) -> Result<Drift, Error> {
        if self.rules.drift().map_err(error::observing)? == Drift::Suspected {
            return Ok(Drift::Suspected);
        }
        // The kernel tells of no change to a set.
        let headers = self.sets.headers(names::of_family(self.family)).map_err(error::observing)?;
        let is_as_held = |id: &SetId| {
            let name = id.name(self.family);
            let found = headers.iter().find(|header| *header.name == *name);
            found.is_some_and(|header| header.elements as usize == self.held.counts[id.number()])
        };
        Ok(if SETS.iter().all(is_as_held) { Drift::None } else { Drift::Suspected })
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        self.held = Held::default();
        remove_ours(self.rules.rules.door()).map_err(error::cleaning)?;
        remove_sets(self.sets.as_mut(), self.family).map_err(error::cleaning)
    }
}

/// The whole of what a kernel needs that holds nothing of it.
pub fn render(settings: &Settings, table: &ServiceTable) -> Plan {
    plan(&Held::default(), Some(skeleton::from_scratch(settings, table)), table, Scope::Everything)
}

fn plan(held: &Held, rules: Option<skeleton::Rules<Style>>, want: &ServiceTable, scope: Scope) -> Plan {
    let changes = match (scope, want.changes()) {
        (Scope::Changes, changes @ Changes::Some(_)) => changes,
        _ => Changes::Everything,
    };
    let (gone, new) = differences(&held.members, want, changes);
    let family = want.family();
    let shape = |id: &SetId| held.shapes.get(&id.number());
    let created = SETS.into_iter().filter(|id| shape(id).is_none()).collect();
    let replaced = SETS.into_iter().filter(|id| shape(id) == Some(&Shape::Other)).collect();
    let mut plan = Plan {
        family,
        created,
        replaced,
        added: changes_of(&new, family, |set, element| Change::Add { set, member: element.into() }),
        rules,
        removed: changes_of(&gone, family, |set, element| Change::Remove { set, element }),
        gone,
        new,
    };
    plan.removed.reverse();
    plan
}

impl<D> ByIptables<D> {
    fn write_sets(&mut self, plan: &Plan) -> Result<(), SetError> {
        for id in &plan.created {
            self.sets.create(&id.definition(self.family))?;
        }
        for id in &plan.replaced {
            let members: Vec<_> = self.held.of(*id).map(|member| names::element(&member).into()).collect();
            replace(self.sets.as_mut(), &id.definition(self.family), &members)?;
        }
        self.sets.change(&plan.added)
    }
}

impl Held {
    fn of(&self, id: SetId) -> impl Iterator<Item = Member> {
        self.members.iter().filter(move |member| SetId::of(member) == id)
    }

    fn learn(&mut self, plan: Plan) {
        let written = plan.created.iter().chain(&plan.replaced);
        self.shapes.extend(written.map(|id| (id.number(), Shape::AsCreated)));
        for member in &plan.gone {
            self.counts[SetId::of(member).number()] -= usize::from(self.members.remove(member));
        }
        for member in plan.new {
            self.counts[SetId::of(&member).number()] += usize::from(self.members.insert(member));
        }
    }
}

/// In the order of the sets.
fn changes_of(
    members: &[Member],
    family: Family,
    change: impl Fn(std::sync::Arc<str>, crate::kernel::ipset::Element) -> Change,
) -> Vec<Change> {
    let mut of_sets: BTreeMap<usize, Vec<&Member>> = BTreeMap::new();
    members.iter().for_each(|member| of_sets.entry(SetId::of(member).number()).or_default().push(member));
    let with_names = of_sets.into_iter().map(|(number, members)| (SETS[number].name(family), members));
    with_names
        .flat_map(|(set, members)| {
            members.into_iter().map(move |member| (set.clone(), names::element(member)))
        })
        .map(|(set, element)| change(set, element))
        .collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let define = |id: &SetId| -> Definition { id.definition(self.family) };
        self.created.iter().try_for_each(|id| writeln!(f, "ipset {}", define(id)))?;
        self.replaced
            .iter()
            .try_for_each(|id| writeln!(f, "ipset {} # replaces the one of this name", define(id)))?;
        self.added.iter().try_for_each(|change| writeln!(f, "ipset {change}"))?;
        self.rules.iter().try_for_each(|rules| write!(f, "{rules}"))?;
        self.removed.iter().try_for_each(|change| writeln!(f, "ipset {change}"))
    }
}

/// What this capture left in a kernel where another mode or way works now.
#[derive(Debug)]
pub struct LeftRules(pub Family);

impl Leftovers for LeftRules {
    fn remove(&mut self, _: Instant) -> Result<(), RemovalError> {
        let found = KernelSets::open().and_then(|mut sets| sets.headers(names::of_family(self.0)));
        let is_there = match found {
            // A kernel that has no sets has none of ours.
            Err(SetError::Headers(error)) if error.refusal().is_some() => false,
            found => !found?.is_empty(),
        };
        if !is_there {
            return Ok(());
        }
        for mut rules in Programs::installed(self.0) {
            base::CHAINS.iter().try_for_each(|chain| remove_chain(&mut rules, chain))?;
        }
        Ok(remove_sets(&mut KernelSets::open()?, self.0)?)
    }
}

/// Goes on after an error, as a rule of somebody else may keep any of them. Returns the first.
fn remove_sets(sets: &mut dyn Sets, family: Family) -> Result<(), SetError> {
    let headers = sets.headers(names::of_family(family))?;
    let results: Vec<_> = headers.iter().map(|header| sets.destroy(&header.name)).collect();
    results.into_iter().collect()
}
