//! Which client had which endpoint: packets write that, and it outlives every sync and restart. Only what leads to an
//! endpoint that left has to go.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::key;
use super::names::{self, Keying, Set, SetId};
use super::slots::Target;
use crate::kernel::nftables::{Element, Nftables, NftablesError, Refusal, Transaction};
use crate::model::{Destination, Family, FrontendKey};

/// Clients whose time runs out between the look at them and their removal make the kernel refuse it.
const ATTEMPTS: usize = 5;

/// Whom to forget.
#[derive(Clone, Debug, Default)]
pub struct Purge {
    /// The endpoints that clients of a frontend may still be remembered for.
    pub allowed: BTreeMap<FrontendKey, Vec<Target>>,
    pub others: Others,
}

/// Clients of other frontends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    #[default]
    Remembered,
    Forgotten,
}

impl Purge {
    fn is_needed(&self) -> bool {
        self.others == Others::Forgotten || !self.allowed.is_empty()
    }

    /// Whoever used a NodePort used some address of the node.
    fn forgets(&self, place: FrontendKey, target: &Target) -> bool {
        let on_node = FrontendKey { destination: Destination::Node, ..place };
        match self.allowed.get(&place).or_else(|| self.allowed.get(&on_node)) {
            Some(allowed) => !allowed.contains(target),
            None => self.others == Others::Forgotten,
        }
    }
}

impl fmt::Display for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.others == Others::Forgotten {
            return Ok(());
        }
        let line = |place| writeln!(f, "# then forget the clients of {place} whose endpoint left");
        self.allowed.keys().try_for_each(line)
    }
}

/// Forgets them, and tells how many transactions that took.
pub fn purge(nftables: &mut dyn Nftables, family: Family, purge: &Purge) -> Result<u32, NftablesError> {
    if !purge.is_needed() {
        return Ok(0);
    }
    let mut outcome = Ok(0);
    for _ in 0..ATTEMPTS {
        let removal = removal(nftables, family, purge)?;
        outcome = nftables.commit(&removal).map(|_| u32::from(!removal.is_empty()));
        match &outcome {
            Err(error) if error.refusals().iter().any(is_gone) => {}
            _ => break,
        }
    }
    outcome
}

fn is_gone(refusal: &Refusal) -> bool {
    refusal.errno.kind() == io::ErrorKind::NotFound
}

fn removal(nftables: &mut dyn Nftables, family: Family, purge: &Purge) -> Result<Transaction, NftablesError> {
    let table = names::table(family);
    let mut transaction = Transaction::new(&table);
    let set = SetId::Fixed(Set::Affinity, Keying::Address).declaration(family);
    let mut note = |element: &Element| {
        let place = key::of_client(family, element);
        let target = key::target(family, element);
        if let (Some(place), Some(target)) = (place, target)
            && purge.forgets(place, &target)
        {
            transaction.delete_element(&set.name, element);
        }
    };
    nftables.elements(&table, &set, &mut note)?;
    Ok(transaction)
}
