//! The way into the kernel. Of a large load, one part is written in a thread of its own while the next one is made: each
//! takes about as long as the other.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::error::Error;
use super::plan::Written;
use crate::kernel::nftables as door;

pub struct Writing<D> {
    door: Arc<Mutex<D>>,
    /// The last part, if nobody has asked yet what became of it.
    part: Option<JoinHandle<Result<(), Error>>>,
}

impl<D: door::Nftables> Writing<D> {
    pub fn new(door: D) -> Self {
        Writing { door: Arc::new(Mutex::new(door)), part: None }
    }

    /// When the last part has been written, if it could be.
    pub fn door(&mut self) -> Result<MutexGuard<'_, D>, Error> {
        self.finish()?;
        Ok(lock(&self.door))
    }

    /// The same for who looks what is there or takes all of it away: whether the last part could be written is no matter.
    pub fn door_anyway(&mut self) -> MutexGuard<'_, D> {
        let _ = self.finish();
        lock(&self.door)
    }

    /// Waits until it is in the kernel.
    pub fn write(&mut self, what: &Written) -> Result<(), Error> {
        commit(&mut *self.door()?, what)
    }

    fn finish(&mut self) -> Result<(), Error> {
        let Some(part) = self.part.take() else { return Ok(()) };
        part.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<D: door::Nftables + Send + 'static> Writing<D> {
    /// Waits only until the part before is in the kernel. The next call of whatever tells what became of this one.
    pub fn write_meanwhile(&mut self, what: Written) -> Result<(), Error> {
        self.finish()?;
        let (door, what) = (Arc::clone(&self.door), Arc::new(what));
        let of_thread = Arc::clone(&what);
        let write = move || commit(&mut *lock(&door), &of_thread);
        match Builder::new().name("writing".into()).spawn(write) {
            Ok(part) => {
                self.part = Some(part);
                Ok(())
            }
            // No thread to be had: then one after the other.
            Err(_) => self.write(&what),
        }
    }
}

fn lock<D>(door: &Mutex<D>) -> MutexGuard<'_, D> {
    door.lock().unwrap_or_else(PoisonError::into_inner)
}

fn commit(door: &mut dyn door::Nftables, what: &Written) -> Result<(), Error> {
    let committed = door.commit(&what.transaction);
    committed
        .map(drop)
        .map_err(|source| Error::Apply { culprit: what.culprit(&source).map(Box::new), source })
}

impl<D> fmt::Debug for Writing<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("part", &self.part.is_some()).finish_non_exhaustive()
    }
}
