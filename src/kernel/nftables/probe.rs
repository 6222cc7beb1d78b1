//! What the running kernel's nf_tables can do, found out by transactions that are taken back before anybody sees them.
//!
//! Distributions leave out expressions, and some only come with modules that cannot be loaded (siderolabs/talos#951).

use std::fmt;
use std::time::Duration;

use super::datatype::Datatype;
use super::expression::{FibLookup, FibScope, NatFlags, Numbering, PacketEnd, SetChange};
use super::selector::{Generator, Hash, Selector};
use super::set::{Set, SetData, Shape};
use super::statement::{MappedNat, NatTarget, Reject, Statement};
use super::{Chain, Name, Nftables, NftablesError, Rule, Table, Transaction};
use crate::kernel::nftables::chain::{ChainKind, Hook};
use crate::model::Family;

/// What a mode needs, each with the reason why it is missing.
#[derive(Debug)]
pub struct Abilities {
    pub missing: Vec<(Ability, NftablesError)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Tables, chains and rules of the family at all.
    Tables,
    /// Base chains of type nat.
    Nat,
    /// Translation to addresses and ports from maps with concatenated keys, since Linux 5.6 for intervals.
    ConcatenatedMaps,
    ConcatenatedIntervals,
    /// `numgen`
    Numbers,
    /// `jhash`
    Hashes,
    /// `fib daddr type`
    RoutingLookups,
    /// `update @set`
    DynamicSets,
    /// `masquerade fully-random`
    Masquerade,
    /// `reject`
    Reject,
    /// `counter name ... map`
    NamedCounters,
    /// Sets whose elements count, since Linux 5.7.
    CountedSets,
}

impl Ability {
    pub const ALL: [Ability; 12] = [
        Ability::Tables,
        Ability::Nat,
        Ability::ConcatenatedMaps,
        Ability::ConcatenatedIntervals,
        Ability::Numbers,
        Ability::Hashes,
        Ability::RoutingLookups,
        Ability::DynamicSets,
        Ability::Masquerade,
        Ability::Reject,
        Ability::NamedCounters,
        Ability::CountedSets,
    ];

    /// Not needed for forwarding.
    pub const OPTIONAL: [Ability; 2] = [Ability::NamedCounters, Ability::CountedSets];
}

/// In nft's words.
impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ability::Tables => "tables",
            Ability::Nat => "nat chains",
            Ability::ConcatenatedMaps => "concatenated maps",
            Ability::ConcatenatedIntervals => "concatenated intervals",
            Ability::Numbers => "numgen",
            Ability::Hashes => "jhash",
            Ability::RoutingLookups => "fib",
            Ability::DynamicSets => "dynamic sets",
            Ability::Masquerade => "masquerade",
            Ability::Reject => "reject",
            Ability::NamedCounters => "named counters",
            Ability::CountedSets => "sets that count",
        })
    }
}

/// Tries everything in a table of its own, which never exists: each transaction ends with its deletion.
pub fn probe(nftables: &mut dyn Nftables, family: Family, scratch: &str) -> Abilities {
    let table = Table::new(family, scratch);
    let attempt = |ability| {
        let mut transaction = Transaction::new(&table);
        transaction.add_table(None);
        try_out(&mut transaction, family, ability);
        transaction.delete_table();
        nftables.commit(&transaction).err().map(|error| (ability, error))
    };
    Abilities { missing: Ability::ALL.into_iter().filter_map(attempt).collect() }
}

const CHAIN: &str = "probe";

fn try_out(to: &mut Transaction, family: Family, ability: Ability) {
    match ability {
        Ability::Tables => rule(to, []),
        Ability::Nat => {
            to.add_chain(Chain::base(CHAIN, ChainKind::Nat, Hook::Prerouting, -100));
        }
        Ability::ConcatenatedMaps => try_map(to, family),
        Ability::ConcatenatedIntervals => {
            to.add_set(Set::new(CHAIN, Shape::types(&[datatype(family), Datatype::Port])).intervals());
        }
        Ability::Numbers => match_integer(
            to,
            Selector::Number(Generator { numbering: Numbering::Random, modulus: 2, offset: 0 }),
        ),
        Ability::Hashes => {
            let of = vec![Selector::SourceAddress(family)];
            match_integer(to, Selector::Hash(Hash { of, modulus: 2, seed: None }));
        }
        Ability::RoutingLookups => {
            let lookup = FibLookup { end: PacketEnd::Destination, scope: FibScope::Anywhere };
            rule(to, [Statement::IsLocal(Selector::AddressType(lookup))]);
        }
        Ability::DynamicSets => try_dynamic_set(to, family),
        Ability::Masquerade => {
            let flags = NatFlags { fully_random: true, ..NatFlags::default() };
            rule(to, [Statement::Masquerade(flags)]);
        }
        Ability::Reject => rule(to, [Statement::Reject(Reject::PortUnreachable(family))]),
        Ability::CountedSets => {
            let shape = Shape::types(&[datatype(family)]);
            to.add_set(Set { counted: true, ..Set::new(CHAIN, shape) });
        }
        Ability::NamedCounters => {
            let map = Set::map(CHAIN, Shape::types(&[datatype(family)]), SetData::Counter);
            let key = vec![Selector::DestinationAddress(family)];
            to.add_set(map);
            rule(to, [Statement::MappedCounter { key, map: CHAIN.into() }]);
        }
    }
}

/// A chain with one rule of these statements.
fn rule(to: &mut Transaction, statements: impl Into<Vec<Statement>>) {
    to.add_chain(Chain::regular(CHAIN)).add_rule(CHAIN, Rule::new(statements));
}

fn match_integer(to: &mut Transaction, selector: Selector) {
    rule(to, [Statement::Is(selector, super::Value::integer(1))]);
}

fn datatype(family: Family) -> Datatype {
    match family {
        Family::V4 => Datatype::Ipv4Address,
        Family::V6 => Datatype::Ipv6Address,
    }
}

fn try_map(to: &mut Transaction, family: Family) {
    let map: Name = CHAIN.into();
    let key = vec![Selector::DestinationAddress(family), Selector::Protocol, Selector::DestinationPort];
    let data = SetData::Value(Shape::types(&[datatype(family), Datatype::Port]));
    to.add_set(Set::map(&map, Shape::Selectors(key.clone()), data));
    let target = NatTarget::Map { family, key, map, data: MappedNat::AddressAndPort };
    rule(to, [Statement::DestinationNat(target)]);
}

fn try_dynamic_set(to: &mut Transaction, family: Family) {
    let timeout = Duration::from_secs(10);
    to.add_set(Set::new(CHAIN, Shape::types(&[datatype(family)])).dynamic(timeout, 10));
    rule(
        to,
        [Statement::ChangeSet {
            change: SetChange::Update,
            set: CHAIN.into(),
            key: vec![Selector::SourceAddress(family)],
            timeout: Some(timeout),
            data: None,
        }],
    );
}
