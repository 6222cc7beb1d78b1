//! Whether somebody else writes to our table.

use std::fmt;

use super::names;
use crate::kernel::nftables::events::{Event, Subscription, SubscriptionError};
use crate::kernel::nftables::{KernelNftables, NftablesError};
use crate::model::Family;

pub trait Watch: fmt::Debug {
    /// Whether anything was done to the table since the last time, or that cannot be told.
    fn disturbed(&mut self) -> Result<bool, SubscriptionError>;
}

struct Subscribed(Subscription);

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscribed")
    }
}

impl Watch for Subscribed {
    fn disturbed(&mut self) -> Result<bool, SubscriptionError> {
        let mut disturbed = false;
        self.0.read(&mut |event| disturbed |= matches!(event, Event::Changed(..) | Event::Lost))?;
        Ok(disturbed)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Nftables(#[from] NftablesError),
    #[error(transparent)]
    Watch(#[from] SubscriptionError),
}

/// The kernel's nf_tables, and who else writes to our table there.
pub fn open(family: Family) -> Result<(KernelNftables, Box<dyn Watch>), OpenError> {
    let nftables = KernelNftables::open()?;
    let subscription = Subscription::open(&names::table(family), nftables.port())?;
    Ok((nftables, Box::new(Subscribed(subscription))))
}
