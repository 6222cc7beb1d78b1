//! Whether somebody else writes to our table.

use std::fmt;
use std::io;

use super::names;
use crate::kernel::alarm::{Alarm, Ring};
use crate::kernel::nftables::events::{Event, Subscription, SubscriptionError};
use crate::kernel::nftables::{KernelNftables, NftablesError};
use crate::model::Family;

pub trait Watch: fmt::Debug {
    /// Whether anything was done to the table since the last time, or that cannot be told.
    fn disturbed(&mut self) -> Result<bool, SubscriptionError>;

    /// How many transactions of others were told of so far, whatever table they touched.
    fn told(&self) -> u32;

    /// Tells of nothing until [`resume`](Self::resume): a large load costs the kernel less if nobody listens.
    fn pause(&mut self) -> Result<(), SubscriptionError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), SubscriptionError> {
        Ok(())
    }

    /// Calls `ring` whenever there may be something to look at.
    fn alert(&mut self, ring: Ring) -> io::Result<()>;
}

struct Subscribed {
    subscription: Subscription,
    alarm: Option<Alarm>,
}

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscribed")
    }
}

impl Watch for Subscribed {
    fn disturbed(&mut self) -> Result<bool, SubscriptionError> {
        let mut disturbed = false;
        let mut note = |event| disturbed |= matches!(event, Event::Changed(..) | Event::Lost);
        self.subscription.read(&mut note)?;
        Ok(disturbed)
    }

    fn told(&self) -> u32 {
        self.subscription.transactions()
    }

    fn pause(&mut self) -> Result<(), SubscriptionError> {
        self.subscription.pause()
    }

    fn resume(&mut self) -> Result<(), SubscriptionError> {
        self.subscription.resume()
    }

    fn alert(&mut self, ring: Ring) -> io::Result<()> {
        self.alarm = Some(Alarm::set(&self.subscription, ring)?);
        Ok(())
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
    Ok((nftables, Box::new(Subscribed { subscription, alarm: None })))
}
