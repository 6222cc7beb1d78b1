//! What is in our table.

use std::collections::BTreeMap;

use super::base::Style;
use super::member;
use super::names::{NAMES, SetId};
use crate::kernel::nftables::table::Ownership;
use crate::kernel::nftables::{InstalledRule, InstalledTable, Name, Nftables, Rule, Table};
use crate::model::Family;
use crate::modes::nftables::names::{COMMENT, table as table_of};
use crate::modes::userspace::capture::members::Members;
use crate::modes::userspace::error::{self, Error};

/// What this mode knows to be in the kernel.
#[derive(Debug, Default)]
pub struct Held {
    pub table: Presence,
    pub members: Members,
    /// What the chains and rules are.
    pub style: Option<Style>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    #[default]
    Absent,
    There,
    /// Another mode or version made it, or somebody changed it: it is made anew as a whole.
    OfAnotherShape,
}

/// `style` is the one that is wanted.
pub fn observe(nftables: &mut dyn Nftables, family: Family, style: &Style) -> Result<Held, Error> {
    let table = table_of(family);
    let tables = nftables.tables(table.family).map_err(error::observing)?;
    let Some(found) = tables.into_iter().find(|found| found.table == table) else {
        return Ok(Held::default());
    };
    check_owner(&found)?;
    let other = Held { table: Presence::OfAnotherShape, ..Held::default() };
    if !has_chains(nftables, &table, style)? {
        return Ok(other);
    }
    match members(nftables, &table, family)? {
        Some(members) => Ok(Held { table: Presence::There, members, style: Some(style.clone()) }),
        None => Ok(other),
    }
}

fn check_owner(found: &InstalledTable) -> Result<(), Error> {
    let foreign = found.comment.as_ref().filter(|comment| comment.as_str() != COMMENT);
    match (found.ownership, foreign) {
        (Ownership::Socket, _) => Err(Error::Owned(found.table.clone())),
        (_, Some(comment)) => Err(Error::Foreign(found.table.clone(), comment.clone())),
        _ => Ok(()),
    }
}

/// Whether the chains and rules are those of `style` and no others.
fn has_chains(nftables: &mut dyn Nftables, table: &Table, style: &Style) -> Result<bool, Error> {
    let mut rules: BTreeMap<Name, Vec<InstalledRule>> = BTreeMap::new();
    for rule in nftables.rules(table, None).map_err(error::observing)? {
        rules.entry(rule.chain.clone()).or_default().push(rule);
    }
    let wanted = style.chains();
    let chains = nftables.chains(table).map_err(error::observing)?;
    let are_there = wanted.iter().all(|(chain, wanted)| {
        let found = chains.iter().any(|found| (&found.name, found.base) == (&chain.name, chain.base));
        found && are(wanted, rules.get(&chain.name).map(Vec::as_slice).unwrap_or_default())
    });
    Ok(are_there && chains.len() == wanted.len())
}

fn are(rules: &[Rule], installed: &[InstalledRule]) -> bool {
    rules.len() == installed.len() && rules.iter().zip(installed).all(|(rule, installed)| rule.is(installed))
}

/// `None` if there are other sets than ours, or something in one of them that is never written here.
fn members(nftables: &mut dyn Nftables, table: &Table, family: Family) -> Result<Option<Members>, Error> {
    let sets = nftables.sets(table).map_err(error::observing)?;
    let mut members = Members::default();
    let mut strangers = sets.len() != NAMES.len();
    for set in &sets {
        let Some(id) = SetId::parse(&set.name) else { return Ok(None) };
        let wanted = id.declaration(family);
        strangers |= (set.key.kind(), set.intervals, set.dynamic)
            != (wanted.key.kind(), wanted.intervals, wanted.dynamic)
            || std::mem::discriminant(&set.data) != std::mem::discriminant(&wanted.data);
        if strangers {
            break;
        }
        let mut note = |element: &_| match member::parse(id, family, element) {
            Some(member) => {
                members.insert(member);
            }
            None => strangers = true,
        };
        nftables.elements(table, set, &mut note).map_err(error::observing)?;
    }
    Ok((!strangers).then_some(members))
}
