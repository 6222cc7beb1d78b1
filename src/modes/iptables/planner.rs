//! Making a plan. One piece of code, whatever is known: with nothing known it makes everything, for one change it looks
//! at the chains that the change can concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::base::{self, BaseChain};
use super::dispatch::{Keys, Node, Slot, Tree};
use super::names::{ChainKey, ChainName, Part, PortId};
use super::path::{Path, Prefix};
use super::plan::{Known, Plan, Scope, TablePlan};
use super::render::{self, Content, ContentHash, Rules, Settings, Style, Target};
use crate::kernel::iptables::Table;
use crate::model::{Changes, Role, ServicePort, ServicePortName, ServiceTable};

/// Decides everything.
pub fn plan(settings: &Settings, known: &Known, want: &ServiceTable) -> Plan {
    let mut planner = Planner::new(settings, known, want);
    planner.base();
    planner.ports();
    planner.trees();
    planner.stale();
    planner.finish()
}

struct Planner<'a> {
    known: &'a Known,
    want: &'a ServiceTable,
    style: Style,
    scope: Scope,
    /// Keys of trees whose rule may differ.
    touched: BTreeSet<(Tree, Path)>,
    visited: BTreeMap<ChainKey, ContentHash>,
    leaves: Vec<(Tree, Prefix)>,
    writes: Vec<(ChainKey, Content)>,
    gone: Vec<ChainKey>,
    /// For hashing: one allocation for all chains.
    buffer: String,
}

impl<'a> Planner<'a> {
    fn new(settings: &Settings, known: &'a Known, want: &'a ServiceTable) -> Self {
        let scope = match (known, want.changes()) {
            (Known::Applied(_), Changes::Some(_)) => Scope::Changes,
            _ => Scope::Everything,
        };
        Planner {
            known,
            want,
            style: Style::new(settings, want),
            scope,
            touched: BTreeSet::new(),
            visited: BTreeMap::new(),
            leaves: Vec::new(),
            writes: Vec::new(),
            gone: Vec::new(),
            buffer: String::new(),
        }
    }

    /// Writes a chain unless the kernel has it like this.
    fn visit(&mut self, key: ChainKey, content: Content) {
        self.buffer.clear();
        let name = key.name(self.style.family);
        // Writing to a String cannot fail.
        let _ = content.render(&self.style, &mut Rules::new(&mut self.buffer, name.as_str()));
        let hash = ContentHash::of(&self.buffer);
        if self.known.get(&key, self.style.family) != Some(hash) {
            self.writes.push((key, content));
        }
        self.visited.insert(key, hash);
    }

    /// A dozen short chains: cheaper to look at than to know when they change.
    fn base(&mut self) {
        for chain in BaseChain::ALL {
            let rules = base::rules(chain, &self.style, self.want);
            self.visit(ChainKey::Base(chain), Content::Base(rules));
        }
    }

    fn ports(&mut self) {
        let want = self.want;
        match (self.scope, want.changes()) {
            (Scope::Changes, Changes::Some(changes)) => {
                for (name, change) in changes {
                    let now = want.get(name);
                    self.touch(change.before.as_ref(), now);
                    self.port(name, now);
                }
            }
            _ => want.ports().for_each(|port| self.port(&port.name, Some(port))),
        }
    }

    fn port(&mut self, name: &ServicePortName, now: Option<&Arc<ServicePort>>) {
        let id = PortId::of(name);
        for (part, content) in now.map(render::port_chains).unwrap_or_default() {
            self.visit(ChainKey::Port(id, part), content);
        }
        if let (Scope::Changes, Known::Applied(chains)) = (self.scope, self.known) {
            let theirs = chains.range(ChainKey::Port(id, Part::External)..).map(|(key, _)| *key);
            let theirs = theirs.take_while(|key| matches!(key, ChainKey::Port(of, _) if *of == id));
            let visited = &self.visited;
            self.gone.extend(theirs.filter(|key| !visited.contains_key(key)));
        }
    }

    /// Notes the keys of trees that a change concerns: those of frontends whose rule may differ.
    fn touch(&mut self, before: Option<&Arc<ServicePort>>, now: Option<&Arc<ServicePort>>) {
        let (old, new) = (tree_keys(before), tree_keys(now));
        self.touched.extend(old.symmetric_difference(&new).map(|(tree, path, _)| (*tree, *path)));
        let addresses = |port: Option<&Arc<ServicePort>>| -> BTreeSet<_> {
            port.map(|port| port.hairpin_addresses().collect()).unwrap_or_default()
        };
        let (old, new) = (addresses(before), addresses(now));
        let changed = old.symmetric_difference(&new);
        self.touched.extend(changed.map(|&address| (Tree::Hairpin, Path::of_address(address))));
    }

