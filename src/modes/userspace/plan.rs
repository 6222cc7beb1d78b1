//! What to do so that the kernel captures, and this process serves, what the table says, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::base::Style;
use super::capture::{self, Member};
use super::names::{NAMES, SetId};
use super::observe::{Held, Presence};
use super::served::{Edit, Served};
use super::{Known, Scope, Settings};
use crate::kernel::nftables::element::Elements;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Name, Transaction};
use crate::model::{Changes, Frontend, FrontendKey, ServicePort, ServiceTable};
use crate::modes::nftables::names::{COMMENT, table as table_of};

/// Whether packets with the mark are delivered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    SetUp,
    Missing,
}

/// `Display` is a script for `nft -f`, with what else there is to do as comments.
#[derive(Debug)]
pub struct Plan {
    pub(super) transaction: Transaction,
    pub(super) delivery: Delivery,
    /// What the listeners are told.
    pub(super) edit: Edit,
    pub(super) style: Style,
    /// Whether what is known of the table is to be forgotten first.
    pub(super) start: Start,
    pub(super) gone: Vec<Member>,
    pub(super) added: Vec<Member>,
}

/// From what a transaction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    FromWhatIsHeld,
    FromNothing,
}

impl Plan {
    /// Elements, ServicePorts and whatever else is written.
    pub fn operations(&self) -> usize {
        let count = |operation: &Operation| match operation {
            Operation::AddElements { elements, .. } | Operation::DeleteElements { elements, .. } => {
                elements.len()
            }
            _ => 1,
        };
        let written: usize = self.transaction.operations.iter().map(count).sum();
        written + self.edit.len() + usize::from(self.delivery == Delivery::Missing)
    }

    pub(super) fn learn(self, held: &mut Held) {
        if self.start == Start::FromNothing {
            held.members.clear();
        }
        held.table = Presence::There;
        held.style = Some(self.style);
        for member in &self.gone {
            held.members.remove(member);
        }
        held.members.extend(self.added);
    }
}

/// Decides everything.
pub(super) fn plan(settings: &Settings, known: &Known, scope: Scope, want: &ServiceTable) -> Plan {
    let style = Style::new(settings, want);
    let is_written = known.held.table == Presence::There && known.held.style.as_ref() == Some(&style);
    let start = if is_written { Start::FromWhatIsHeld } else { Start::FromNothing };
    let changes = match (scope, start, want.changes()) {
        (Scope::Changes, Start::FromWhatIsHeld, changes @ Changes::Some(_)) => changes,
        _ => Changes::Everything,
    };
    let nothing = Held::default();
    let held = if is_written { &known.held } else { &nothing };
    let (gone, added) = differences(held, want, changes);
    let mut transaction = Transaction::new(&table_of(want.family()));
    if start == Start::FromNothing {
        write_skeleton(&mut transaction, known.held.table, &style, want);
    }
    transaction
        .operations
        .extend(elements(&gone).map(|(set, elements)| Operation::DeleteElements { set, elements }));
    transaction
        .operations
        .extend(elements(&added).map(|(set, elements)| Operation::AddElements { set, elements }));
    let edit = served(&known.served, want, changes);
    Plan { transaction, delivery: known.delivery, edit, style, start, gone, added }
}

/// The whole table in one transaction, in place of whatever has its name.
fn write_skeleton(to: &mut Transaction, found: Presence, style: &Style, want: &ServiceTable) {
    if found != Presence::Absent {
        to.delete_table();
    }
    to.add_table(Some(COMMENT));
    for (id, _) in NAMES {
        to.add_set(id.declaration(want.family()));
    }
    let chains = style.chains();
    for (chain, _) in &chains {
        to.add_chain(chain.clone());
    }
    for (chain, rules) in chains {
        for rule in rules {
            to.add_rule(&chain.name, rule);
        }
    }
}

fn served(known: &Served, want: &ServiceTable, changes: Changes<'_>) -> Edit {
    let mut edit = Edit { node: known.node_change(want.node()), ..Edit::default() };
    match changes {
        Changes::Some(changes) => {
            changes.keys().for_each(|name| edit.extend(known.change(name, want.get(name))));
        }
        Changes::Everything => {
            want.ports().for_each(|port| edit.extend(known.change(&port.name, Some(port))));
            let gone = known.names().filter(|name| want.get(name).is_none());
            gone.for_each(|name| edit.extend(known.change(name, None)));
        }
    }
    edit
}

/// What the sets hold and should not, and what they should and do not.
fn differences(held: &Held, want: &ServiceTable, changes: Changes<'_>) -> (Vec<Member>, Vec<Member>) {
    let mut touched = Touched::default();
    match changes {
        Changes::Some(changes) => {
            for (name, change) in changes {
                change.before.iter().chain(want.get(name)).for_each(|port| touched.add(port));
            }
        }
        Changes::Everything => {
            want.ports().for_each(|port| touched.add(port));
            held.members.iter().for_each(|member| touched.note(member));
        }
    }
    let (mut gone, mut added) = (Vec::new(), Vec::new());
    let mut compare = |found: Vec<Member>, wanted: Vec<Member>| {
        gone.extend(found.iter().filter(|member| !wanted.contains(member)));
        added.extend(wanted.into_iter().filter(|member| !found.contains(member)));
    };
    for place in touched.places {
        compare(held_at(held, place), capture::of_place(want, place));
    }
    for address in touched.addresses {
        let found = Some(Member::VirtualIp(address)).filter(|member| held.members.contains(member));
        compare(found.into_iter().collect(), capture::of_address(want, address).into_iter().collect());
    }
    (gone, added)
}

fn held_at(held: &Held, place: FrontendKey) -> Vec<Member> {
    let fixed = capture::OF_PLACES.into_iter().map(|set| Member::Place(set, place));
    let fixed = fixed.filter(|member| held.members.contains(member));
    let is_here = |member: &Member| matches!(member, Member::Range(of, _) if *of == place);
    let ranges = held.members.range(Member::first_range(place)..).copied().take_while(is_here);
    fixed.chain(ranges).collect()
}

/// The places that may differ.
#[derive(Default)]
struct Touched {
    places: BTreeSet<FrontendKey>,
    addresses: BTreeSet<IpAddr>,
}

impl Touched {
    fn add(&mut self, port: &Arc<ServicePort>) {
        self.places.extend(port.frontends.iter().map(|frontend| port.key(frontend)));
        self.addresses.extend(port.frontends.iter().filter_map(Frontend::address));
    }

    fn note(&mut self, member: &Member) {
        match member {
            Member::Place(_, place) | Member::Range(place, _) => drop(self.places.insert(*place)),
            Member::VirtualIp(address) => drop(self.addresses.insert(*address)),
        }
    }
}

/// One operation for each set.
fn elements(members: &[Member]) -> impl Iterator<Item = (Name, Elements)> + use<> {
    let mut of_sets: BTreeMap<SetId, Elements> = BTreeMap::new();
    members.iter().for_each(|member| of_sets.entry(member.set()).or_default().push(&member.element()));
    of_sets.into_iter().map(|(id, elements)| (id.name().into(), elements))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.delivery == Delivery::Missing {
            f.write_str("# deliver what has the mark to this node\n")?;
        }
        write!(f, "{}{}", self.transaction, self.edit)
    }
}
