//! How many file descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `ulimit -n HARD`: as many as a process may without being asked. Tells how many that is.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let all = limit.maximum.unwrap_or(u64::MAX);
    let current = limit.current.unwrap_or(u64::MAX);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => all,
        Err(_) => current,
    }
}
