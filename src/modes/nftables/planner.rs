//! Making a plan. One piece of code, whatever is known: with nothing known it looks at everything, for one change at the
//! places that the change can concern.

use std::net::IpAddr;
use std::time::Instant;

use super::Settings;
use super::affinity::{Others, Purge};
use super::base::Style;
use super::building::{Building, Sweeping};
use super::classes::may_be_sticky;
use super::edits::Edits;
use super::held::{Held, Presence};
use super::key;
use super::member::{Leads, Member};
use super::members::Led;
use super::names::{self, Set, SetId};
use super::numbers::Number;
use super::plan::{Outcome, Owners, Plan, Written};
use super::render::{self, Goal, Wanted};
use super::slots::{self, Packed, Target};
use super::traffic::Counting;
use super::volumes::{SlotPlace, Volumes};
use super::work::{PART, Rest, Scope, Work};
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{Transaction, Verdict};
use crate::model::{Changes, FrontendKey, ServiceTable, TrafficPolicy};

/// Decides everything.
pub fn plan(settings: &Settings, held: &Held, scope: &Scope, want: &ServiceTable, now: Instant) -> Plan {
    let mut planner = Planner {
        held,
        want,
        building: Building::new(held, settings, want.family()),
        counting: settings.counting,
        volumes: Volumes::new(&held.slots),
        edits: Edits::default(),
        outcome: Outcome::default(),
        purge: Purge::default(),
        owners: Owners::default(),
    };
    let mut rest = planner.work(scope, settings);
    planner.purge = std::mem::take(&mut rest.purge);
    planner.part(&mut rest);
    planner.finish(rest, now)
}

struct Planner<'a> {
    held: &'a Held,
    want: &'a ServiceTable,
    building: Building<'a>,
    counting: Counting,
    volumes: Volumes<'a>,
    edits: Edits,
    outcome: Outcome,
    purge: Purge,
    owners: Owners,
}

