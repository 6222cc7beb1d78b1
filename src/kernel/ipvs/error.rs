//! What can go wrong at the door.

use super::{Command, Timeouts, VirtualServer};
use crate::kernel::netlink::NetlinkError;

/// How many failures are told in words; there may be thousands with the same cause.
const TOLD: usize = 3;

/// The place of a command among those that were to be executed, its text, and why it was refused.
pub type Failure = (usize, String, NetlinkError);

#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    #[error("cannot reach IPVS")]
    Open(#[source] NetlinkError),
    #[error("this kernel has no IPVS: load the module ip_vs or choose another --proxy-mode")]
    Missing,
    #[error("cannot list the IPVS virtual servers")]
    ListServices(#[source] NetlinkError),
    #[error("cannot list the IPVS destinations of {of}")]
    ListDestinations { of: VirtualServer, source: NetlinkError },
    /// None, some or all of them may have been carried out.
    #[error("cannot carry out {count} IPVS commands")]
    Execute { count: usize, source: NetlinkError },
    #[error("{}", told(failures))]
    Refused { failures: Vec<Failure> },
    #[error("cannot read the IPVS timeouts")]
    Timeouts(#[source] NetlinkError),
    #[error("cannot set the IPVS timeouts to {timeouts:?}")]
    SetTimeouts { timeouts: Timeouts, source: NetlinkError },
    #[error("cannot ask for the version of IPVS")]
    Version(#[source] NetlinkError),
    #[error("cannot find out whether IPVS has the scheduler {scheduler}")]
    Probe { scheduler: String, source: NetlinkError },
}

fn told(failures: &[Failure]) -> String {
    let some: Vec<_> =
        failures.iter().take(TOLD).map(|(_, command, why)| format!("ipvsadm {command}: {why}")).collect();
    let rest = match failures.len().saturating_sub(TOLD) {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    format!("IPVS refused {}{rest}", some.join("; "))
}

/// What an errno means for a command, where the kernel does not say it.
pub(super) fn failure(index: usize, command: &Command, error: NetlinkError) -> Failure {
    let error = match error {
        NetlinkError::Refused { errno, explanation: None } => {
            let explanation = meaning(command, errno.raw_os_error().unwrap_or_default());
            NetlinkError::Refused { errno, explanation: explanation.map(String::into_boxed_str) }
        }
        other => other,
    };
    (index, command.to_string(), error)
}

/// From `ip_vs_genl_set_cmd` and what it calls, Linux 6.1.
fn meaning(command: &Command, errno: i32) -> Option<String> {
    match (command.scheduler(), errno) {
        (_, libc::EPERM) => Some("this needs CAP_NET_ADMIN".into()),
        (Some(scheduler), libc::ENOENT) => Some(format!("the kernel has no scheduler {scheduler}")),
        (None, libc::ESRCH) => Some("there is no such virtual server".into()),
        (None, libc::EINVAL) => {
            Some("not a unicast address, or of another family than its virtual server".into())
        }
        _ => None,
    }
}
