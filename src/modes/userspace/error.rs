//! Why the userspace mode could not do its work.

use crate::kernel::ipset::SetError;
use crate::kernel::iptables;
use crate::kernel::local_delivery::DeliveryError;
use crate::kernel::nftables::events::SubscriptionError;
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{NftablesError, Table};
use crate::modes::{ModeError, RemovalError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading what is in the kernel: {0}")]
    Observe(#[source] Door),
    #[error("table {0} belongs to another process, which alone may change it")]
    Owned(Table),
    #[error("table {0} is somebody else's: its comment is \"{comment}\"", comment = .1.as_str())]
    Foreign(Table, Comment),
    #[error("writing to the kernel: {0}")]
    Apply(#[source] Door),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(transparent)]
    Watch(#[from] SubscriptionError),
    #[error("removing what is in the kernel: {0}")]
    Cleanup(#[source] Door),
    #[error("removing what an earlier proxy left: {0}")]
    Leftovers(#[source] RemovalError),
}

/// What a door of the kernel said.
#[derive(Debug, thiserror::Error)]
pub enum Door {
    #[error(transparent)]
    Nftables(#[from] NftablesError),
    #[error(transparent)]
    Rules(#[from] iptables::Error),
    #[error(transparent)]
    Sets(#[from] SetError),
}

pub(super) fn observing(source: impl Into<Door>) -> Error {
    Error::Observe(source.into())
}

pub(super) fn applying(source: impl Into<Door>) -> Error {
    Error::Apply(source.into())
}

pub(super) fn cleaning(source: impl Into<Door>) -> Error {
    Error::Cleanup(source.into())
}

/// No Service is to blame: the sets take any frontend that is not there already, and no two Services have the same.
impl ModeError for Error {
    fn is_transient(&self) -> bool {
        !matches!(self, Error::Leftovers(_))
    }
}
