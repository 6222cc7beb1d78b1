//! The file that the journal is in, and the lock before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::IpamError;
use crate::podnet::files::{self, Lifetime};

const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// Longer than a hundred others take, shorter than kubelet waits.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// One file that one process at a time has.
pub trait Storage {
    /// `None` if there is no file yet.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Cuts the file off at `at` and appends. What was appended is on the disk when it returns.
    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Needs no room on the disk, and does not wait for it.
    fn overwrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// All or nothing, on the disk when it returns.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// In a directory of its own. Whoever has this has the lock, which goes with the process, however it ends.
#[derive(Debug)]
pub struct FileStorage {
    journal: PathBuf,
    _lock: File,
}

impl FileStorage {
    /// Makes the directory if need be.
    pub fn lock(directory: &Path) -> Result<Self, IpamError> {
        let failed = |source| IpamError::Open { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join(LOCK);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        Self::wait(directory, file.map_err(|source| IpamError::Open { path, source })?)
    }

    /// `None` if nothing was ever kept there. Needs no right to write.
    pub fn lock_existing(directory: &Path) -> Result<Option<Self>, IpamError> {
        let path = directory.join(LOCK);
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IpamError::Open { path, source }),
            Ok(file) => Self::wait(directory, file).map(Some),
        }
    }

    fn wait(directory: &Path, lock: File) -> Result<Self, IpamError> {
        let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(FileStorage { journal: directory.join(JOURNAL), _lock: lock }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < PATIENCE => thread::sleep(pause),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(IpamError::Locked),
                Err(errno) => {
                    return Err(IpamError::Open { path: directory.join(LOCK), source: errno.into() });
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(&self.journal)
    }
}

impl Storage for FileStorage {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.journal) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.journal)?;
        if file.metadata()?.len() != at {
            file.set_len(at)?;
        }
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a record would be taken for none: this only keeps the file tidy.
            let _ = file.set_len(at);
        }
        written
    }

    /// Losing it with the machine's power is no loss, as the record goes with the boot.
    fn overwrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.open()?.write_all_at(bytes, at)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        files::replace(&self.journal, bytes, Lifetime::Disk)
    }
}