impl Planner<'_> {
    fn work(&mut self, scope: &Scope, settings: &Settings) -> Rest {
        match (scope, self.want.changes()) {
            (Scope::Rest(rest), _) => rest.clone(),
            (Scope::Changes, Changes::Some(changes)) => {
                let ports =
                    changes.iter().flat_map(|(name, change)| change.before.iter().chain(self.want.get(name)));
                Rest::all_of(Work::of_ports(ports))
            }
            _ => {
                self.building.skeleton(&Style::new(settings, self.want));
                self.strangers();
                self.service_networks();
                let mut rest = Rest::all_of(Work::everything(self.want, self.held));
                rest.purge.others = Others::Forgotten;
                rest
            }
        }
    }

    /// As much as goes into one transaction. A table that is made anew is not seen half made.
    fn part(&mut self, rest: &mut Rest) {
        let limit = if self.held.table == Presence::OfAnotherShape { usize::MAX } else { PART };
        while self.edits.len() < limit
            && let Some(place) = rest.next_place()
        {
            self.place(place);
        }
        while self.edits.len() < limit
            && let Some(address) = rest.next_address()
        {
            self.address(address);
        }
    }

    fn strangers(&mut self) {
        for (set, element) in &self.held.strangers {
            self.edits.delete(*set, element);
        }
    }

    fn service_networks(&mut self) {
        let wanted = render::of_service_networks(self.want);
        let held: Vec<_> = self.held.members.service_networks().collect();
        self.members(&held, &wanted);
    }

    fn place(&mut self, place: FrontendKey) {
        let volume = |policy, slots| self.volumes.choose(place, policy, slots).volume;
        let wanted = render::of_place(self.want, place, self.counting, &volume);
        let members = self.numbered(place, &wanted);
        let left = [TrafficPolicy::Cluster, TrafficPolicy::Local]
            .map(|policy| self.slots(place, policy, wanted.shares(policy)));
        let left = left.into_iter().find(|left| *left == Departure::Some).unwrap_or(Departure::None);
        self.clients(place, &wanted, left);
        let held: Vec<_> = self.held.members.at(place).collect();
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
        let had = |policy| self.held.slots.places_of(place, policy).next().is_some();
        !wanted.shares(TrafficPolicy::Local).is_empty()
            && !had(TrafficPolicy::Local)
            && had(TrafficPolicy::Cluster)
    }

    fn was_sticky(&self, place: FrontendKey) -> bool {
        [Set::Services, Set::ShortCircuits].into_iter().any(|set| {
            let member = Member::Place(set, place);
            let led = self.held.members.get(&member).flatten();
            let class = led.and_then(|led| member.class(led.to));
            let verdict = class.and_then(|class| self.held.objects.numbers.verdict(class));
            verdict.and_then(Verdict::chain).is_some_and(|chain| may_be_sticky(chain))
        })
    }

    /// Brings the slots of a frontend to what is wanted.
    fn slots(&mut self, place: FrontendKey, policy: TrafficPolicy, shares: &[(Target, u32)]) -> Departure {
        let at = self.volumes.choose(place, policy, slots::count(shares));
        let held: Vec<_> = self.held.slots.of(place, policy).collect();
        let here = held.iter().find(|(found, _)| *found == at);
        let model = here.or(held.first()).map(|(_, slots)| &slots[..]).unwrap_or_default();
        let wanted = slots::assign(shares, model);
        let before = here.map(|(_, slots)| &slots[..]).unwrap_or_default();
        if *wanted != *before {
            self.fill(&at, before, &wanted);
        }
        for (other, slots) in held.iter().filter(|(found, _)| *found != at) {
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
        let by = i64::from(!after.is_empty()) - i64::from(!before.is_empty());
        self.volumes.note(at.map(), by);
        self.outcome.slots.push((*at, (!after.is_empty()).then(|| Packed::of(after))));
    }

    fn address(&mut self, address: IpAddr) {
        let wanted = render::of_address(self.want, address);
        let held: Vec<_> = self.held.members.at_address(address).collect();
        self.members(&held, &wanted);
    }

    /// Brings what the sets hold for one place to what is wanted there.
    fn members(&mut self, held: &[Member], wanted: &[(Member, Option<Leads>)]) {
        for member in held.iter().filter(|held| !wanted.iter().any(|(wanted, _)| wanted == *held)) {
            self.delete(member);
            self.outcome.members.push((*member, None));
        }
        for (member, leads) in wanted {
            let led = leads.as_ref().map(Led::by);
            match self.held.members.get(member) {
                Some(held) if held == led => continue,
                Some(_) => self.delete(member),
                None => {}
            }
            self.edits.add(member.set(), &member.element(leads.as_ref()));
            self.building.leads(member, led.map(|led| led.to), 1);
            self.outcome.members.push((*member, Some(led)));
        }
    }

    fn delete(&mut self, member: &Member) {
        self.edits.delete(member.set(), &member.element(None));
        let led = self.held.members.get(member).flatten();
        self.building.leads(member, led.map(|led| led.to), -1);
    }

    fn finish(self, mut rest: Rest, now: Instant) -> Plan {
        let Planner { held, want, building, edits, mut outcome, purge, owners, .. } = self;
        // What nothing leads to yet may be needed by the rest.
        let sweeping = if rest.is_done() { Sweeping::Now } else { Sweeping::Later };
        let family = want.family();
        let mut transaction = Transaction::new(&names::table(family));
        if held.table == Presence::OfAnotherShape {
            transaction.delete_table();
        }
        if held.table != Presence::There {
            transaction.add_table(Some(names::COMMENT));
        }
        let built = building.finish(sweeping, now);
        outcome.objects = built.changes;
        transaction.operations.extend(built.created);
        transaction.operations.extend(edits.operations());
        transaction.operations.extend(built.swept);
        let (purge, rest) = match sweeping {
            Sweeping::Now => (purge, None),
            Sweeping::Later => {
                rest.purge = purge;
                (Purge::default(), Some(rest))
            }
        };
        Plan { written: Written { family, transaction, owners }, outcome, purge, rest, made: now }
    }
}

/// Whether endpoints that a frontend had are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    None,
    Some,
}
