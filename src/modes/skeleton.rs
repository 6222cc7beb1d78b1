//! The fixed rules of a mode that asks sets, and whether they are still as they were written. No Service appears in them,
//! so no change of a Service starts a program.

use std::collections::HashSet;
use std::fmt;

use super::Drift;
use super::iptables::{ContentHash, Layout, Observed, observe};
use super::watched::Watched;
use crate::kernel::iptables::{Door, Error, Input, Table};
use crate::model::ServiceTable;

/// All that the rules of a mode depend on.
pub trait Needs: Clone + PartialEq + fmt::Debug {
    type Settings: Copy + fmt::Debug;

    const LAYOUT: &'static Layout;

    fn of(settings: &Self::Settings, table: &ServiceTable) -> Self;

    fn chains(&self) -> Vec<Chain>;

    /// Whether the mode answers for a chain.
    fn is_ours(chain: &str) -> bool;
}

/// A chain and its rules as iptables-save prints them.
#[derive(Debug)]
pub struct Chain {
    pub table: Table,
    pub name: &'static str,
    pub rules: Vec<String>,
}

#[derive(Debug)]
pub struct Skeleton<D, N: Needs> {
    pub(super) rules: Watched<D>,
    settings: N::Settings,
    known: Known<N>,
}

/// What is known to be in the kernel.
#[derive(Debug)]
enum Known<N> {
    Observed(Observed),
    /// As written for this.
    Written(N),
}

/// What to write. Its `Display` is the input to iptables-restore.
#[derive(Debug)]
pub struct Rules<N> {
    needs: N,
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

impl<D: Door, N: Needs> Skeleton<D, N> {
    pub fn new(door: D, settings: N::Settings) -> Self {
        let rules = Watched::new(door, N::is_ours);
        Skeleton { rules, settings, known: Known::Observed(Observed::nothing(N::LAYOUT)) }
    }

    pub fn observe(&mut self) -> Result<(), Error> {
        self.known = Known::Observed(self.rules.read(|door| observe(door, N::LAYOUT))?);
        Ok(())
    }

    /// Whether kube-proxy's chains were there when rules were last read.
    pub fn has_kube_proxys(&self) -> bool {
        matches!(&self.known, Known::Observed(observed) if observed.kube_proxy)
    }

    /// `None` if they are known to be as they should.
    pub fn plan(&self, want: &ServiceTable) -> Option<Rules<N>> {
        let needs = N::of(&self.settings, want);
        let nothing = Observed::nothing(N::LAYOUT);
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

    pub fn apply(&mut self, rules: &Rules<N>) -> Result<(), Error> {
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
pub fn from_scratch<N: Needs>(settings: &N::Settings, table: &ServiceTable) -> Rules<N> {
    rules(N::of(settings, table), &Observed::nothing(N::LAYOUT), Jumps::AsObserved)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Jumps {
    AreThere,
    AsObserved,
}

fn rules<N: Needs>(needs: N, observed: &Observed, jumps: Jumps) -> Rules<N> {
    let mut tables: Vec<_> = N::LAYOUT
        .tables
        .iter()
        .map(|&table| TableRules {
            table,
            chains: vec![],
            jumps: if jumps == Jumps::AsObserved { observed.repair(table) } else { vec![] },
            removals: vec![],
        })
        .collect();
    let chains = needs.chains();
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

impl<N: Clone> Rules<N> {
    /// What keeps packets out, and then the rest, which takes the place of an earlier proxy's translations.
    pub fn split(self) -> (Rules<N>, Rules<N>) {
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

impl<N> Input for Rules<N> {
    fn commits(&self) -> u32 {
        self.tables.len() as u32
    }
}

impl<N> fmt::Display for Rules<N> {
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
