//! When the kernel lets threads of this process run.

use std::io;
use std::time::Duration;

const SIZE: u32 = size_of::<libc::sched_attr>() as u32;

/// The calling thread is not to wait long for its turn and does not run for long: what it carries is somebody's who waits.
/// It gets no more of the processor for that than before. Kernels before 6.12 know no slices of single threads and ignore
/// it (EEVDF, sched(7)).
///
/// # Errors
/// Where a filter of system calls forbids it.
pub fn run_in_slices_of(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes(0)?;
    let is_fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed());
    // Who chose another policy for this process knows why.
    if !is_fair {
        return Ok(());
    }
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the structure lives until the call returns and tells its own length.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The slice of a thread, or of the calling one (0). `None` where the kernel has none for each.
///
/// # Errors
/// Where there is no such thread.
pub fn slice_of(thread: u32) -> io::Result<Option<Duration>> {
    let nanoseconds = attributes(thread)?.sched_runtime;
    Ok((nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds)))
}

fn attributes(thread: u32) -> io::Result<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure lives until the call returns, and SIZE is its length.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, &raw mut attributes, SIZE, 0) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_slice_where_the_kernel_has_them_and_keeps_all_else() {
        const SLICE: Duration = Duration::from_micros(700);
        let before = attributes(0).unwrap();
        run_in_slices_of(SLICE).unwrap();
        let after = attributes(0).unwrap();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        assert_eq!(slice_of(0).unwrap(), (before.sched_runtime > 0).then_some(SLICE));
    }
}
