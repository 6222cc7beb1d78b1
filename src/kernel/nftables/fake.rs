//! nf_tables in memory, as strict as the kernel: it refuses what the kernel refuses, and rules whose keys do not fit.

mod references;

use std::collections::BTreeMap;
use std::io;

use super::element::ElementValue;
use super::rule::{Handle, Place};
use super::set::SetData;
use super::table::Activity;
use super::{
    Chain, Counter, Element, Generation, InstalledRule, InstalledTable, Name, Nftables, NftablesError,
    Operation, Refusal, Refusals, Rule, Set, Table, TableFamily, Transaction, Value,
};

#[derive(Debug, Default)]
pub struct FakeNftables {
    pub tables: BTreeMap<Table, FakeTable>,
    /// The transactions that were carried out, as printed.
    pub committed: Vec<String>,
    /// Refuses operations whose line holds this, as a kernel without some expression would.
    pub refuse: Option<String>,
    /// So many of the next transactions are lost.
    pub losses: usize,
    generation: u32,
}

#[derive(Clone, Debug, Default)]
pub struct FakeTable {
    installed: Option<InstalledTable>,
    pub chains: BTreeMap<Name, FakeChain>,
    pub sets: BTreeMap<Name, FakeSet>,
    pub counters: BTreeMap<Name, Counter>,
    handles: u64,
}

#[derive(Clone, Debug)]
pub struct FakeChain {
    pub chain: Chain,
    pub rules: Vec<(Handle, Rule)>,
}

#[derive(Clone, Debug)]
pub struct FakeSet {
    pub set: Set,
    pub elements: BTreeMap<Value, Element>,
}

type Errno = i32;

impl FakeNftables {
    /// Somebody else's change.
    pub fn table(&mut self, table: &Table) -> &mut FakeTable {
        self.generation += 1;
        self.tables.get_mut(table).expect("the table is there")
    }

    fn refusal(&self, transaction: &Transaction, operation: usize, errno: Errno) -> NftablesError {
        let text = transaction.operations[operation].of(&transaction.table).to_string().into();
        let errno = io::Error::from_raw_os_error(errno);
        NftablesError::Refused(Refusals(vec![Refusal {
            operation,
            element: None,
            text,
            errno,
            explanation: None,
        }]))
    }

    fn is_refused(&self, transaction: &Transaction, operation: usize) -> bool {
        let mut single = Transaction::new(&transaction.table);
        single.push(transaction.operations[operation].clone());
        self.refuse.as_ref().is_some_and(|what| single.to_string().contains(what))
    }
}

impl FakeTable {
    /// `nft add table FAMILY NAME { flags dormant; }`
    pub fn fall_dormant(&mut self) {
        if let Some(installed) = &mut self.installed {
            installed.activity = Activity::Dormant;
        }
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), Errno> {
        match operation {
            Operation::AddTable(..) | Operation::DeleteTable => {}
            Operation::AddChain(chain) => self.add_chain(chain)?,
            Operation::DeleteChain(name) => self.delete_chain(name)?,
            Operation::FlushChain(name) => self.chain(name)?.rules.clear(),
            Operation::AddRule { chain, rule, place } => self.add_rule(chain, rule, *place)?,
            Operation::DeleteRule { chain, handle } => {
                let at = self.position(chain, *handle)?;
                self.chain(chain)?.rules.remove(at);
            }
            Operation::AddSet(set) => self.add_set(set)?,
            Operation::DeleteSet(name) => {
                self.set(name)?;
                self.unless_referred(self.refers_to_set(name))?;
                self.sets.remove(name);
            }
            Operation::FlushSet(name) => self.set(name)?.elements.clear(),
            Operation::AddElements { set, elements } => {
                elements.iter().try_for_each(|element| self.add_element(set, &element))?;
            }
            Operation::DeleteElements { set, elements } => {
                let set = self.set(set)?;
                elements.iter().try_for_each(|element| {
                    set.elements.remove(&element.key).map(drop).ok_or(libc::ENOENT)
                })?;
            }
            Operation::AddCounter(counter) => {
                self.counters.entry(counter.name.clone()).or_insert_with(|| counter.clone());
            }
            Operation::DeleteCounter(name) => {
                self.unless_referred(self.refers_to_counter(name))?;
                self.counters.remove(name).ok_or(libc::ENOENT)?;
            }
        }
        Ok(())
    }

