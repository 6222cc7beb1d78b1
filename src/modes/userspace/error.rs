//! Why the userspace mode could not do its work.

use crate::kernel::local_delivery::DeliveryError;
use crate::kernel::nftables::events::SubscriptionError;
use crate::kernel::nftables::userdata::Comment;
use crate::kernel::nftables::{NftablesError, Table};
use crate::modes::{ModeError, RemovalError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading what is in the kernel: {0}")]
    Observe(#[source] NftablesError),
    #[error("table {0} belongs to another process, which alone may change it")]
    Owned(Table),
    #[error("table {0} is somebody else's: its comment is \"{comment}\"", comment = .1.as_str())]
    Foreign(Table, Comment),
    #[error("writing to the kernel: {0}")]
    Apply(#[source] NftablesError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(transparent)]
    Watch(#[from] SubscriptionError),
    #[error("removing what is in the kernel: {0}")]
    Cleanup(#[source] NftablesError),
    #[error("removing what an earlier proxy left: {0}")]
    Leftovers(#[source] RemovalError),
}

pub(super) fn observing(source: NftablesError) -> Error {
    Error::Observe(source)
}

/// No Service is to blame: the sets take any frontend that is not there already, and no two Services have the same.
impl ModeError for Error {
    fn is_transient(&self) -> bool {
        !matches!(self, Error::Leftovers(_))
    }
}
