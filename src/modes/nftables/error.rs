//! Why the nftables mode could not do its work.

use std::io;

use crate::kernel::nftables::events::SubscriptionError;
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{NftablesError, Table};
use crate::model::ServicePortName;
use crate::modes::{ModeError, RemovalError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading what is in the kernel: {0}")]
    Observe(#[source] NftablesError),
    #[error("table {0} belongs to another process, which alone may change it")]
    Owned(Table),
    #[error("table {0} is somebody else's: its comment is \"{comment}\"", comment = .1.as_str())]
    Foreign(Table, Comment),
    #[error("writing to the kernel: {source}{}", of(culprit.as_deref()))]
    Apply { culprit: Option<Box<ServicePortName>>, source: NftablesError },
    #[error("reading what was counted: {0}")]
    Traffic(#[source] NftablesError),
    #[error("forgetting clients of endpoints that left: {0}")]
    Affinity(#[source] NftablesError),
    #[error(transparent)]
    Watch(#[from] SubscriptionError),
    #[error("removing what is in the kernel: {0}")]
    Cleanup(#[source] NftablesError),
    #[error("removing what an earlier proxy left: {0}")]
    Leftovers(#[source] RemovalError),
}

fn of(culprit: Option<&ServicePortName>) -> String {
    culprit.map(|name| format!(", for {name}")).unwrap_or_default()
}

pub(super) fn observing(source: NftablesError) -> Error {
    Error::Observe(source)
}

/// Whether no other transaction would have fared better: the kernel is busy, or this process may not.
fn is_about_the_node(error: &NftablesError) -> bool {
    const NODE: [i32; 6] = [libc::EPERM, libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::EBUSY];
    let is_node = |errno: &io::Error| errno.raw_os_error().is_some_and(|errno| NODE.contains(&errno));
    match error {
        NftablesError::Refused(_) => error.refusals().iter().all(|refusal| is_node(&refusal.errno)),
        _ => true,
    }
}

impl ModeError for Error {
    fn culprit(&self) -> Option<&ServicePortName> {
        match self {
            Error::Apply { culprit, source } if !is_about_the_node(source) => culprit.as_deref(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Error::Apply { source, .. } | Error::Cleanup(source) => is_about_the_node(source),
            Error::Leftovers(_) => false,
            // Nothing of a plan is in the others.
            _ => true,
        }
    }
}
