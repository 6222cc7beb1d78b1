//! From objects to a [`ServiceTable`]: the only place that decides what a Service means.
//!
//! | module | decides |
//! |-|-|
//! | `frontends` | where a Service may be reached |
//! | `clashes` | which of several Services has an address and port |
//! | `endpoints` | what its endpoints are |
//! | `policy` | which of them each traffic policy may use, and what becomes of traffic that has none |
//!
//! The result depends on the objects alone, never on the order in which they came.

mod clashes;
mod endpoints;
mod family;
mod frontends;
mod policy;
mod problems;
mod service;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Family, ServiceTable};
use crate::sync::objects::Reason;
use crate::sync::store::{Changed, Store};

use clashes::Waiting;
use problems::{Problems, Scope};
use settings::NodeFacts;

pub use problems::Problem;
pub use settings::Settings;

/// Turns what changed in the store into what changes in the tables.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    /// Sorted.
    interface_addresses: Vec<IpAddr>,
    /// What the tables were last compiled for; `None` before the first time.
    facts: Option<NodeFacts>,
    waiting: BTreeMap<Family, Waiting>,
    problems: Problems,
}

/// What every step of compiling needs and none changes.
struct Context<'a> {
    settings: &'a Settings,
    facts: &'a NodeFacts,
    store: &'a Store,
}

impl Compiler {
    pub fn new(settings: Settings) -> Self {
        Compiler {
            settings,
            interface_addresses: Vec::new(),
            facts: None,
            waiting: BTreeMap::new(),
            problems: Problems::default(),
        }
    }

    /// Sets the addresses of the node's interfaces, which take effect with the next [`recompile`](Self::recompile).
    ///
    /// Loopback and link-local ones are left out: NodePorts are not there, and every pod that starts brings a link-local
    /// address of the node with it, which would then concern all Services.
    pub fn set_addresses(&mut self, mut addresses: Vec<IpAddr>) {
        addresses.retain(|address| endpoints::forbidden_range(*address).is_none());
        addresses.sort();
        addresses.dedup();
        self.interface_addresses = addresses;
    }

    /// Compiles the Services that changed, those that this gives or takes a contested frontend, and all of them if the
    /// node became another in what matters to them. Returns the problems that were not there before.
    pub fn recompile(
        &mut self,
        store: &Store,
        changed: &Changed,
        tables: &mut [ServiceTable],
    ) -> Vec<Problem> {
        let facts = NodeFacts::new(&self.settings, store.node());
        let mut services = changed.services.clone();
        if self.facts.as_ref() != Some(&facts) {
            services.extend(store.service_names().cloned());
        }
        let policy = facts.policy(&self.settings, &self.interface_addresses, store.service_networks());
        let mut appeared = BTreeSet::new();
        self.problems.replace_unreadable(store, &mut appeared);
        let context = Context { settings: &self.settings, facts: &facts, store };
        for name in &services {
            let found =
                store.service(name).map(|service| service::problems(service, &context)).unwrap_or_default();
            self.problems.replace(name, Scope::Service, found, &mut appeared);
        }
        for table in tables {
            table.set_node(policy.clone());
            let waiting = self.waiting.entry(table.family()).or_default();
            let mut pass = family::Pass::new(&context, table, waiting, services.clone());
            let mut new = BTreeSet::new();
            for (name, found) in pass.run() {
                self.problems.replace(&name, Scope::Family(table.family()), found, &mut new);
            }
            appeared.extend(new.into_iter().map(|problem| problem.naming_owner(table)));
            if self.facts.is_none() {
                table.pack();
            }
        }
        self.facts = Some(facts);
        appeared.into_iter().collect()
    }

    /// Every problem that there is now.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// How many things are wrong for each reason.
    pub fn problem_counts(&self) -> BTreeMap<Reason, u64> {
        let mut counts = BTreeMap::new();
        for problem in self.problems.iter() {
            *counts.entry(problem.reason).or_default() += u64::from(problem.count);
        }
        counts
    }
}

#[cfg(test)]
mod tests;