    fn unless_referred(&self, is_referred: bool) -> Result<(), Errno> {
        if is_referred { Err(libc::EBUSY) } else { Ok(()) }
    }

    fn chain(&mut self, name: &str) -> Result<&mut FakeChain, Errno> {
        self.chains.get_mut(name).ok_or(libc::ENOENT)
    }

    fn set(&mut self, name: &str) -> Result<&mut FakeSet, Errno> {
        self.sets.get_mut(name).ok_or(libc::ENOENT)
    }

    fn add_chain(&mut self, chain: &Chain) -> Result<(), Errno> {
        match self.chains.get(&chain.name) {
            None => {
                let rules = Vec::new();
                self.chains.insert(chain.name.clone(), FakeChain { chain: chain.clone(), rules });
                Ok(())
            }
            Some(there) if there.chain.base.is_some() == chain.base.is_some() => Ok(()),
            Some(_) => Err(libc::EEXIST),
        }
    }

    fn delete_chain(&mut self, name: &str) -> Result<(), Errno> {
        self.chain(name)?;
        self.unless_referred(self.leads_to(name))?;
        self.chains.remove(name);
        Ok(())
    }

    fn position(&mut self, chain: &str, handle: Handle) -> Result<usize, Errno> {
        self.chain(chain)?.rules.iter().position(|(found, _)| *found == handle).ok_or(libc::ENOENT)
    }

    fn add_rule(&mut self, chain: &Name, rule: &Rule, place: Place) -> Result<(), Errno> {
        self.chain(chain)?;
        rule.statements.iter().try_for_each(|statement| self.check(statement))?;
        let at = match place {
            Place::Start => 0,
            Place::End => self.chain(chain)?.rules.len(),
            Place::Before(handle) | Place::InsteadOf(handle) => self.position(chain, handle)?,
            Place::After(handle) => self.position(chain, handle)? + 1,
        };
        self.handles += 1;
        let handle = Handle(self.handles);
        let rules = &mut self.chain(chain)?.rules;
        if matches!(place, Place::InsteadOf(_)) {
            rules.remove(at);
        }
        rules.insert(at, (handle, rule.clone()));
        Ok(())
    }

    /// The same set again is none, since Linux 6.3; before that the kernel did not look.
    fn add_set(&mut self, set: &Set) -> Result<(), Errno> {
        match self.sets.get(&set.name) {
            Some(there) if there.set == *set => Ok(()),
            Some(_) => Err(libc::EEXIST),
            None => {
                let elements = BTreeMap::new();
                self.sets.insert(set.name.clone(), FakeSet { set: set.clone(), elements });
                Ok(())
            }
        }
    }

    fn add_element(&mut self, set: &Name, element: &Element) -> Result<(), Errno> {
        self.check_data(set, element)?;
        let FakeSet { set, elements } = self.set(set)?;
        if let Some(there) = elements.get(&element.key) {
            return if there.data == element.data { Ok(()) } else { Err(libc::EEXIST) };
        }
        if set.size.is_some_and(|size| elements.len() >= size as usize) {
            return Err(libc::ENFILE);
        }
        elements.insert(element.key, element.clone());
        Ok(())
    }

    fn check_data(&mut self, name: &Name, element: &Element) -> Result<(), Errno> {
        let set = &self.set(name)?.set;
        let fits = match (&set.data, &element.data) {
            (SetData::Nothing, ElementValue::Nothing)
            | (SetData::Verdict, ElementValue::Verdict(_))
            | (SetData::Counter, ElementValue::Counter(_)) => true,
            (SetData::Value(shape), ElementValue::Value(value)) => shape.kind() == value.kind(),
            _ => false,
        };
        if !fits || set.key.kind() != element.key.kind() {
            return Err(libc::EINVAL);
        }
        match &element.data {
            ElementValue::Verdict(verdict) => self.check_verdict(verdict),
            ElementValue::Counter(name) if !self.counters.contains_key(name) => Err(libc::ENOENT),
            _ => Ok(()),
        }
    }
}

