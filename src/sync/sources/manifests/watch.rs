//! Noticing that a directory changed.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout_at};

/// Editors and `kubectl` write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// What inotify does not tell: files behind symbolic links, network file systems, the directory itself replaced.
const POLL: Duration = Duration::from_secs(5);

pub struct Watch {
    path: PathBuf,
    /// `None` while the directory cannot be watched: polling goes on.
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    pub fn new(path: &Path) -> Watch {
        let mut watch = Watch { path: path.to_owned(), inotify: None };
        watch.open();
        watch
    }

    fn open(&mut self) {
        match open(&self.path) {
            Ok(inotify) => self.inotify = Some(inotify),
            Err(error) => {
                tracing::debug!(directory = %self.path.display(), %error, "watching by polling only");
                self.inotify = None;
            }
        }
    }

    /// Waits until it is time to look again.
    pub async fn changed(&mut self) {
        if self.inotify.is_none() {
            sleep(POLL).await;
            self.open();
            return;
        }
        let mut told = Told::default();
        self.gather(Instant::now() + POLL, &mut told).await;
        if told.anything {
            let latest = Instant::now() + LONGEST_WAIT;
            while self.gather(latest.min(Instant::now() + QUIET), &mut told).await {}
        }
        if told.directory_gone {
            self.open();
        }
    }

    /// Reads what inotify has by `deadline`; false where that was nothing.
    async fn gather(&mut self, deadline: Instant, told: &mut Told) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let Ok(Ok(mut ready)) = timeout_at(deadline, inotify.readable()).await else { return false };
        drain(inotify.get_ref(), told);
        ready.clear_ready();
        told.anything
    }
}

#[derive(Default)]
struct Told {
    anything: bool,
    directory_gone: bool,
}

fn open(path: &Path) -> Result<AsyncFd<OwnedFd>, std::io::Error> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let what = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&inotify, path, what)?;
    // SAFETY: the descriptor is owned, so it stays open as long as it is registered.
    Ok(unsafe { AsyncFd::register(inotify) }?)
}

fn drain(inotify: &OwnedFd, told: &mut Told) {
    let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => {
                told.anything = true;
                told.directory_gone |= event.events().intersects(gone);
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
