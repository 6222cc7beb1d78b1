//! What to do so that the kernel holds what the table says, as data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use super::drain::{Drains, Place};
use super::held::{Held, HeldServer, HeldSet};
use super::names::Set;
use super::skeleton::Rules;
use super::work::Work;
use crate::kernel::ipset::{Change, Definition, Element, Member};
use crate::kernel::ipvs::{Command, VirtualServer};
use crate::kernel::virtual_addresses::AddressChange;
use crate::model::{Family, ServicePortName};
use crate::modes::Subject;

/// The steps in their order, and what is known when they are done. `Display` is the steps as shell commands, with the
/// input of iptables-restore where rules are written.
#[derive(Debug)]
pub struct Plan {
    pub(super) family: Family,
    pub(super) steps: Vec<Step>,
    pub(super) outcome: Outcome,
    /// When it was made: endpoints drain from then on.
    pub(super) made: Instant,
    /// Whom the virtual servers belong to that it writes.
    pub(super) owners: Owners,
}

pub(super) type Owners = BTreeMap<VirtualServer, ServicePortName>;

/// What goes to one door of the kernel at a time.
#[derive(Debug)]
pub(super) enum Step {
    Create(Definition),
    /// Gives a set the parameters that it would have been created with, and these members.
    Replace(Definition, Vec<Member>),
    Sets(Vec<Change>),
    Servers(Vec<Work>),
    Rules(Rules),
    Addresses(Vec<AddressChange>),
}

impl Step {
    pub fn is_empty(&self) -> bool {
        match self {
            Step::Sets(changes) => changes.is_empty(),
            Step::Servers(work) => work.is_empty(),
            Step::Addresses(changes) => changes.is_empty(),
            // Rules say what they are for, also where nothing has to be written.
            Step::Create(_) | Step::Replace(..) | Step::Rules(_) => false,
        }
    }

    fn operations(&self, outcome: &Outcome) -> usize {
        match self {
            Step::Create(_) | Step::Replace(..) => 1,
            Step::Sets(changes) => changes.len(),
            Step::Servers(work) => work.iter().map(|work| work.count(outcome)).sum(),
            Step::Rules(rules) => rules.operations(),
            Step::Addresses(changes) => changes.len(),
        }
    }
}

/// What the kernel holds after the plan, where that differs from before.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// `None` for one that is gone.
    pub servers: BTreeMap<VirtualServer, Option<HeldServer>>,
    pub created: Vec<Set>,
    pub added: Vec<(Set, Member)>,
    pub removed: Vec<(Set, Element)>,
    /// `None` for one that is gone.
    pub addresses: BTreeMap<IpAddr, Option<Option<IpAddr>>>,
    /// `None` for one that needs none any more.
    pub marks: BTreeMap<ServicePortName, Option<u32>>,
    pub draining: Vec<Place>,
    pub drained: Vec<Place>,
}

impl Plan {
    pub fn operations(&self) -> usize {
        self.steps.iter().map(|step| step.operations(&self.outcome)).sum()
    }

    pub fn operations_by_subject(&self) -> BTreeMap<Subject, usize> {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            match step {
                Step::Servers(work) => {
                    let commands = work.iter().flat_map(|work| work.commands(&self.outcome));
                    commands.for_each(|command| *counts.entry(subject(&command)).or_default() += 1);
                }
                Step::Create(_) | Step::Replace(..) | Step::Sets(_) => {
                    *counts.entry(Subject::Set).or_default() += step.operations(&self.outcome);
                }
                Step::Rules(_) => *counts.entry(Subject::Rule).or_default() += step.operations(&self.outcome),
                Step::Addresses(_) => {
                    *counts.entry(Subject::Address).or_default() += step.operations(&self.outcome)
                }
            }
        }
        counts
    }

    pub fn is_empty(&self) -> bool {
        self.operations() == 0
    }
}

fn subject(command: &Command) -> Subject {
    match command {
        Command::AddService(_) | Command::SetService(_) | Command::DeleteService(_) => Subject::VirtualServer,
        Command::AddDestination(..) | Command::SetDestination(..) | Command::DeleteDestination(..) => {
            Subject::Destination
        }
    }
}

impl Outcome {
    /// The plan is in the kernel.
    pub fn learn(self, held: &mut Held, drains: &mut Drains, now: Instant) {
        for set in self.created {
            held.sets.insert(set, HeldSet::default());
        }
        for set in Set::ALL {
            let added = self.added.iter().filter(|(of, _)| *of == set);
            let mut added = added.map(|(_, member)| (member.element, member.mark)).peekable();
            if added.peek().is_some() {
                extend(&mut held.sets.entry(set).or_default().members, added);
            }
        }
        for (set, element) in self.removed {
            held.sets.entry(set).or_default().members.remove(&element);
        }
        held.sets.values_mut().for_each(|set| set.is_of_another_shape = false);
        replace(&mut held.servers, self.servers);
        replace(&mut held.addresses, self.addresses);
        self.marks.into_iter().for_each(|(name, mark)| held.marks.set(name, mark));
        self.drained.iter().for_each(|place| drains.end(place));
        self.draining.into_iter().for_each(|place| drains.start(place, now));
    }
}

fn replace<K: Ord, V>(held: &mut BTreeMap<K, V>, after: BTreeMap<K, Option<V>>) {
    if held.is_empty() {
        return extend(held, after.into_iter().filter_map(|(key, value)| Some((key, value?))));
    }
    for (key, value) in after {
        match value {
            Some(value) => drop(held.insert(key, value)),
            None => drop(held.remove(&key)),
        }
    }
}

/// A map that is made of all of them at once is as small as can be, one that they come to in their order is half empty.
fn extend<K: Ord, V>(held: &mut BTreeMap<K, V>, added: impl Iterator<Item = (K, V)>) {
    if held.is_empty() {
        *held = added.collect();
    } else {
        held.extend(added);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| step.print(f, &self.outcome))
    }
}

impl Step {
    fn print(&self, f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
        match self {
            Step::Create(definition) => writeln!(f, "ipset {definition}"),
            Step::Replace(definition, members) => {
                writeln!(
                    f,
                    "ipset {definition} # replaces the one of this name, with {} members",
                    members.len()
                )
            }
            Step::Sets(changes) => changes.iter().try_for_each(|change| writeln!(f, "ipset {change}")),
            Step::Servers(work) => {
                let mut commands = work.iter().flat_map(|work| work.commands(outcome));
                commands.try_for_each(|command| writeln!(f, "ipvsadm {command}"))
            }
            Step::Rules(rules) => write!(f, "{rules}"),
            Step::Addresses(changes) => changes.iter().try_for_each(|change| writeln!(f, "{change}")),
        }
    }
}
