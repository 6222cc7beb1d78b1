//! What to write to nf_tables, as data.

use std::collections::BTreeMap;
use std::fmt;

use super::base::Style;
use super::member;
use super::names::{NAMES, SetId};
use super::observe::{Held, Presence};
use crate::kernel::nftables::element::Elements;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Name, Transaction};
use crate::model::{Changes, ServiceTable};
use crate::modes::nftables::names::{COMMENT, table as table_of};
use crate::modes::userspace::capture::Member;
use crate::modes::userspace::capture::difference::differences;
use crate::modes::userspace::capture::members::Members;
use crate::modes::userspace::{Scope, Settings};

/// `Display` is a script for `nft -f`.
#[derive(Debug)]
pub struct Plan {
    pub(super) transaction: Transaction,
    pub(super) style: Style,
    /// Whether what is known of the table is to be forgotten first.
    start: Start,
    gone: Vec<Member>,
    added: Vec<Member>,
}

/// From what a transaction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    FromWhatIsHeld,
    FromNothing,
}

impl Plan {
    /// Elements and whatever else is written.
    pub fn operations(&self) -> usize {
        let count = |operation: &Operation| match operation {
            Operation::AddElements { elements, .. } | Operation::DeleteElements { elements, .. } => {
                elements.len()
            }
            _ => 1,
        };
        self.transaction.operations.iter().map(count).sum()
    }

    pub(super) fn learn(self, held: &mut Held) {
        if self.start == Start::FromNothing {
            held.members = Members::default();
        }
        held.table = Presence::There;
        held.style = Some(self.style);
        for member in &self.gone {
            held.members.remove(member);
        }
        for member in self.added {
            held.members.insert(member);
        }
    }
}

pub(super) fn plan(settings: &Settings, known: &Held, scope: Scope, want: &ServiceTable) -> Plan {
    let style = Style::new(settings, want);
    let is_written = known.table == Presence::There && known.style.as_ref() == Some(&style);
    let start = if is_written { Start::FromWhatIsHeld } else { Start::FromNothing };
    let changes = match (scope, start, want.changes()) {
        (Scope::Changes, Start::FromWhatIsHeld, changes @ Changes::Some(_)) => changes,
        _ => Changes::Everything,
    };
    let nothing = Held::default();
    let held = if is_written { known } else { &nothing };
    let (gone, added) = differences(&held.members, want, changes);
    let mut transaction = Transaction::new(&table_of(want.family()));
    if start == Start::FromNothing {
        write_skeleton(&mut transaction, known.table, &style, want);
    }
    transaction
        .operations
        .extend(elements(&gone).map(|(set, elements)| Operation::DeleteElements { set, elements }));
    transaction
        .operations
        .extend(elements(&added).map(|(set, elements)| Operation::AddElements { set, elements }));
    Plan { transaction, style, start, gone, added }
}

/// The whole table in one transaction, in place of whatever has its name.
pub(super) fn write_skeleton(to: &mut Transaction, found: Presence, style: &Style, want: &ServiceTable) {
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

/// One operation for each set.
fn elements(members: &[Member]) -> impl Iterator<Item = (Name, Elements)> + use<> {
    let mut of_sets: BTreeMap<SetId, Elements> = BTreeMap::new();
    members
        .iter()
        .for_each(|member| of_sets.entry(member::set(member)).or_default().push(&member::element(member)));
    of_sets.into_iter().map(|(id, elements)| (id.name().into(), elements))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transaction.fmt(f)
    }
}
