//! What to write so that the kernel holds what the table says, as data.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::names::ChainKey;
use super::observe::Observed;
use super::render::{Content, ContentHash, Rules, Style};
use crate::kernel::iptables::{Input, Table};
use crate::model::{Family, ServicePortName};

/// What this mode knows to be in the kernel.
#[derive(Debug)]
pub enum Known {
    /// As read: names, and chains that need not be ours any more.
    Observed(Observed),
    /// As written.
    Applied(BTreeMap<ChainKey, ContentHash>),
}

impl Default for Known {
    fn default() -> Self {
        Known::Observed(Observed::nothing(&super::base::LAYOUT))
    }
}

impl Known {
    pub(super) fn get(&self, key: &ChainKey, family: Family) -> Option<ContentHash> {
        match self {
            Known::Applied(chains) => chains.get(key).copied(),
            Known::Observed(observed) => observed.get(key.table(), key.name(family).as_str()),
        }
    }

    /// The plan is in the kernel.
    pub fn learn(&mut self, plan: Plan) {
        match (plan.scope, &mut *self) {
            (Scope::Changes, Known::Applied(chains)) => {
                chains.extend(plan.visited);
                plan.gone.iter().for_each(|key| {
                    chains.remove(key);
                });
            }
            _ => *self = Known::Applied(plan.visited),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    Changes,
}

/// Which chains to write and which to remove. Its `Display` is the input to iptables-restore.
#[derive(Debug)]
pub struct Plan {
    pub(super) style: Style,
    pub(super) scope: Scope,
    /// In the order in which they are written: what refuses traffic comes before what lets it in.
    pub(super) tables: [TablePlan; 2],
    /// Every chain looked at, as it is after this plan.
    pub(super) visited: BTreeMap<ChainKey, ContentHash>,
    pub(super) gone: Vec<ChainKey>,
}

#[derive(Debug)]
pub(super) struct TablePlan {
    pub table: Table,
    pub writes: Vec<(ChainKey, Content)>,
    /// Lines that put the jumps from built-in chains right.
    pub jumps: Vec<String>,
    pub removals: Vec<String>,
}

impl TablePlan {
    fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.jumps.is_empty() && self.removals.is_empty()
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(TablePlan::is_empty)
    }

    /// How many chains it writes or removes, and jumps.
    pub fn operations(&self) -> usize {
        self.tables.iter().map(|table| table.writes.len() + table.jumps.len() + table.removals.len()).sum()
    }

    /// What a line of the text is, from 1.
    pub fn refused(&self, line: usize) -> Option<Refused> {
        let mut pick = PickLine { left: line.checked_sub(1)?, line: String::new() };
        // It ends the writing with an error when it has the line.
        let _ = write!(pick, "{self}");
        let culprit = self.owner(line).cloned();
        (!pick.line.is_empty()).then_some(Refused { line: pick.line, culprit })
    }

    /// What is to be written to choose endpoints: all that has matches which depend on the ServicePort.
    pub(super) fn choices(&self) -> Vec<&Content> {
        let contents = self.tables.iter().flat_map(|table| &table.writes).map(|(_, content)| content);
        contents.filter(|content| matches!(content, Content::Choice(..))).collect()
    }

    /// Whom a line of the text belongs to, from 1.
    fn owner(&self, line: usize) -> Option<&ServicePortName> {
        let mut at = 1;
        for table in self.tables.iter().filter(|table| !table.is_empty()) {
            at += 1 + table.writes.len() + table.removals.len();
            for (key, content) in &table.writes {
                let rules = text_of(key, content, &self.style).lines().count();
                if (at..at + rules).contains(&line) {
                    return content.owner(line - at);
                }
                at += rules;
            }
            at += table.jumps.len() + table.removals.len() + 1;
        }
        None
    }
}

impl Input for Plan {
    fn commits(&self) -> u32 {
        self.tables.iter().filter(|table| !table.is_empty()).count() as u32
    }
}

/// Chains come before all rules, as a rule can only lead to a chain that is there; removals come last.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in self.tables.iter().filter(|table| !table.is_empty()) {
            table.write(&self.style, f)?;
        }
        Ok(())
    }
}

impl TablePlan {
    fn write(&self, style: &Style, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        for (key, _) in &self.writes {
            writeln!(f, ":{} - [0:0]", key.name(style.family))?;
        }
        // With --noflush, naming a chain empties it: chains that go may lead to each other.
        for chain in &self.removals {
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for (key, content) in &self.writes {
            let name = key.name(style.family);
            content.render(style, &mut Rules::new(f, name.as_str()))?;
        }
        for line in &self.jumps {
            writeln!(f, "{line}")?;
        }
        for chain in &self.removals {
            writeln!(f, "-X {chain}")?;
        }
        f.write_str("COMMIT\n")
    }
}

fn text_of(key: &ChainKey, content: &Content, style: &Style) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = content.render(style, &mut Rules::new(&mut text, key.name(style.family).as_str()));
    text
}

/// The first line of a plan that was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub line: String,
    /// Whose it is, where it is one ServicePort's.
    pub culprit: Option<ServicePortName>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "; refused: {}", self.line)?;
        match &self.culprit {
            Some(name) => write!(f, " (for {name})"),
            None => Ok(()),
        }
    }
}

/// Keeps one line of what is written: the whole text may be large.
struct PickLine {
    left: usize,
    line: String,
}

impl Write for PickLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if self.left == 0 {
                self.line.push_str(part.trim_end_matches('\n'));
            }
            if part.ends_with('\n') {
                self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            }
        }
        Ok(())
    }
}
