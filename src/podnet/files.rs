//! Files that are whole or not there at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What a file outlives once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The process: for directories that a boot empties.
    Boot,
    /// The machine's power.
    Disk,
}

/// Replaces a file by a rename, so that readers see the old content or the new one. Only one process at a time may do so.
pub fn replace(path: &Path, content: &[u8], lifetime: Lifetime) -> io::Result<()> {
    let mut name = OsString::from(path);
    name.push(".new");
    let written = write(Path::new(&name), content, lifetime).and_then(|()| fs::rename(&name, path));
    if written.is_err() {
        let _ = fs::remove_file(&name);
    }
    written?;
    match (lifetime, path.parent()) {
        (Lifetime::Disk, Some(directory)) => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

fn write(path: &Path, content: &[u8], lifetime: Lifetime) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    match lifetime {
        Lifetime::Disk => file.sync_all(),
        Lifetime::Boot => Ok(()),
    }
}
