//! What another mode or another proxy may have left in the kernel.

use std::error::Error;
use std::fmt;

use crate::kernel::iptables::Door;

use super::iptables::{remove_kube_proxy, remove_ours};

/// Why something could not be removed.
pub type RemovalError = Box<dyn Error + Send + Sync>;

/// Something that a node must not have beside the mode in use. It is removed once that mode's own rules are in place, so
/// that there is no moment without any.
pub trait Leftovers: fmt::Debug {
    /// Removes it. Done if there is none.
    fn remove(&mut self) -> Result<(), RemovalError>;
}

/// Removes all of these, going on after an error. Returns the first.
pub fn remove_all(leftovers: &mut [Box<dyn Leftovers>]) -> Result<(), RemovalError> {
    let results: Vec<_> = leftovers.iter_mut().map(|left| left.remove()).collect();
    results.into_iter().collect()
}

/// Rules in the flavour of iptables that is not in use: both are asked for each packet, and the first to translate it
/// wins, with endpoints of long ago (k8s#71305).
#[derive(Debug)]
pub struct OtherFlavour<D>(pub D);

impl<D: Door + fmt::Debug> Leftovers for OtherFlavour<D> {
    fn remove(&mut self) -> Result<(), RemovalError> {
        remove_ours(&mut self.0)?;
        Ok(remove_kube_proxy(&mut self.0)?)
    }
}
