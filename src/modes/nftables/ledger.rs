//! Whether every transaction since a time is known: this process's own, and those of others that the kernel told of.
//! Then nothing can have changed unnoticed, and there is no need to read half a million elements to see that.

use crate::kernel::nftables::Generation;

#[derive(Debug, Default)]
pub struct Ledger {
    since: Option<Generation>,
    own: u32,
    /// Of others, before.
    told: u32,
}

impl Ledger {
    /// From this generation on, of which others had told so many.
    pub fn open(since: Generation, told: u32) -> Self {
        Ledger { since: Some(since), own: 0, told }
    }

    pub fn note_own(&mut self, transactions: u32) {
        self.own += transactions;
    }

    /// Generations skip 0: once in 4 billion transactions one seems to be missing.
    pub fn accounts_for(&self, now: Generation, told: u32) -> bool {
        self.since.is_some_and(|since| now.since(since) <= self.own + told.wrapping_sub(self.told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_told_of_is_missing() {
        assert!(!Ledger::default().accounts_for(Generation(1), 0), "nothing was read yet");
        let mut ledger = Ledger::open(Generation(7), 3);
        assert!(ledger.accounts_for(Generation(7), 3));
        assert!(!ledger.accounts_for(Generation(8), 3));
        assert!(ledger.accounts_for(Generation(8), 4));
        ledger.note_own(2);
        assert!(ledger.accounts_for(Generation(10), 4));
        assert!(!ledger.accounts_for(Generation(11), 4));
    }
}
