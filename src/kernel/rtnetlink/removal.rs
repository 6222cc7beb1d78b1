//! Deleting an interface without waiting until the kernel has freed its memory.
//!
//! `RTM_DELLINK` takes an interface out of its namespace in a millisecond or two: name, addresses, routes, and the other end
//! of a pair of veth. All of that happens under one lock (`rtnl_mutex`). Then the caller is kept, without the lock and beyond
//! the reach of signals, until every processor has freed what it was to free (`rcu_barrier` in `netdev_run_todo`): 10 to 40 ms. Nobody
//! can see what is waited for, so that another process does it, an orphan that ends when the kernel lets it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use netlink_sys::constants::NETLINK_ROUTE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::link::delete;
use super::{Change, Network, NetworkError};
use crate::kernel::netlink::Connection;

/// How long the other process has to begin, before it is looked whether it did.
const PAUSE: Duration = Duration::from_micros(300);
/// Where kernels before 5.9 have no `close_range`: more than a plugin has open.
const DESCRIPTORS: RawFd = 256;

impl Network {
    /// `ip link delete NAME`. One that is not there is deleted. A pair of veth goes together.
    ///
    /// Afterwards nobody finds it any more, in whichever namespace its ends were.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetworkError> {
        let Some(found) = self.find_link(name)? else { return Ok(()) };
        // By its number: the name may be somebody else's before the other process has begun.
        let delete = delete(found.link);
        if let Ok(helper) = Helper::start(&delete) {
            while !helper.has_ended_within(PAUSE) {
                // The kernel answers when it has the lock.
                if self.find_link(name)?.is_none_or(|now| now.link != found.link) {
                    return Ok(());
                }
            }
        }
        // It has done it, or was killed, or was refused and did not say why.
        self.apply([delete])
    }
}

/// A process that has the kernel carry out one change.
struct Helper {
    process: libc::pid_t,
    /// Has an end when the process has ended.
    life: OwnedFd,
}

impl Helper {
    fn start(change: &Change) -> io::Result<Self> {
        let connection = Connection::open(NETLINK_ROUTE).map_err(io::Error::other)?;
        let request = change.request.clone().into_bytes(1);
        let (life, held) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child makes system calls and nothing else.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => carry_out(connection.as_fd().as_raw_fd(), held.as_raw_fd(), &request),
            process => Ok(Helper { process, life }),
        }
    }

    fn has_ended_within(&self, time: Duration) -> bool {
        let mut life = [PollFd::new(&self.life, PollFlags::IN)];
        let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        matches!(poll(&mut life, Some(&time)), Ok(1..))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // SAFETY: no memory is shared. One that runs on is its new parent's to wait for.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), libc::WNOHANG) };
    }
}

/// What the child does, which must not allocate: another thread of its parent may have held the allocator's lock.
fn carry_out(socket: RawFd, held: RawFd, request: &[u8]) -> ! {
    // SAFETY: system calls on descriptors of this process, and memory that is borrowed.
    unsafe {
        // Nobody who reads what the parent prints waits for this one, and no lock of the parent's lasts longer by it.
        libc::dup2(socket, 0);
        libc::dup2(held, 1);
        if libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0) != 0 {
            for descriptor in 2..DESCRIPTORS {
                libc::close(descriptor);
            }
        }
        libc::send(0, request.as_ptr().cast(), request.len(), 0);
        libc::_exit(0)
    }
}