impl Nftables for FakeNftables {
    fn commit(&mut self, transaction: &Transaction) -> Result<Generation, NftablesError> {
        if self.losses > 0 {
            self.losses -= 1;
            return Err(NftablesError::Lost);
        }
        if transaction.after.is_some_and(|after| after.0 != self.generation) {
            return Err(NftablesError::Stale(Generation(self.generation)));
        }
        let mut table = self.tables.get(&transaction.table).cloned();
        for (index, operation) in transaction.operations.iter().enumerate() {
            let refused = |errno| self.refusal(transaction, index, errno);
            if self.is_refused(transaction, index) {
                return Err(refused(libc::EOPNOTSUPP));
            }
            if let Operation::AddTable(ownership, comment) = operation {
                let installed = InstalledTable {
                    table: transaction.table.clone(),
                    ownership: *ownership,
                    activity: Activity::Active,
                    comment: comment.clone(),
                };
                let there = table.get_or_insert_default().installed.get_or_insert(installed);
                there.activity = Activity::Active;
            }
            let there = table.as_mut().ok_or_else(|| refused(libc::ENOENT))?;
            there.apply(operation).map_err(refused)?;
            if *operation == Operation::DeleteTable {
                table = None;
            }
        }
        match table {
            Some(changed) => drop(self.tables.insert(transaction.table.clone(), changed)),
            None => drop(self.tables.remove(&transaction.table)),
        }
        if !transaction.is_empty() {
            self.generation += 1;
            self.committed.push(transaction.to_string());
        }
        Ok(Generation(self.generation))
    }

    fn generation(&mut self) -> Result<Generation, NftablesError> {
        Ok(Generation(self.generation))
    }

    fn tables(&mut self, family: TableFamily) -> Result<Vec<InstalledTable>, NftablesError> {
        let of_family = self.tables.iter().filter(|(table, _)| table.family == family);
        Ok(of_family.filter_map(|(_, table)| table.installed.clone()).collect())
    }

    fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, NftablesError> {
        let chains = self.tables.get(table).into_iter().flat_map(|table| table.chains.values());
        Ok(chains.map(|chain| chain.chain.clone()).collect())
    }

    fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<InstalledRule>, NftablesError> {
        let chains = self.tables.get(table).into_iter().flat_map(|table| table.chains.iter());
        let wanted = chains.filter(|(name, _)| chain.is_none_or(|chain| *chain == ***name));
        let rules = wanted.flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)));
        let installed = rules.map(|(chain, (handle, rule))| InstalledRule {
            chain: chain.clone(),
            handle: *handle,
            expressions: rule.expressions(),
            comment: rule.comment.clone(),
        });
        Ok(installed.collect())
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<Set>, NftablesError> {
        let sets = self.tables.get(table).into_iter().flat_map(|table| table.sets.values());
        Ok(sets.map(|set| set.set.clone()).collect())
    }

    fn elements(
        &mut self,
        table: &Table,
        set: &Set,
        each: &mut dyn FnMut(&Element),
    ) -> Result<(), NftablesError> {
        let found = self.tables.get(table).and_then(|table| table.sets.get(&set.name));
        found.into_iter().flat_map(|set| set.elements.values()).for_each(each);
        Ok(())
    }

    fn element(&mut self, table: &Table, set: &Set, key: &Value) -> Result<Option<Element>, NftablesError> {
        let found = self.tables.get(table).and_then(|table| table.sets.get(&set.name));
        Ok(found.and_then(|set| set.elements.get(key).cloned()))
    }

    fn counters(&mut self, table: &Table, each: &mut dyn FnMut(&Counter)) -> Result<(), NftablesError> {
        self.tables.get(table).into_iter().flat_map(|table| table.counters.values()).for_each(each);
        Ok(())
    }
}
