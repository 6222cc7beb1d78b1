//! The rules that ask the sets, and whether they are still as they were written.

use std::collections::HashSet;
use std::fmt;

use super::base::{self, Chain, MasqueradeAll};
use crate::kernel::iptables::{Door, Error, Input, Table};
use crate::model::ServiceTable;
use crate::modes::Drift;
use crate::modes::iptables::{ContentHash, Observed, Settings, Style, observe};
use crate::modes::watched::Watched;

#[derive(Debug)]
pub struct Skeleton<D> {
    pub(super) rules: Watched<D>,
    settings: Settings,
    known: Known,
}

/// What is known to be in the kernel.
#[derive(Debug)]
enum Known {
    Observed(Observed),
    /// As written for this.
    Written(Needs),
}

/// All that the rules depend on.
#[derive(Clone, Debug)]
struct Needs {
    style: Style,
    everybody: MasqueradeAll,
}

impl PartialEq for Needs {
    fn eq(&self, other: &Self) -> bool {
        // Family and settings do not change while the process lives.
        self.style.local == other.style.local && self.everybody == other.everybody
    }
}

impl Needs {
    fn of(settings: &Settings, table: &ServiceTable) -> Self {
        let everybody = if table.node().masquerade_all { MasqueradeAll::Yes } else { MasqueradeAll::No };
        Needs { style: Style::new(settings, table), everybody }
    }
}

/// What to write. Its `Display` is the input to iptables-restore.
#[derive(Debug)]
pub struct Rules {
    needs: Needs,
    tables: Vec<TableRules>,
    extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Of which more follows.
    Part,
    Whole,
}

#[derive(Debug)]
struct TableRules {
    table: Table,
    chains: Vec<Chain>,
    jumps: Vec<String>,
    removals: Vec<String>,
}

impl<D: Door> Skeleton<D> {
    pub fn new(door: D, settings: Settings) -> Self {
        let rules = Watched::new(door, base::is_ours);
        Skeleton { rules, settings, known: Known::Observed(Observed::nothing(&base::LAYOUT)) }
    }

    pub fn observe(&mut self) -> Result<(), Error> {
        self.known = Known::Observed(self.rules.read(|door| observe(door, &base::LAYOUT))?);
        Ok(())
    }

    /// Whether kube-proxy's chains were there when rules were last read.
    pub fn has_kube_proxys(&self) -> bool {
        matches!(&self.known, Known::Observed(observed) if observed.kube_proxy)
    }

    /// `None` if they are known to be as they should.
    pub fn plan(&self, want: &ServiceTable) -> Option<Rules> {
        let needs = Needs::of(&self.settings, want);
        let nothing = Observed::nothing(&base::LAYOUT);
        let observed = match &self.known {
            Known::Written(written) if *written == needs => return None,
            // All of them: it is a dozen short chains, and seldom that they change.
            Known::Written(_) => &nothing,
            Known::Observed(observed) => observed,
        };
        let jumps = match &self.known {
            Known::Written(_) => Jumps::AreThere,
            Known::Observed(_) => Jumps::AsObserved,
        };
        Some(rules(needs, observed, jumps))
    }

    pub fn apply(&mut self, rules: &Rules) -> Result<(), Error> {
        if !rules.is_empty() {
            self.rules.restore(rules)?;
        }
        if rules.extent == Extent::Whole {
            self.known = Known::Written(rules.needs.clone());
        }
        Ok(())
    }

    pub fn drift(&mut self) -> Result<Drift, Error> {
        self.rules.drift()
    }
}

/// All of it, as for a kernel without rules.
pub fn from_scratch(settings: &Settings, table: &ServiceTable) -> Rules {
    rules(Needs::of(settings, table), &Observed::nothing(&base::LAYOUT), Jumps::AsObserved)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Jumps {
    AreThere,
    AsObserved,
}

fn rules(needs: Needs, observed: &Observed, jumps: Jumps) -> Rules {
    let mut tables: Vec<_> = base::LAYOUT
        .tables
        .iter()
        .map(|&table| TableRules {
            table,
            chains: vec![],
            jumps: if jumps == Jumps::AsObserved { observed.repair(table) } else { vec![] },
            removals: vec![],
        })
        .collect();
    let chains = base::chains(&needs.style, needs.everybody);
    for rules in &mut tables {
        let wanted: HashSet<&str> =
            chains.iter().filter(|chain| chain.table == rules.table).map(|chain| chain.name).collect();
        rules.removals = observed.others(rules.table, &wanted);
    }
    for chain in chains {
        let lines: String = chain.rules.iter().map(|rule| format!("-A {} {rule}\n", chain.name)).collect();
        if observed.get(chain.table, chain.name) != Some(ContentHash::of(&lines))
            && let Some(rules) = tables.iter_mut().find(|rules| rules.table == chain.table)
        {
            rules.chains.push(chain);
        }
    }
    tables.retain(|rules| !(rules.chains.is_empty() && rules.jumps.is_empty() && rules.removals.is_empty()));
    Rules { needs, tables, extent: Extent::Whole }
}

impl Rules {
    /// What keeps packets out, and then the rest, which takes the place of an earlier proxy's translations.
    pub fn split(self) -> (Rules, Rules) {
        let (nat, guards) = self.tables.into_iter().partition(|rules| rules.table == Table::Nat);
        let guards = Rules { needs: self.needs.clone(), tables: guards, extent: Extent::Part };
        (guards, Rules { needs: self.needs, tables: nat, extent: self.extent })
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many chains are written or removed, and jumps.
    pub fn operations(&self) -> usize {
        self.tables.iter().map(|rules| rules.chains.len() + rules.jumps.len() + rules.removals.len()).sum()
    }
}

impl Input for Rules {
    fn commits(&self) -> u32 {
        self.tables.len() as u32
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|rules| rules.fmt(f))
    }
}

/// Chains come before all rules, as a rule can only lead to a chain that is there; removals come last.
impl fmt::Display for TableRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        let declared =
            self.chains.iter().map(|chain| chain.name).chain(self.removals.iter().map(String::as_str));
        for name in declared {
            writeln!(f, ":{name} - [0:0]")?;
        }
        for chain in &self.chains {
            chain.rules.iter().try_for_each(|rule| writeln!(f, "-A {} {rule}", chain.name))?;
        }
        self.jumps.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.removals.iter().try_for_each(|chain| writeln!(f, "-X {chain}"))?;
        f.write_str("COMMIT\n")
    }
}
