//! Network namespaces that others made and keep, as container runtimes do.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{NamespaceError, in_own_thread};

/// A network namespace by its path, `/run/netns/NAME` or `/proc/PID/ns/net`.
#[derive(Debug)]
pub struct OpenedNamespace {
    file: OwnedFd,
    identity: (u64, u64),
}

impl OpenedNamespace {
    /// `None` if there is nothing at the path. What is there is found out to be no network namespace when it is entered.
    pub fn open(path: &Path) -> Result<Option<Self>, NamespaceError> {
        // A FIFO in its place must not keep us waiting.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = match opened {
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(None);
            }
            opened => opened.map_err(NamespaceError::Enter)?,
        };
        let metadata = file.metadata().map_err(NamespaceError::Enter)?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Some(OpenedNamespace { file: file.into(), identity }))
    }

    /// Whether it is the namespace of the calling thread.
    pub fn is_own(&self) -> io::Result<bool> {
        let own = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(self.identity == (own.dev(), own.ino()))
    }

    /// Runs `work` in this namespace, in a thread of its own. Sockets that it opens belong to the namespace for good, and
    /// `/proc/sys/net` shows the namespace's sysctls.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        in_own_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| NamespaceError::Enter(errno.into()))?;
            Ok(work())
        })
    }
}

/// For moving interfaces into it.
impl AsFd for OpenedNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
