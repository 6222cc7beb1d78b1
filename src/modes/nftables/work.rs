//! What a planner has to look at, part by part: the first sync of a large table in one transaction would hold the kernel's
//! lock for long (k8s#135639) and all of it in memory at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::affinity::Purge;
use super::held::Held;
use crate::model::{Frontend, FrontendKey, ServicePort, ServiceTable};

/// Elements after which a part ends. What belongs to one frontend stays together.
pub const PART: usize = 4096;

/// How much a planner looks at.
#[derive(Clone, Debug)]
pub enum Scope {
    Everything,
    Changes,
    /// What the last plan left.
    Rest(Rest),
}

/// The places that may differ.
#[derive(Debug, Default)]
pub struct Work {
    pub places: Vec<FrontendKey>,
    /// Of frontends, and of endpoints that may reach themselves.
    pub addresses: Vec<IpAddr>,
}

/// What is left of some work.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    work: Arc<Work>,
    /// So many are done.
    places: usize,
    addresses: usize,
    /// Clients to forget when all is done.
    pub purge: Purge,
}

impl Work {
    pub fn of_ports<'a>(ports: impl IntoIterator<Item = &'a Arc<ServicePort>>) -> Self {
        let mut touched = Touched::default();
        ports.into_iter().for_each(|port| touched.add(port));
        touched.into()
    }

    pub fn everything(want: &ServiceTable, held: &Held) -> Self {
        let mut touched = Touched::default();
        want.ports().for_each(|port| touched.add(port));
        touched.addresses.extend(held.members.addresses());
        touched.places.extend(held.members.places());
        touched.places.extend(held.slots.places());
        touched.into()
    }
}

impl Rest {
    pub fn all_of(work: Work) -> Self {
        Rest { work: Arc::new(work), ..Rest::default() }
    }

    pub fn next_place(&mut self) -> Option<FrontendKey> {
        let next = self.work.places.get(self.places).copied();
        self.places += usize::from(next.is_some());
        next
    }

    pub fn next_address(&mut self) -> Option<IpAddr> {
        let next = self.work.addresses.get(self.addresses).copied();
        self.addresses += usize::from(next.is_some());
        next
    }

    pub fn is_done(&self) -> bool {
        (self.places, self.addresses) == (self.work.places.len(), self.work.addresses.len())
    }
}

#[derive(Default)]
struct Touched {
    places: BTreeSet<FrontendKey>,
    addresses: BTreeSet<IpAddr>,
}

impl Touched {
    fn add(&mut self, port: &Arc<ServicePort>) {
        self.places.extend(port.frontends.iter().map(|frontend| port.key(frontend)));
        self.addresses.extend(port.frontends.iter().filter_map(Frontend::address));
        self.addresses.extend(port.hairpin_addresses());
    }
}

impl From<Touched> for Work {
    fn from(touched: Touched) -> Self {
        Work {
            places: touched.places.into_iter().collect(),
            addresses: touched.addresses.into_iter().collect(),
        }
    }
}
