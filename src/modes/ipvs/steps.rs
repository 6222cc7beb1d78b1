//! The order of a plan.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use super::names::Set;
use super::plan::{Plan, Step};
use super::planner::{Planner, key_of};
use super::render;
use super::skeleton::Rules;
use crate::kernel::ipset::{Change, Element, Member};
use crate::kernel::virtual_addresses::AddressChange;

impl Planner<'_> {
    pub(super) fn finish(mut self, rules: Option<Rules>) -> Plan {
        let mut steps = self.sets();
        steps.extend(self.opening(rules));
        steps.extend(self.closing());
        let steps = steps.into_iter().filter(|step| !step.is_empty());
        let steps = steps.fold(Vec::new(), merged);
        Plan { family: self.family(), steps, outcome: self.outcome, made: self.now, owners: self.owners }
    }

    fn sets(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for set in Set::ALL {
            let definition = set.definition(self.family());
            match self.held.sets.get(&set) {
                None => {
                    self.outcome.created.push(set);
                    steps.push(Step::Create(definition));
                }
                Some(held) if held.is_of_another_shape => {
                    steps.push(Step::Replace(definition, self.held.members(set).collect()));
                }
                Some(_) => {}
            }
        }
        steps
    }

    /// What keeps traffic out comes before what lets it in. Rules of the nat table come last: those of an earlier proxy go
    /// with them, so that by then everything else has to be there.
    fn opening(&mut self, rules: Option<Rules>) -> Vec<Step> {
        let (guards, nat) = rules.map(Rules::split).unzip();
        let written = |rules: Option<Rules>| rules.map_or(Step::Sets(vec![]), Step::Rules);
        vec![
            self.adding(|set, element| !self.admits(set, element)),
            Step::Servers(std::mem::take(&mut self.up)),
            self.adding(|set, element| self.admits(set, element)),
            written(guards),
            self.address_changes(|(address, after)| {
                after.map(|source| AddressChange::Add { address: *address, source })
            }),
            written(nat),
        ]
    }

    /// The same backwards.
    fn closing(&mut self) -> Vec<Step> {
        vec![
            self.removing(|set, element| self.admits(set, element)),
            Step::Servers(std::mem::take(&mut self.down)),
            self.removing(|set, element| set != Set::VirtualIps && !self.admits(set, element)),
            self.address_changes(|(address, after)| {
                after.is_none().then_some(AddressChange::Remove(*address))
            }),
            self.removing(|set, _| set == Set::VirtualIps),
        ]
    }

    /// Whether a member lets traffic in that was kept out. At an address of the node's own a frontend that is served only
    /// tells that its virtual server is ours, which has to be known as long as that is there.
    fn admits(&self, set: Set, element: &Element) -> bool {
        match set {
            Set::ShortCircuit => true,
            Set::Served => key_of(element).is_some_and(|key| {
                self.held.has(Set::VirtualIps, &Element::Ip(key.address))
                    || render::is_virtual_ip(self.want, key.address)
            }),
            _ => false,
        }
    }

    fn adding(&self, which: impl Fn(Set, &Element) -> bool) -> Step {
        let mut added: Vec<_> =
            self.outcome.added.iter().filter(|(set, member)| which(*set, &member.element)).collect();
        added.sort_by_key(|(set, _)| *set);
        let add = |(set, member): &(Set, Member)| Change::Add { set: self.name(*set), member: *member };
        Step::Sets(added.into_iter().map(add).collect())
    }

    /// In the opposite order.
    fn removing(&self, which: impl Fn(Set, &Element) -> bool) -> Step {
        let mut removed: Vec<_> =
            self.outcome.removed.iter().filter(|(set, element)| which(*set, element)).collect();
        removed.sort_by_key(|(set, _)| Reverse(*set));
        let remove =
            |(set, element): &(Set, Element)| Change::Remove { set: self.name(*set), element: *element };
        Step::Sets(removed.into_iter().map(remove).collect())
    }

    fn name(&self, set: Set) -> Arc<str> {
        Arc::clone(&self.names[set as usize])
    }

    fn address_changes(
        &self,
        change: impl Fn((&IpAddr, &Option<Option<IpAddr>>)) -> Option<AddressChange>,
    ) -> Step {
        Step::Addresses(self.outcome.addresses.iter().filter_map(change).collect())
    }
}

/// Neighbours for the same door become one step.
fn merged(mut steps: Vec<Step>, step: Step) -> Vec<Step> {
    match (steps.last_mut(), step) {
        (Some(Step::Sets(last)), Step::Sets(more)) => last.extend(more),
        (Some(Step::Servers(last)), Step::Servers(more)) => last.extend(more),
        (Some(Step::Addresses(last)), Step::Addresses(more)) => last.extend(more),
        (_, step) => steps.push(step),
    }
    steps
}
