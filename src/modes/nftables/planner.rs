//! Making a plan. One piece of code, whatever is known: with nothing known it looks at everything, for one change at the
//! places that the change can concern.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Settings;
use super::affinity::{Others, Purge};
use super::base::Style;
use super::building::Building;
use super::classes::may_be_sticky;
use super::edits::Edits;
use super::held::{Held, Presence, SlotPlace};
use super::key;
use super::member::{Leads, Member};
use super::names::{self, Set, SetId};
use super::numbers::Number;
use super::plan::{Outcome, Owners, Plan};
use super::render::{self, Goal, Wanted};
use super::slots::{self, Slots, Target};
use super::traffic::Counting;
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{Transaction, Verdict};
use crate::model::{Changes, Frontend, FrontendKey, ServicePort, ServiceTable, TrafficPolicy};

/// What a planner looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Changes,
}

/// Decides everything.
pub fn plan(settings: &Settings, held: &Held, scope: Scope, want: &ServiceTable, now: Instant) -> Plan {
    let mut planner = Planner {
        held,
        want,
        building: Building::new(held, settings, want.family()),
        counting: settings.counting,
        edits: Edits::default(),
        outcome: Outcome::default(),
        purge: Purge::default(),
        owners: Owners::default(),
    };
    let touched = match (scope, want.changes()) {
        (Scope::Changes, Changes::Some(changes)) => {
            let mut touched = Touched::default();
            for (name, change) in changes {
                change.before.iter().chain(want.get(name)).for_each(|port| touched.add(port));
            }
            touched
        }
        _ => {
            planner.building.skeleton(&Style::new(settings, want));
            planner.purge.others = Others::Forgotten;
            planner.strangers();
            planner.service_networks();
            planner.everything()
        }
    };
    touched.places.into_iter().for_each(|place| planner.place(place));
    touched.addresses.into_iter().for_each(|address| planner.address(address));
    planner.finish(now)
}

/// The places that may differ.
#[derive(Debug, Default)]
struct Touched {
    places: BTreeSet<FrontendKey>,
    /// Of frontends, and of endpoints that may reach themselves.
    addresses: BTreeSet<IpAddr>,
}

impl Touched {
    fn add(&mut self, port: &Arc<ServicePort>) {
        self.places.extend(port.frontends.iter().map(|frontend| port.key(frontend)));
        self.addresses.extend(port.frontends.iter().filter_map(Frontend::address));
        self.addresses.extend(port.hairpin_addresses());
    }
}

struct Planner<'a> {
    held: &'a Held,
    want: &'a ServiceTable,
    building: Building<'a>,
    counting: Counting,
    edits: Edits,
    outcome: Outcome,
    purge: Purge,
    owners: Owners,
}

