//! iptables in memory, as strict as the kernel: it refuses what the kernel refuses.

use std::collections::BTreeMap;

use super::{Door, Error, Input, Stamp, Table};
use crate::model::Family;

type Chains = BTreeMap<String, Vec<String>>;

#[derive(Debug)]
pub struct Fake {
    family: Family,
    pub tables: BTreeMap<Table, Chains>,
    /// What was restored last.
    pub input: String,
    /// Refuses lines that hold this, as a kernel without some match would.
    pub refuse: Option<String>,
    /// The same, but only at COMMIT, as legacy does.
    pub refuse_at_commit: Option<String>,
    changes: u64,
}

impl Fake {
    pub fn new(family: Family) -> Self {
        let built_in = |table| -> &[&str] {
            match table {
                Table::Filter => &["INPUT", "FORWARD", "OUTPUT"],
                Table::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
                Table::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            }
        };
        let tables = Table::ALL.map(|table| {
            (table, built_in(table).iter().map(|chain| ((*chain).to_owned(), vec![])).collect())
        });
        Fake {
            family,
            tables: tables.into(),
            input: String::new(),
            refuse: None,
            refuse_at_commit: None,
            changes: 0,
        }
    }

    /// Somebody else's change.
    pub fn chain(&mut self, table: Table, chain: &str) -> &mut Vec<String> {
        self.changes += 1;
        self.tables.get_mut(&table).unwrap().get_mut(chain).unwrap()
    }
}

/// One table while its lines come in; nothing of it holds before COMMIT.
struct Transaction {
    table: Table,
    chains: Chains,
}

impl Transaction {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(declared) = line.strip_prefix(':') {
            return self.declare(declared.split(' ').next().unwrap_or_default());
        }
        let (verb, rest) = line.split_once(' ').ok_or("no command")?;
        let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        if !self.chains.contains_key(chain) {
            return Err(format!("no chain {chain}"));
        }
        match verb {
            "-A" | "-I" => self.check(rule)?,
            "-X" => return self.delete(chain),
            _ => {}
        }
        let rules = self.chains.get_mut(chain).ok_or("no chain")?;
        match verb {
            "-A" => rules.push(rule.to_owned()),
            "-I" => rules.insert(0, rule.to_owned()),
            "-D" => {
                let at = rules.iter().position(|found| found == rule).ok_or("no such rule")?;
                rules.remove(at);
            }
            _ => return Err(format!("unknown command {verb}")),
        }
        Ok(())
    }

    fn declare(&mut self, chain: &str) -> Result<(), String> {
        if chain.is_empty() || chain.len() > 28 {
            return Err(format!("chain name {chain:?} has {} characters", chain.len()));
        }
        self.chains.entry(chain.to_owned()).or_default().clear();
        Ok(())
    }

    fn check(&self, rule: &str) -> Result<(), String> {
        const TARGETS: [&str; 10] =
            ["ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "MASQUERADE", "MARK", "CONNMARK", "TPROXY", "SET"];
        let words: Vec<_> = rule.split(' ').collect();
        if words.contains(&"") {
            return Err(format!("stray space in {rule:?}"));
        }
        let at = words.iter().rposition(|word| matches!(*word, "-j" | "-g"));
        let target = at.and_then(|at| words.get(at + 1)).ok_or("no target")?;
        match self.chains.contains_key(*target) || TARGETS.contains(target) {
            true => Ok(()),
            false => Err(format!("no chain {target}")),
        }
    }

    fn delete(&mut self, chain: &str) -> Result<(), String> {
        if !self.chains[chain].is_empty() {
            return Err(format!("{chain} is not empty"));
        }
        let leads_here = |rule: &String| {
            rule.strip_suffix(chain).is_some_and(|rest| rest.ends_with("-j ") || rest.ends_with("-g "))
        };
        if let Some((from, _)) = self.chains.iter().find(|(_, rules)| rules.iter().any(leads_here)) {
            return Err(format!("{from} leads to {chain}"));
        }
        self.chains.remove(chain);
        Ok(())
    }
}

impl Door for Fake {
    fn family(&self) -> Family {
        self.family
    }

    fn save(&mut self, table: Table, line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let chains = &self.tables[&table];
        line(&format!("*{table}"));
        chains.keys().for_each(|chain| line(&format!(":{chain} - [0:0]")));
        for (chain, rules) in chains {
            rules.iter().for_each(|rule| line(&format!("-A {chain} {rule}")));
        }
        line("COMMIT");
        Ok(())
    }

    fn restore(&mut self, input: &dyn Input) -> Result<(), Error> {
        self.input = input.to_string();
        let mut open: Option<Transaction> = None;
        for (at, line) in self.input.lines().enumerate() {
            let refused = |message| Error::Fake { line: at + 1, message };
            if self.refuse.as_ref().is_some_and(|what| line.contains(what)) {
                return Err(refused("refused".to_owned()));
            }
            if let Some(name) = line.strip_prefix('*') {
                let table = Table::ALL.into_iter().find(|table| table.to_string() == name);
                let table = table.ok_or_else(|| refused(format!("no table {name}")))?;
                open = Some(Transaction { table, chains: self.tables[&table].clone() });
            } else if line == "COMMIT" {
                let unacceptable =
                    |rule: &String| self.refuse_at_commit.as_ref().is_some_and(|what| rule.contains(what));
                if open.iter().flat_map(|open| open.chains.values()).flatten().any(unacceptable) {
                    return Err(refused("refused".to_owned()));
                }
                let done = open.take().ok_or_else(|| refused("no table".to_owned()))?;
                self.tables.insert(done.table, done.chains);
                self.changes += 1;
            } else {
                let open = open.as_mut().ok_or_else(|| refused("no table".to_owned()))?;
                open.line(line).map_err(refused)?;
            }
        }
        match open {
            None => Ok(()),
            Some(_) => Err(Error::Fake { line: self.input.lines().count(), message: "no COMMIT".into() }),
        }
    }

    fn stamp(&mut self) -> Result<Stamp, Error> {
        Ok(Stamp::Fake(self.changes))
    }

    fn fingerprint(&mut self, _: &dyn Fn(&str) -> bool) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

impl Input for &str {
    fn commits(&self) -> u32 {
        self.matches("COMMIT\n").count() as u32
    }
}
