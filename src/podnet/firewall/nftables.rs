//! Masquerading with nf_tables, in a table of its own.
//!
//! Accepting in another table does not help where a chain drops what is forwarded, so that is not done here.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;

use super::{Error, Policy, Written};
use crate::kernel::alarm::{Alarm, Ring};
use crate::kernel::nftables::chain::{ChainKind, Hook};
use crate::kernel::nftables::datatype::Datatype;
use crate::kernel::nftables::events::{Event, Subscription};
use crate::kernel::nftables::expression::{Membership, NatFlags};
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::set::Shape;
use crate::kernel::nftables::{
    Chain, Element, KernelNftables, Name, Nftables as _, NftablesError, Rule, Set, Statement, Table,
    Transaction, Value,
};
use crate::model::Family;

/// In the families `ip` and `ip6`.
pub const TABLE: &str = "ferrovia-pods";
const COMMENT: &str = "pods of this node";
const CHAIN: &str = "postrouting";
/// `NF_IP_PRI_NAT_SRC`.
const SRCNAT: i32 = 100;
const PODS: &str = "pods";
const INSIDE: &str = "inside";

pub struct Nftables {
    table: Table,
    door: KernelNftables,
    watch: Subscription,
    /// What the table says; `None` where that is not known.
    held: Option<Policy>,
    /// Somebody else changed it.
    disturbed: bool,
    alarm: Option<Alarm>,
}

impl Nftables {
    /// Fails where the kernel has no nf_tables for this family.
    pub fn open(family: Family) -> Result<Self, Error> {
        let mut door = KernelNftables::open()?;
        let table = Table::new(family, TABLE);
        door.generation()?;
        let watch = Subscription::open(&table, door.port())?;
        let mut nftables = Nftables { table, door, watch, held: None, disturbed: false, alarm: None };
        nftables.probe()?;
        Ok(nftables)
    }

    /// A kernel may have nf_tables and no masquerading in it.
    fn probe(&mut self) -> Result<(), Error> {
        let policy = Policy { family: Family::V4, pods: Vec::new(), inside: Vec::new() };
        let family = if self.table == Table::new(Family::V6, TABLE) { Family::V6 } else { Family::V4 };
        let probe = Table::new(family, "ferrovia-pods-probe");
        self.door.commit(&whole(&probe, &Policy { family, ..policy }))?;
        delete(&mut self.door, &probe)?;
        Ok(())
    }

    pub fn sync(&mut self, policy: &Policy) -> Result<Written, Error> {
        let disturbed = &mut self.disturbed;
        self.watch.read(&mut |event| *disturbed |= matches!(event, Event::Changed(..) | Event::Lost))?;
        if self.disturbed {
            self.held = None;
        }
        let transaction = match &self.held {
            Some(held) => difference(&self.table, held, policy),
            None => whole(&self.table, policy),
        };
        if transaction.is_empty() {
            return Ok(Written::Nothing);
        }
        self.held = None;
        self.door.commit(&transaction)?;
        self.held = Some(policy.clone());
        Ok(if std::mem::take(&mut self.disturbed) { Written::Repair } else { Written::Rules })
    }

    pub fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.alarm = Some(Alarm::set(&self.watch, ring)?);
        Ok(())
    }
}

/// The table with all that is in it, for `nft -f`.
pub fn render(policy: &Policy) -> String {
    whole(&Table::new(policy.family, TABLE), policy).to_string()
}

/// In place of whatever is there, without a moment in which it is not.
fn whole(table: &Table, policy: &Policy) -> Transaction {
    let mut transaction = Transaction::new(table);
    transaction.add_table(Some(COMMENT)).delete_table().add_table(Some(COMMENT));
    for (name, networks) in [(PODS, &policy.pods), (INSIDE, &policy.inside)] {
        transaction.add_set(Set::new(name, Shape::types(&[address(policy.family)])).intervals());
        for network in networks {
            transaction.add_element(&Name::from(name), &element(*network));
        }
    }
    transaction.add_chain(Chain::base(CHAIN, ChainKind::Nat, Hook::Postrouting, SRCNAT));
    transaction.add_rule(CHAIN, leaving(policy.family));
    transaction
}

/// `ip saddr @pods ip daddr != @inside masquerade fully-random`
fn leaving(family: Family) -> Rule {
    let lookup = |selector, membership, set: &str| Statement::Lookup {
        key: vec![selector],
        membership,
        set: set.into(),
    };
    // Parallel queries of a pod's resolver can clash on a port otherwise (k8s#56903).
    let flags = NatFlags { fully_random: true, ..NatFlags::default() };
    Rule::new([
        lookup(Selector::SourceAddress(family), Membership::In, PODS),
        lookup(Selector::DestinationAddress(family), Membership::NotIn, INSIDE),
        Statement::Masquerade(flags),
    ])
}

fn difference(table: &Table, held: &Policy, wanted: &Policy) -> Transaction {
    let mut transaction = Transaction::new(table);
    for (name, held, wanted) in [(PODS, &held.pods, &wanted.pods), (INSIDE, &held.inside, &wanted.inside)] {
        let name = Name::from(name);
        let (held, wanted): (BTreeSet<_>, BTreeSet<_>) = (held.iter().collect(), wanted.iter().collect());
        for network in held.difference(&wanted) {
            transaction.delete_element(&name, &element(**network));
        }
        for network in wanted.difference(&held) {
            transaction.add_element(&name, &element(**network));
        }
    }
    transaction
}

fn address(family: Family) -> Datatype {
    match family {
        Family::V4 => Datatype::Ipv4Address,
        Family::V6 => Datatype::Ipv6Address,
    }
}

fn element(network: IpNet) -> Element {
    Element::interval(Value::address(network.network()), Value::address(network.broadcast()))
}

/// Done where there is none, or no nf_tables.
pub fn remove(family: Family) -> Result<(), Error> {
    let Ok(mut door) = KernelNftables::open() else { return Ok(()) };
    match door.generation() {
        Ok(_) => Ok(delete(&mut door, &Table::new(family, TABLE))?),
        Err(_) => Ok(()),
    }
}

fn delete(door: &mut KernelNftables, table: &Table) -> Result<(), NftablesError> {
    let is_there = door.tables(table.family)?.into_iter().any(|found| found.table == *table);
    if is_there {
        let mut transaction = Transaction::new(table);
        transaction.delete_table();
        door.commit(&transaction)?;
    }
    Ok(())
}
