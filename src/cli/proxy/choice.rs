//! Which mode suits this machine, where nobody asked for one.

use crate::config::ModeName;
use crate::model::Family;
use crate::modes::nftables;

use super::planes::require;

/// A mode, and why.
pub struct Choice {
    pub mode: ModeName,
    pub reason: String,
}

/// nftables where the kernel has all that it takes, else iptables.
pub fn of_this_machine() -> Choice {
    let found = nftables::open(Family::V4).map_err(anyhow::Error::from);
    match found.and_then(|(mut door, _)| require(&mut door, Family::V4)) {
        Ok(()) => Choice {
            mode: ModeName::Nftables,
            reason: "the kernel has all of nf_tables that the nftables mode needs".to_owned(),
        },
        Err(error) => Choice { mode: ModeName::Iptables, reason: format!("{error:#}") },
    }
}
