//! The door to what others do to files (inotify).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::alarm::{Alarm, Ring};

/// Of one read. What is read is thrown away.
const BUFFER: usize = 4 << 10;

/// Rings whenever a file of a directory is there, is gone or has been written.
#[derive(Debug)]
pub struct DirectoryWatch {
    inotify: OwnedFd,
    _alarm: Alarm,
}

impl DirectoryWatch {
    /// Fails where a user has too many of them (`fs.inotify.max_user_instances`).
    pub fn open(ring: Ring) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let alarm = Alarm::set(inotify.as_fd(), ring)?;
        Ok(DirectoryWatch { inotify, _alarm: alarm })
    }

    /// Begins to watch a directory. One that is watched already stays so; one that was exchanged for another of the same
    /// name has to be named again.
    pub fn watch(&self, directory: &Path) -> io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        Ok(inotify::add_watch(&self.inotify, directory, flags).map(drop)?)
    }

    /// Makes room for what is told next, as the kernel is silent while too much waits. Before files are looked at.
    pub fn forget_what_was_told(&self) {
        let mut buffer = [0; BUFFER];
        while matches!(rustix::io::read(&self.inotify, &mut buffer), Ok(1..) | Err(Errno::INTR)) {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn rings_for_each_file_that_comes_changes_or_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, rung) = mpsc::channel();
        let watch = DirectoryWatch::open(Box::new(move || sender.send(()).unwrap_or_default())).unwrap();
        assert!(watch.watch(&directory.path().join("missing")).is_err());
        let path = |name: &str| directory.path().join(name);
        let rings = || rung.recv_timeout(Duration::from_secs(10)).expect("it rings");
        watch.watch(directory.path()).unwrap();
        watch.watch(directory.path()).unwrap();
        let steps: [&dyn Fn(); 4] = [
            &|| fs::write(path("file"), "new").unwrap(),
            &|| fs::write(path("file"), "changed").unwrap(),
            &|| fs::rename(path("file"), path("other")).unwrap(),
            &|| fs::remove_file(path("other")).unwrap(),
        ];
        for step in steps {
            step();
            rings();
            watch.forget_what_was_told();
            while rung.recv_timeout(Duration::from_millis(50)).is_ok() {}
        }
    }
}
