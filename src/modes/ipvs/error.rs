//! Why the IPVS mode could not do its work.

use crate::kernel::conntrack::ConntrackError;
use crate::kernel::ipset::{Refusal, SetError};
use crate::kernel::iptables;
use crate::kernel::ipvs::IpvsError;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::virtual_addresses::{AddressRefusal, VirtualAddressError};
use crate::model::ServicePortName;
use crate::modes::{ModeError, RemovalError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading what is in the kernel: {}", with_causes(.0))]
    Observe(#[source] Door),
    #[error("writing to the kernel: {}{}", with_causes(source), of(culprit.as_deref()))]
    Apply { culprit: Option<Box<ServicePortName>>, source: Door },
    #[error("removing what is in the kernel: {}", with_causes(.0))]
    Cleanup(#[source] Door),
    #[error("removing what an earlier proxy left: {}", with_causes(.0.as_ref()))]
    Leftovers(#[source] RemovalError),
}

/// The loop tells what an error displays, and the errno is in a cause. Some display their causes themselves.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn of(culprit: Option<&ServicePortName>) -> String {
    culprit.map(|name| format!(", for {name}")).unwrap_or_default()
}

pub(super) fn observing(source: impl Into<Door>) -> Error {
    Error::Observe(source.into())
}

/// What a door of the kernel said.
#[derive(Debug, thiserror::Error)]
pub enum Door {
    #[error(transparent)]
    Ipvs(Box<IpvsError>),
    #[error(transparent)]
    Sets(#[from] SetError),
    #[error(transparent)]
    Addresses(#[from] VirtualAddressError),
    #[error(transparent)]
    Rules(#[from] iptables::Error),
    #[error(transparent)]
    Flows(#[from] ConntrackError),
}

impl From<IpvsError> for Door {
    fn from(error: IpvsError) -> Self {
        Door::Ipvs(Box::new(error))
    }
}

impl Door {
    /// The first of several commands that was refused, by its place.
    pub fn refused(&self) -> Option<usize> {
        match self {
            Door::Ipvs(error) => match &**error {
                IpvsError::Refused { failures } => failures.first().map(|(index, ..)| *index),
                _ => None,
            },
            Door::Sets(SetError::Refused { failures }) => failures.first().map(|failure| failure.index),
            Door::Addresses(VirtualAddressError::Refused { failures }) => {
                failures.first().map(|failure| failure.index)
            }
            _ => None,
        }
    }

    /// Whether no other commands would have fared better: the kernel is busy, or this process may not. One such refusal is
    /// enough, as others may follow from it.
    fn is_transient(&self) -> bool {
        match self {
            Door::Ipvs(error) => match &**error {
                IpvsError::Refused { failures } => {
                    failures.iter().any(|(_, _, error)| is_about_the_node(error))
                }
                _ => true,
            },
            Door::Sets(SetError::Refused { failures }) => {
                failures.iter().any(|failure| match &failure.reason {
                    Refusal::Netlink(error) => is_about_the_node(error),
                    Refusal::NoSuchSet | Refusal::InUse => true,
                    _ => false,
                })
            }
            Door::Addresses(VirtualAddressError::Refused { failures }) => {
                failures.iter().any(|failure| match &failure.reason {
                    AddressRefusal::Netlink(error) => is_about_the_node(error),
                    _ => false,
                })
            }
            Door::Rules(error) => error.is_transient(),
            Door::Sets(_) | Door::Addresses(_) | Door::Flows(_) => true,
        }
    }
}

fn is_about_the_node(error: &NetlinkError) -> bool {
    const NODE: [i32; 6] = [libc::EPERM, libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN, libc::EINTR, libc::EBUSY];
    error.refusal().is_none_or(|errno| NODE.contains(&errno))
}

impl ModeError for Error {
    fn culprit(&self) -> Option<&ServicePortName> {
        match self {
            Error::Apply { culprit, source } if !source.is_transient() => culprit.as_deref(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            // Nothing of a plan is in it.
            Error::Observe(_) => true,
            Error::Apply { source, .. } | Error::Cleanup(source) => source.is_transient(),
            Error::Leftovers(_) => false,
        }
    }
}
