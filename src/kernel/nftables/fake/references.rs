//! What names what: rules and elements lead to chains, rules name sets and counters.

use super::super::datatype::{Datatype, Type};
use super::super::selector::{Selector, type_of};
use super::super::set::SetData;
use super::super::statement::{ElementData, NatTarget, Statement};
use super::super::{Element, Verdict};
use super::{Errno, FakeTable};
use crate::kernel::nftables::element::ElementValue;

impl FakeTable {
    fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.chains.values().flat_map(|chain| &chain.rules).flat_map(|(_, rule)| &rule.statements)
    }

    fn elements(&self) -> impl Iterator<Item = &Element> {
        self.sets.values().flat_map(|set| set.elements.values())
    }

    pub(super) fn leads_to(&self, chain: &str) -> bool {
        let leads = |verdict: &Verdict| verdict.chain().is_some_and(|target| **target == *chain);
        let by_rule =
            |statement: &Statement| matches!(statement, Statement::Verdict(verdict) if leads(verdict));
        let by_element =
            |element: &Element| matches!(&element.data, ElementValue::Verdict(verdict) if leads(verdict));
        self.statements().any(by_rule) || self.elements().any(by_element)
    }

    pub(super) fn refers_to_set(&self, set: &str) -> bool {
        self.statements().any(|statement| set_of(statement).is_some_and(|named| named.name == set))
    }

    pub(super) fn refers_to_counter(&self, counter: &str) -> bool {
        let by_rule =
            |statement: &Statement| matches!(statement, Statement::NamedCounter(name) if **name == *counter);
        let by_element =
            |element: &Element| matches!(&element.data, ElementValue::Counter(name) if **name == *counter);
        self.statements().any(by_rule) || self.elements().any(by_element)
    }

    pub(super) fn check_verdict(&self, verdict: &Verdict) -> Result<(), Errno> {
        match verdict.chain() {
            // The kernel does not lead anybody from within to where packets enter.
            Some(chain) => match self.chains.get(chain) {
                Some(target) if target.chain.base.is_some() => Err(libc::EOPNOTSUPP),
                Some(_) => Ok(()),
                None => Err(libc::ENOENT),
            },
            None => Ok(()),
        }
    }

    /// Whether what a statement names is there and fits. The kernel only compares lengths.
    pub(super) fn check(&self, statement: &Statement) -> Result<(), Errno> {
        match statement {
            Statement::Verdict(verdict) => self.check_verdict(verdict),
            Statement::NamedCounter(name) if !self.counters.contains_key(name) => Err(libc::ENOENT),
            other => set_of(other).map_or(Ok(()), |named| self.check_set(&named)),
        }
    }

    fn check_set(&self, named: &NamedSet<'_>) -> Result<(), Errno> {
        let set = &self.sets.get(named.name).ok_or(libc::ENOENT)?.set;
        let data_fits = match (named.data, &set.data) {
            (Wanted::Nothing, SetData::Nothing)
            | (Wanted::Verdict, SetData::Verdict)
            | (Wanted::Counter, SetData::Counter)
            | (Wanted::Anything, SetData::Value(_)) => true,
            (Wanted::Value(kind), SetData::Value(shape)) => shape.kind() == kind,
            _ => false,
        };
        let key_fits = set.key.kind() == type_of(named.key);
        if data_fits && key_fits { Ok(()) } else { Err(libc::EINVAL) }
    }
}

/// How a statement names a set.
struct NamedSet<'a> {
    name: &'a str,
    key: &'a [Selector],
    data: Wanted,
}

#[derive(Clone, Copy)]
enum Wanted {
    Nothing,
    Verdict,
    Counter,
    Value(Type),
    Anything,
}

fn set_of(statement: &Statement) -> Option<NamedSet<'_>> {
    let (name, key, data) = match statement {
        Statement::Lookup { key, set, .. } => (set, key, Wanted::Nothing),
        Statement::VerdictMap { key, map } => (map, key, Wanted::Verdict),
        Statement::MappedCounter { key, map } => (map, key, Wanted::Counter),
        Statement::MapPriority { key, map } => (map, key, Wanted::Value(Type::of(&[Datatype::Priority]))),
        Statement::DestinationNat(NatTarget::Map { key, map, .. })
        | Statement::SourceNat(NatTarget::Map { key, map, .. }, _) => (map, key, Wanted::Anything),
        Statement::ChangeSet { set, key, data, .. } => {
            let wanted = match data {
                None => Wanted::Nothing,
                Some(ElementData::Value(value)) => Wanted::Value(value.kind()),
                Some(ElementData::Selectors(selectors)) => Wanted::Value(type_of(selectors)),
            };
            (set, key, wanted)
        }
        _ => return None,
    };
    Some(NamedSet { name, key, data })
}
