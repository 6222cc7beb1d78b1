//! Which boot of the machine this is, and how long ago it was.

use std::fs;
use std::io;
use std::time::Duration;

/// `/proc/sys/kernel/random/boot_id`: another one after each boot, and the same in every container.
pub fn id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Since the machine was booted, in whole seconds. The same for all processes, and never set back.
pub fn uptime() -> Duration {
    Duration::from_secs(u64::try_from(rustix::system::sysinfo().uptime).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_a_name_and_an_age() {
        let id = id().unwrap();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
        assert!(uptime() > Duration::ZERO);
    }
}
