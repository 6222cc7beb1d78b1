//! iptables, with knowledge of whether somebody else wrote to our chains meanwhile.

use crate::kernel::iptables::{Door, Error, Input, Stamp};

use super::Drift;

/// A door that remembers the kernel's change stamps.
#[derive(Debug)]
pub struct Watched<D> {
    pub(super) door: D,
    is_ours: fn(&str) -> bool,
    /// The kernel's when our chains were last as known; `None` when somebody else may have come in between.
    stamp: Option<Stamp>,
    /// Of our chains at that time, once somebody asked for drift.
    fingerprint: Option<u64>,
}

impl<D: Door> Watched<D> {
    /// `is_ours` says of a chain's name whether this mode answers for it.
    pub fn new(door: D, is_ours: fn(&str) -> bool) -> Self {
        Watched { door, is_ours, stamp: None, fingerprint: None }
    }

    /// The door itself. What is written through it counts as somebody else's.
    pub fn door(&mut self) -> &mut D {
        &mut self.door
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        self.stamp = None;
        self.fingerprint = None;
    }

    /// Reads rules that count as known from now on.
    pub fn read<T>(&mut self, read: impl FnOnce(&mut D) -> Result<T, Error>) -> Result<T, Error> {
        self.forget();
        // First the stamp: what changes while we read then counts as drift.
        let stamp = self.door.stamp()?;
        let read = read(&mut self.door)?;
        self.stamp = Some(stamp);
        Ok(read)
    }

    /// Writes what is known of from now on. After an error nothing is known.
    pub fn restore(&mut self, input: &dyn Input) -> Result<(), Error> {
        let restored = self.try_restore(input);
        if restored.is_err() {
            self.forget();
        }
        restored
    }

    fn try_restore(&mut self, input: &dyn Input) -> Result<(), Error> {
        let before = self.door.stamp()?;
        let undisturbed = self.is_as_known(&before)?;
        self.door.restore(input)?;
        let after = self.door.stamp()?;
        let alone = undisturbed && (!after.is_others_alone() || after == before);
        self.stamp = alone.then_some(after);
        self.fingerprint = None;
        Ok(())
    }

    /// Whether nothing of ours changed though the stamp may have: in nft it counts transactions on anything.
    fn is_as_known(&mut self, now: &Stamp) -> Result<bool, Error> {
        if self.stamp.as_ref() == Some(now) {
            return Ok(true);
        }
        if self.stamp.is_none() || self.fingerprint.is_none() {
            return Ok(false);
        }
        let same = self.door.fingerprint(&self.is_ours)? == self.fingerprint;
        if same {
            self.stamp = Some(now.clone());
        }
        Ok(same)
    }

    pub fn drift(&mut self) -> Result<Drift, Error> {
        let now = self.door.stamp()?;
        if !self.is_as_known(&now)? {
            return Ok(Drift::Suspected);
        }
        if self.fingerprint.is_none() {
            let fingerprint = self.door.fingerprint(&self.is_ours)?;
            // Only if it is of the time of the stamp.
            let still = self.door.stamp()? == now;
            self.fingerprint = fingerprint.filter(|_| still);
        }
        Ok(Drift::None)
    }
}
