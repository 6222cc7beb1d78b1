//! From a destination to its chain in some tens of rules, however many Services there are.
//!
//! A tree of chains over the nibbles of address, protocol and port. A node with few keys is a leaf: one rule for each.
//! Any other node stands at the common prefix of its keys and has a rule for each next nibble, where a single key needs no
//! chain. A node is a function of the keys below it, so a changed key changes nothing but the nodes above it.

use std::sync::Arc;

use super::path::{Path, Prefix};
use crate::kernel::iptables::Table;
use crate::model::{Role, ServicePort, ServiceTable};

/// As many keys as a leaf may have. A packet meets half of them on average; each chain costs memory and time to load.
pub const LEAF: usize = 48;

/// What a tree is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    ClusterIp,
    External,
    NodePort,
    Guard,
    NodePortGuard,
    /// Addresses of endpoints that may be here.
    Hairpin,
}

impl Tree {
    pub const ALL: [Tree; 6] =
        [Tree::ClusterIp, Tree::External, Tree::NodePort, Tree::Guard, Tree::NodePortGuard, Tree::Hairpin];

    pub fn table(self) -> Table {
        match self {
            Tree::Guard | Tree::NodePortGuard => Table::Filter,
            _ => Table::Nat,
        }
    }

    pub fn letters(self) -> &'static str {
        match self {
            Tree::ClusterIp => "IP",
            Tree::External => "EX",
            Tree::NodePort => "NP",
            Tree::Guard => "GD",
            Tree::NodePortGuard => "NG",
            Tree::Hairpin => "HP",
        }
    }

    fn role(self) -> Option<Role> {
        match self {
            Tree::ClusterIp => Some(Role::ClusterIp),
            Tree::External => Some(Role::External),
            Tree::NodePort => Some(Role::NodePort),
            Tree::Guard => Some(Role::Guard),
            Tree::NodePortGuard => Some(Role::NodePortGuard),
            Tree::Hairpin => None,
        }
    }
}

impl From<Role> for Tree {
    fn from(role: Role) -> Tree {
        match role {
            Role::ClusterIp => Tree::ClusterIp,
            Role::External => Tree::External,
            Role::NodePort => Tree::NodePort,
            Role::Guard => Tree::Guard,
            Role::NodePortGuard => Tree::NodePortGuard,
        }
    }
}

/// One rule of a node.
#[derive(Clone, Debug)]
pub enum Slot {
    One(Key),
    Many(Prefix),
}

/// A key of a tree, and whose frontend it is. Addresses of endpoints are nobody's.
#[derive(Clone, Debug)]
pub struct Key {
    pub path: Path,
    pub port: Option<Arc<ServicePort>>,
}

/// The contents of one chain.
#[derive(Clone, Debug)]
pub struct Node {
    pub tree: Tree,
    pub prefix: Prefix,
    pub slots: Box<[Slot]>,
}

impl Node {
    pub fn is_leaf(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::One(_)))
    }
}

/// One tree of a table.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    table: &'a ServiceTable,
    tree: Tree,
}

impl<'a> Keys<'a> {
    pub fn new(table: &'a ServiceTable, tree: Tree) -> Self {
        Keys { table, tree }
    }

    /// Where the tree begins; `None` if it has no keys.
    pub fn root(&self) -> Option<Prefix> {
        let whole = match self.tree {
            Tree::NodePort | Tree::NodePortGuard => Prefix::nowhere(self.table.family()),
            _ => Prefix::EVERYTHING,
        };
        let (first, last) = self.ends(&whole)?;
        Some(self.common(first, last))
    }

    pub fn node(&self, prefix: Prefix) -> Node {
        let mut slots: Vec<_> = self.below(&prefix).take(LEAF + 1).map(Slot::One).collect();
        if slots.len() > LEAF {
            slots.clear();
            slots.extend((0..16).filter_map(|nibble| self.slot(&prefix, nibble)));
        }
        Node { tree: self.tree, prefix, slots: slots.into() }
    }

    fn slot(&self, parent: &Prefix, nibble: u8) -> Option<Slot> {
        let child = parent.child(nibble, self.table.family());
        let (first, last) = self.ends(&child)?;
        if first == last {
            return self.below(&child).next().map(Slot::One);
        }
        Some(Slot::Many(self.common(first, last)))
    }

    fn common(&self, first: Path, last: Path) -> Prefix {
        let family = self.table.family();
        Prefix::of(first, first.common_depth(&last, family), family)
    }

    fn ends(&self, prefix: &Prefix) -> Option<(Path, Path)> {
        let first = self.below(prefix).next()?;
        let last = self.below(prefix).next_back()?;
        Some((first.path, last.path))
    }

    fn below(&self, prefix: &Prefix) -> Box<dyn DoubleEndedIterator<Item = Key> + 'a> {
        let family = self.table.family();
        let (first, last) = (prefix.first(), prefix.last(family));
        let Some(role) = self.tree.role() else {
            let range = first.address(family)..=last.address(family);
            let keys = self.table.hairpin().range(range);
            return Box::new(keys.map(|(&at, _)| Key { path: Path::of_address(at), port: None }));
        };
        let bound = |path: Path| (role, path.frontend(family, self.tree));
        let keys = self.table.roles().range(bound(first)..=bound(last));
        Box::new(
            keys.map(|((_, key), port)| Key { path: Path::of_frontend(key), port: Some(Arc::clone(port)) }),
        )
    }
}