    fn trees(&mut self) {
        for tree in Tree::ALL {
            let keys = Keys::new(self.want, tree);
            if let Some(root) = keys.root()
                && self.concerns(tree, &root)
            {
                self.node(&keys, tree, root);
            }
        }
    }

    fn node(&mut self, keys: &Keys<'_>, tree: Tree, prefix: Prefix) {
        let node = keys.node(prefix);
        if node.is_leaf() {
            self.leaves.push((tree, prefix));
        }
        let children = children(&node);
        self.visit(ChainKey::Node(tree, prefix), Content::Node(node));
        for child in children {
            if self.concerns(tree, &child) {
                self.node(keys, tree, child);
            }
        }
    }

    /// Whether a node may differ from what is in the kernel. One that has no changed key below it can only be missing.
    fn concerns(&self, tree: Tree, prefix: &Prefix) -> bool {
        let family = self.style.family;
        self.scope == Scope::Everything
            || self.known.get(&ChainKey::Node(tree, *prefix), family).is_none()
            || self.touched.range((tree, prefix.first())..=(tree, prefix.last(family))).next().is_some()
    }

    /// Nodes that the tree does not have any more stood above a changed key, or below what is a leaf now.
    fn stale(&mut self) {
        let Known::Applied(chains) = self.known else { return };
        if self.scope == Scope::Everything {
            let visited = &self.visited;
            self.gone.extend(chains.keys().filter(|key| !visited.contains_key(key)));
            return;
        }
        let family = self.style.family;
        let above = self.touched.iter().flat_map(|&(tree, path)| {
            Prefix::all_of(path, family).map(move |prefix| ChainKey::Node(tree, prefix))
        });
        let above = above.filter(|key| chains.contains_key(key));
        let below = self.leaves.iter().flat_map(|&(tree, leaf)| {
            let range = ChainKey::Node(tree, leaf)..=ChainKey::Node(tree, leaf.last_below(family));
            chains.range(range).map(|(key, _)| *key)
        });
        let gone: BTreeSet<_> = above.chain(below).filter(|key| !self.visited.contains_key(key)).collect();
        self.gone.extend(gone);
    }

    fn finish(self) -> Plan {
        let family = self.style.family;
        let mut tables = [Table::Filter, Table::Nat].map(|table| TablePlan {
            table,
            writes: Vec::new(),
            jumps: self.jumps(table),
            removals: self.removals(table),
        });
        for (key, content) in self.writes {
            let at = tables.iter().position(|plan| plan.table == key.table());
            // Every table is in the array.
            if let Some(at) = at {
                tables[at].writes.push((key, content));
            }
        }
        for plan in &mut tables {
            plan.writes.sort_by_cached_key(|(key, _)| key.name(family));
        }
        Plan { style: self.style, scope: self.scope, tables, visited: self.visited, gone: self.gone }
    }

    fn jumps(&self, table: Table) -> Vec<String> {
        match self.known {
            Known::Applied(_) => Vec::new(),
            Known::Observed(observed) => observed.repair(table),
        }
    }

    fn removals(&self, table: Table) -> Vec<String> {
        let family = self.style.family;
        match self.known {
            Known::Applied(_) => {
                let here = self.gone.iter().filter(|key| key.table() == table);
                here.map(|key| key.name(family).as_str().to_owned()).collect()
            }
            Known::Observed(observed) => {
                let visited = self.visited.keys().filter(|key| key.table() == table);
                let wanted: Vec<_> = visited.map(|key| key.name(family)).collect();
                observed.others(table, &wanted.iter().map(ChainName::as_str).collect())
            }
        }
    }
}

/// What the rules for a ServicePort's frontends depend on.
fn tree_keys(port: Option<&Arc<ServicePort>>) -> BTreeSet<(Tree, Path, Target)> {
    let Some(port) = port else { return BTreeSet::new() };
    let of_frontend = |frontend| {
        let path = Path::of_frontend(&port.key(frontend));
        Role::of(port, frontend)
            .map(Tree::from)
            .map(move |tree| (tree, path, Target::of(tree, port, frontend)))
    };
    port.frontends.iter().flat_map(of_frontend).collect()
}

fn children(node: &Node) -> Vec<Prefix> {
    node.slots
        .iter()
        .filter_map(|slot| match slot {
            Slot::Many(child) => Some(*child),
            Slot::One(_) => None,
        })
        .collect()
}