impl Planner<'_> {
    fn everything(&self) -> Touched {
        let mut touched = Touched::default();
        self.want.ports().for_each(|port| touched.add(port));
        for member in self.held.members.keys() {
            match member {
                Member::Address(_, address) => drop(touched.addresses.insert(*address)),
                Member::Place(_, place) | Member::Range(place, _) => drop(touched.places.insert(*place)),
                // Those of the node, not of any Service.
                Member::ServiceNetwork(_) => {}
            }
        }
        touched.places.extend(self.held.slots.keys().map(|slots| slots.place));
        touched
    }

    fn strangers(&mut self) {
        for (set, element) in &self.held.strangers {
            self.edits.delete(*set, element);
        }
    }

    fn service_networks(&mut self) {
        let wanted = render::of_service_networks(self.want);
        let all = self.held.members.range(Member::first_service_network()..);
        let held: Vec<_> = all.map(|(member, _)| *member).collect();
        self.members(&held, &wanted);
    }

    fn place(&mut self, place: FrontendKey) {
        let wanted = render::of_place(self.want, place, self.counting);
        let members = self.numbered(place, &wanted);
        let left = [TrafficPolicy::Cluster, TrafficPolicy::Local]
            .map(|policy| self.slots(place, policy, wanted.shares(policy)));
        let left = left.into_iter().find(|left| *left == Departure::Some).unwrap_or(Departure::None);
        self.clients(place, &wanted, left);
        let held = self.held_at(place);
        self.members(&held, &members);
    }

    /// The members with the numbers of the classes that they lead to.
    fn numbered(&mut self, place: FrontendKey, wanted: &Wanted<'_>) -> Vec<(Member, Option<Leads>)> {
        let Some(port) = wanted.port else { return Vec::new() };
        self.owners.places.insert(place, port.name.clone());
        let mut number = |class| self.building.class(class, &mut self.owners.objects, &port.name);
        let numbers: Vec<Number> = wanted.classes.iter().map(&mut number).collect();
        let leads = |goal| Leads {
            to: if let Goal::Class(at) = goal { numbers[at] } else { Number::ACCEPT },
            comment: Some(Comment::new(&port.name.to_string())),
        };
        wanted.members.iter().map(|(member, goal)| (*member, goal.map(leads))).collect()
    }

    fn held_at(&self, place: FrontendKey) -> Vec<Member> {
        let fixed = Set::OF_PLACES.into_iter().map(|set| Member::Place(set, place));
        let fixed = fixed.filter(|member| self.held.members.contains_key(member));
        let ranges = self.held.members.range(Member::first_range(place)..).map(|(member, _)| *member);
        let is_here = |member: &Member| matches!(member, Member::Range(of, _) if *of == place);
        fixed.chain(ranges.take_while(is_here)).collect()
    }

    /// Where everybody else is forgotten, those that stay have to be named; else those of whom somebody left.
    fn clients(&mut self, place: FrontendKey, wanted: &Wanted<'_>, left: Departure) {
        let remembered = wanted.remembered().filter(|_| !self.becomes_local(place, wanted));
        let is_named = match self.purge.others {
            Others::Forgotten => remembered.is_some(),
            Others::Remembered => self.was_sticky(place) && (left == Departure::Some || remembered.is_none()),
        };
        if is_named {
            self.purge.allowed.insert(place, remembered.unwrap_or_default());
        }
    }

    /// Who was remembered for an endpoint elsewhere must not get there where the policy is Local from now on: without
    /// this node's source address the answer would come from a stranger.
    fn becomes_local(&self, place: FrontendKey, wanted: &Wanted<'_>) -> bool {
        let had = |policy| self.held.slots_of(place, policy).next().is_some();
        !wanted.shares(TrafficPolicy::Local).is_empty()
            && !had(TrafficPolicy::Local)
            && had(TrafficPolicy::Cluster)
    }

    fn was_sticky(&self, place: FrontendKey) -> bool {
        [Set::Services, Set::ShortCircuits].into_iter().any(|set| {
            let member = Member::Place(set, place);
            let leads = self.held.members.get(&member).and_then(Option::as_ref);
            let class = leads.and_then(|leads| member.class(leads));
            let verdict = class.and_then(|class| self.held.objects.numbers.verdict(class));
            verdict.and_then(Verdict::chain).is_some_and(|chain| may_be_sticky(chain))
        })
    }

    /// Brings the slots of a frontend to what is wanted.
    fn slots(&mut self, place: FrontendKey, policy: TrafficPolicy, shares: &[(Target, u32)]) -> Departure {
        let at = SlotPlace { place, policy, count: slots::count(shares) };
        let held: Vec<(&SlotPlace, &Slots)> = self.held.slots_of(place, policy).collect();
        let here = held.iter().find(|(found, _)| **found == at);
        let model = here.or(held.first()).map(|(_, slots)| &slots[..]).unwrap_or_default();
        let wanted = slots::assign(shares, model);
        let before = here.map(|(_, slots)| &slots[..]).unwrap_or_default();
        if *wanted != *before {
            self.fill(&at, before, &wanted);
        }
        for (other, slots) in held.iter().filter(|(found, _)| **found != at) {
            self.fill(other, slots, &[]);
        }
        let stays = |target: &Target| shares.iter().any(|(wanted, _)| wanted == target);
        let all_stay = held.iter().flat_map(|(_, slots)| slots.iter().flatten()).all(stays);
        if all_stay { Departure::None } else { Departure::Some }
    }

    fn fill(&mut self, at: &SlotPlace, before: &[Option<Target>], after: &[Option<Target>]) {
        let map = SetId::Slots(at.map());
        for number in 0..before.len().max(after.len()) {
            let held = before.get(number).copied().flatten();
            let wanted = after.get(number).copied().flatten();
            if held == wanted {
                continue;
            }
            if let Some(target) = held {
                self.edits.delete(map, &key::slot(&at.place, number, &target));
            }
            if let Some(target) = wanted {
                self.edits.add(map, &key::slot(&at.place, number, &target));
            }
        }
        self.outcome.slots.push((*at, (!after.is_empty()).then(|| after.into())));
    }

    fn address(&mut self, address: IpAddr) {
        let wanted = render::of_address(self.want, address);
        let all = [Set::ClusterIps, Set::VirtualIps, Set::Hairpin];
        let members = all.into_iter().map(|set| Member::Address(set, address));
        let held: Vec<_> = members.filter(|member| self.held.members.contains_key(member)).collect();
        self.members(&held, &wanted);
    }

    /// Brings what the sets hold for one place to what is wanted there.
    fn members(&mut self, held: &[Member], wanted: &[(Member, Option<Leads>)]) {
        for member in held.iter().filter(|held| !wanted.iter().any(|(wanted, _)| wanted == *held)) {
            self.delete(member);
            self.outcome.members.push((*member, None));
        }
        for (member, leads) in wanted {
            match self.held.members.get(member) {
                Some(held) if held == leads => continue,
                Some(_) => self.delete(member),
                None => {}
            }
            self.edits.add(member.set(), &member.element(leads.as_ref()));
            self.building.leads(member, leads.as_ref(), 1);
            self.outcome.members.push((*member, Some(leads.clone())));
        }
    }

    fn delete(&mut self, member: &Member) {
        self.edits.delete(member.set(), &member.element(None));
        let leads = self.held.members.get(member).and_then(Option::as_ref);
        self.building.leads(member, leads, -1);
    }

    fn finish(self, now: Instant) -> Plan {
        let Planner { held, want, building, edits, mut outcome, purge, owners, .. } = self;
        let family = want.family();
        let mut transaction = Transaction::new(&names::table(family));
        if held.table == Presence::OfAnotherShape {
            transaction.delete_table();
        }
        if held.table != Presence::There {
            transaction.add_table(Some(names::COMMENT));
        }
        let built = building.finish(now);
        outcome.objects = built.changes;
        transaction.operations.extend(built.created);
        transaction.operations.extend(edits.operations());
        transaction.operations.extend(built.swept);
        Plan { family, transaction, outcome, purge, owners, made: now }
    }
}

/// Whether endpoints that a frontend had are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    None,
    Some,
}
