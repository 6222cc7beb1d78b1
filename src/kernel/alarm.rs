//! Waiting for news on a socket in a thread of its own, so that nobody has to look again and again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

const NEWS: u64 = 0;
const STOP: u64 = 1;

/// What is called.
pub type Ring = Box<dyn Fn() + Send>;

/// Rings until it is dropped.
#[derive(Debug)]
pub struct Alarm {
    stop: OwnedFd,
}

impl Alarm {
    /// Calls `ring` each time that something arrives which can be read from `source`, whether or not what came before was
    /// read.
    pub fn set(source: impl AsFd, ring: Ring) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, source, EventData::new_u64(NEWS), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        // An epoll forgets what is closed: the thread has to be there still when it is told to stop.
        let kept = stop.try_clone()?;
        let rings = move || {
            wait(&epoll, &ring);
            drop(kept);
        };
        thread::Builder::new().name("alarm".into()).spawn(rings)?;
        Ok(Alarm { stop })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Fails only if the counter is full, and then the thread is told already.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

fn wait(epoll: &OwnedFd, ring: &Ring) {
    let mut events = Vec::with_capacity(2);
    loop {
        events.clear();
        match epoll::wait(epoll, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if events.iter().any(|event: &epoll::Event| event.data.u64() == STOP) {
            return;
        }
        ring();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn rings_for_each_arrival_until_dropped() {
        let (here, there) = UnixDatagram::pair().unwrap();
        let (sender, rung) = mpsc::channel();
        let alarm = Alarm::set(&here, Box::new(move || sender.send(()).unwrap_or_default())).unwrap();
        for _ in 0..2 {
            there.send(b"news").unwrap();
            rung.recv_timeout(Duration::from_secs(10)).expect("nobody reads, and it rings again");
        }
        drop(alarm);
        let ended = rung.recv_timeout(Duration::from_secs(10)).unwrap_err();
        assert_eq!(ended, mpsc::RecvTimeoutError::Disconnected, "the thread is gone");
    }
}
