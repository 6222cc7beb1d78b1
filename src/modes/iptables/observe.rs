//! What is in the kernel, from iptables-save: our chains as hashes, and the jumps to them.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::base::Jump;
use super::cleanup::is_kube_proxys;
use super::names::OURS;
use super::render::ContentHash;
use crate::kernel::iptables::{Door, Error, Table};

/// The fixed part of a mode's chains.
#[derive(Debug)]
pub struct Layout {
    pub tables: &'static [Table],
    /// Chains that are ours though their names do not begin like ours.
    pub guests: &'static [(Table, &'static str)],
    pub jumps: &'static [Jump],
}

#[derive(Debug)]
pub struct Observed {
    layout: &'static Layout,
    tables: HashMap<Table, ObservedTable>,
    /// Whether kube-proxy left chains.
    pub kube_proxy: bool,
}

#[derive(Debug, Default)]
struct ObservedTable {
    chains: HashMap<Box<str>, ContentHash>,
    /// Rules of built-in chains that lead to ours, in their order.
    jumps: Vec<(Box<str>, Box<str>)>,
    /// Chains of ours that others' chains lead to: the kernel would not let them go.
    held: HashSet<Box<str>>,
}

pub fn observe(door: &mut impl Door, layout: &'static Layout) -> Result<Observed, Error> {
    let mut all = Observed::nothing(layout);
    for &table in layout.tables {
        let mut observed = ObservedTable::default();
        door.save(table, &mut |line| {
            all.kube_proxy |= declared(line).is_some_and(is_kube_proxys);
            observed.add(layout, table, line);
        })?;
        all.tables.insert(table, observed);
    }
    Ok(all)
}

impl ObservedTable {
    fn add(&mut self, layout: &Layout, table: Table, line: &str) {
        if let Some(name) = declared(line) {
            if layout.is_ours(table, name) {
                self.chains.entry(name.into()).or_default();
            }
            return;
        }
        let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) else {
            return;
        };
        if let Some(hash) = self.chains.get_mut(chain) {
            hash.add(line);
        } else if let Some(target) = leads_to(rule).filter(|target| target.starts_with(OURS)) {
            if is_built_in(chain) {
                self.jumps.push((chain.into(), rule.into()));
            } else {
                self.held.insert(target.into());
            }
        }
    }
}

impl Observed {
    /// A kernel without any rules.
    pub fn nothing(layout: &'static Layout) -> Self {
        Observed { layout, tables: HashMap::new(), kube_proxy: false }
    }

    pub fn get(&self, table: Table, chain: &str) -> Option<ContentHash> {
        self.tables.get(&table)?.chains.get(chain).copied()
    }

    /// Chains of ours that are not wanted, and can be removed.
    pub fn others(&self, table: Table, wanted: &HashSet<&str>) -> Vec<String> {
        let Some(observed) = self.tables.get(&table) else { return Vec::new() };
        let removable =
            |name: &&str| name.starts_with(OURS) && !wanted.contains(name) && !observed.held.contains(*name);
        let mut others: Vec<_> =
            observed.chains.keys().map(|name| &**name).filter(removable).map(str::to_owned).collect();
        others.sort_unstable();
        others
    }

    /// Lines that put the jumps of a table right: each once, in their order. New ones go to the head of the chain; that
    /// somebody else goes there later is no fault, or two programs of that mind would never be at rest.
    pub fn repair(&self, table: Table) -> Vec<String> {
        let found: &[_] = self.tables.get(&table).map_or(&[], |observed| &observed.jumps);
        let wanted = || self.layout.jumps.iter().filter(|jump| jump.table == table);
        let chains: BTreeSet<&str> =
            found.iter().map(|(chain, _)| &**chain).chain(wanted().map(|jump| jump.chain)).collect();
        let mut lines = Vec::new();
        for chain in chains {
            let found = found.iter().filter(|(of, _)| &**of == chain).map(|(_, rule)| &**rule);
            let wanted = wanted().filter(|jump| jump.chain == chain).map(|jump| jump.rule);
            if !found.clone().eq(wanted.clone()) {
                lines.extend(found.map(|rule| format!("-D {chain} {rule}")));
                let wanted: Vec<_> = wanted.collect();
                lines.extend(wanted.iter().rev().map(|rule| format!("-I {chain} {rule}")));
            }
        }
        lines
    }
}

/// The chain that a line declares.
fn declared(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split(' ').next()
}

impl Layout {
    fn is_ours(&self, table: Table, name: &str) -> bool {
        name.starts_with(OURS) || self.guests.contains(&(table, name))
    }
}

pub fn is_built_in(chain: &str) -> bool {
    matches!(chain, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
}

/// The chain that a rule as iptables-save prints it leads to. Targets with options are no chains.
pub fn leads_to(rule: &str) -> Option<&str> {
    let mut words = rule.rsplit(' ');
    let target = words.next()?;
    matches!(words.next(), Some("-j" | "-g")).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modes::iptables::base::{BaseChain, JUMPS, LAYOUT};

    #[test]
    fn a_comment_leads_nowhere() {
        assert_eq!(leads_to("-m comment --comment \"x -j FERRO-A\" -j ACCEPT"), Some("ACCEPT"));
        // It ends with a quotation mark, so no chain is called so.
        assert_eq!(leads_to("-m comment --comment \"x -j FERRO-A\""), Some("FERRO-A\""));
        assert_eq!(leads_to("-g FERRO-A"), Some("FERRO-A"));
        assert_eq!(leads_to("-j DNAT --to-destination 10.0.0.1:80"), None);
    }

    fn nat(lines: &[&str]) -> Observed {
        let mut observed = ObservedTable::default();
        lines.iter().for_each(|line| observed.add(&LAYOUT, Table::Nat, line));
        Observed { tables: HashMap::from([(Table::Nat, observed)]), ..Observed::nothing(&LAYOUT) }
    }

    #[test]
    fn a_missing_jump_is_inserted_and_a_doubled_one_made_single() {
        let jump = |chain: &str, target: &str| {
            let jump = JUMPS.iter().find(|jump| jump.chain == chain && jump.rule.ends_with(target));
            format!("{chain} {}", jump.unwrap().rule)
        };
        let services = jump("PREROUTING", "SERVICES");
        let lines = [
            &format!("-A {services}"),
            &format!("-A {services}"),
            &format!("-A {}", jump("OUTPUT", "SERVICES")),
        ];
        let repaired = nat(&lines.map(String::as_str)).repair(Table::Nat);
        assert_eq!(
            repaired,
            [
                format!("-I {}", jump("POSTROUTING", "POSTROUTING")),
                format!("-D {services}"),
                format!("-D {services}"),
                format!("-I {services}"),
            ]
        );
    }

    #[test]
    fn chains_that_others_lead_to_are_left() {
        let observed = nat(&[
            ":FERRO-OLD - [0:0]",
            ":FERRO-HELD - [0:0]",
            ":KUBE-MARK-MASQ - [0:0]",
            ":CNI-A - [0:0]",
            "-A CNI-A -j FERRO-HELD",
        ]);
        assert_eq!(observed.others(Table::Nat, &HashSet::new()), ["FERRO-OLD"]);
    }

    #[test]
    fn jumps_are_written_to_chains_of_their_table() {
        for jump in JUMPS {
            let target = leads_to(jump.rule).unwrap();
            assert!(BaseChain::ALL.iter().any(|c| c.table() == jump.table && c.name() == target));
        }
    }
}
