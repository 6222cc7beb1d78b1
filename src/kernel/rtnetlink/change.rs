//! Changes: requests with the words that say what they are for, many in one write.

use super::{Network, NetworkError};
use crate::kernel::netlink::Request;

/// Something to be done.
#[derive(Clone, Debug)]
pub struct Change {
    pub(super) request: Request,
    pub(super) attempted: String,
    /// The refusal that means that there is nothing to do.
    pub(super) done_if: Option<i32>,
}

impl Change {
    pub(super) fn new(request: Request, attempted: String) -> Self {
        Change { request, attempted, done_if: None }
    }

    /// What is there already stays as it is, and that is no error.
    #[must_use]
    pub fn unless_there(self) -> Self {
        Change { done_if: Some(libc::EEXIST), ..self }
    }

    /// What is not there need not be removed.
    #[must_use]
    pub(super) fn if_there(self, errno: i32) -> Self {
        Change { done_if: Some(errno), ..self }
    }
}

impl Network {
    /// Carries changes out, in order and in one write if they fit. A change that is refused does not keep those after it:
    /// whoever called knows best what to take back. The error is that of the first.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), NetworkError> {
        let mut changes: Vec<Change> = changes.into_iter().collect();
        let requests: Vec<Request> = changes.iter().map(|change| change.request.clone()).collect();
        let refused = self.connection.execute_all(&requests).map_err(|source| {
            let attempted = changes.first().map(|change| change.attempted.clone()).unwrap_or_default();
            NetworkError { attempted, source }
        })?;
        let mut errors = refused.into_iter().filter(|(index, error)| {
            changes[*index].done_if.is_none() || changes[*index].done_if != error.refusal()
        });
        match errors.next() {
            None => Ok(()),
            Some((index, source)) => {
                Err(NetworkError { attempted: std::mem::take(&mut changes[index].attempted), source })
            }
        }
    }
}
