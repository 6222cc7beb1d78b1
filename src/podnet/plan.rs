//! What becomes of routes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use crate::kernel::routes::{Route, RouteChange};

/// Changes in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub changes: Vec<RouteChange>,
}

/// Our routes in the kernel. There is more than one to a network only if somebody else made it.
pub type Held = BTreeMap<IpNet, BTreeSet<Route>>;
pub type Wanted = BTreeMap<IpNet, Route>;

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What leads from what is held to what is wanted, in these networks.
    pub fn new(networks: &BTreeSet<IpNet>, wanted: &Wanted, held: &Held) -> Self {
        let none = BTreeSet::new();
        let mut plan = Plan::default();
        for network in networks {
            plan.settle(wanted.get(network), held.get(network).unwrap_or(&none));
        }
        plan
    }

    fn settle(&mut self, wanted: Option<&Route>, held: &BTreeSet<Route>) {
        let Some(wanted) = wanted else { return self.remove(held.iter()) };
        if held.contains(wanted) {
            return self.remove(held.iter().filter(|route| *route != wanted));
        }
        self.remove(held.iter().skip(1));
        self.changes.push(match held.is_empty() {
            true => RouteChange::Add(*wanted),
            false => RouteChange::Replace(*wanted),
        });
    }

    fn remove<'a>(&mut self, routes: impl Iterator<Item = &'a Route>) {
        self.changes.extend(routes.map(|route| RouteChange::Remove(*route)));
    }
}

/// One command of iproute2 for each change.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}
