//! The door to sysctls, and to the few other numbers under /proc and /sys that a proxy sets.

mod arp;
mod ipvs;

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, fs, io};

pub use arp::{ArpIgnore, InterfaceName, plan_quiet_arp};
pub use ipvs::{Arp, IpvsNode, KernelVersion, NodeSettings, VirtualAddresses, plan_ipvs};

/// Sysctls of connection tracking; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conntrack {
    pub max_per_core: u32,
    pub min: u32,
    pub tcp_established_timeout: Option<Duration>,
    pub tcp_close_wait_timeout: Option<Duration>,
    pub udp_timeout: Option<Duration>,
    pub udp_stream_timeout: Option<Duration>,
    pub tcp_be_liberal: bool,
}

/// One number that the kernel shows as a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knob {
    /// `/proc/sys/net/netfilter/` and this.
    Netfilter(&'static str),
    /// `/proc/sys/net/ipv4/` and this.
    Ipv4(&'static str),
    /// `/proc/sys/net/ipv6/` and this.
    Ipv6(&'static str),
    /// `/proc/sys/net/bridge/` and this, where the module br_netfilter is loaded.
    Bridge(&'static str),
    /// Which ARP requests an interface leaves unanswered.
    ArpIgnore(InterfaceName),
    /// Whether an interface drops packets whose sender it would answer through another one.
    ReversePath(InterfaceName),
    /// Whether an interface believes what IPv6 routers say.
    AcceptRouters(InterfaceName),
    /// The buckets of the connection tracking table, a module parameter.
    ConntrackHashSize,
    OomScoreAdj,
}

impl Knob {
    fn path(self) -> PathBuf {
        match self {
            Knob::Netfilter(name) => PathBuf::from("/proc/sys/net/netfilter").join(name),
            Knob::Ipv4(name) => PathBuf::from("/proc/sys/net/ipv4").join(name),
            Knob::ArpIgnore(interface) => {
                PathBuf::from(arp::INTERFACES).join(interface.as_str()).join("arp_ignore")
            }
            Knob::Ipv6(name) => PathBuf::from("/proc/sys/net/ipv6").join(name),
            Knob::Bridge(name) => PathBuf::from("/proc/sys/net/bridge").join(name),
            Knob::ReversePath(interface) => {
                PathBuf::from(arp::INTERFACES).join(interface.as_str()).join("rp_filter")
            }
            Knob::AcceptRouters(interface) => {
                PathBuf::from("/proc/sys/net/ipv6/conf").join(interface.as_str()).join("accept_ra")
            }
            Knob::ConntrackHashSize => PathBuf::from("/sys/module/nf_conntrack/parameters/hashsize"),
            Knob::OomScoreAdj => PathBuf::from("/proc/self/oom_score_adj"),
        }
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

/// What a knob should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub knob: Knob,
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Exactly(i64),
    /// Raised if lower, left alone otherwise.
    AtLeast(i64),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Value::Exactly(value) => write!(f, "{} = {value}", self.knob),
            Value::AtLeast(value) => write!(f, "{} >= {value}", self.knob),
        }
    }
}

/// Why a knob is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("cannot read {knob}")]
    Read { knob: Knob, source: io::Error },
    #[error("cannot write {value} to {knob}")]
    Write { knob: Knob, value: i64, source: io::Error },
}

impl SysctlError {
    pub fn knob(&self) -> Knob {
        match self {
            SysctlError::Read { knob, .. } | SysctlError::Write { knob, .. } => *knob,
        }
    }
}

pub trait Sysctls {
    fn read(&self, knob: Knob) -> io::Result<i64>;
    fn write(&mut self, knob: Knob, value: i64) -> io::Result<()>;
}

/// The kernel's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Sysctls for Kernel {
    fn read(&self, knob: Knob) -> io::Result<i64> {
        let text = fs::read_to_string(knob.path())?;
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn write(&mut self, knob: Knob, value: i64) -> io::Result<()> {
        fs::write(knob.path(), value.to_string())
    }
}

/// Beyond this, the table of a node with many CPUs would cost more memory than it is worth.
const MAX_TRACKED: i64 = 1 << 20;

/// What connection tracking should be set to on a machine with so many CPUs. Pure.
pub fn plan_conntrack(config: &Conntrack, cpus: usize) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if let Some(max) = tracked_connections(config, cpus) {
        wanted.push(exactly("nf_conntrack_max", max));
        // The kernel sizes its hash table for the limit that it had at first; four entries a bucket still do well.
        wanted.push(Wanted { knob: Knob::ConntrackHashSize, value: Value::AtLeast(max / 4) });
    }
    let timeouts = [
        ("nf_conntrack_tcp_timeout_established", config.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", config.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", config.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", config.udp_stream_timeout),
    ];
    for (name, timeout) in timeouts {
        wanted.extend(timeout.map(|timeout| exactly(name, timeout.as_secs().try_into().unwrap_or(i64::MAX))));
    }
    if config.tcp_be_liberal {
        wanted.push(exactly("nf_conntrack_tcp_be_liberal", 1));
    }
    wanted
}

/// `None` leaves the limit as it is. The cap comes before the minimum, as it does in kube-proxy.
fn tracked_connections(config: &Conntrack, cpus: usize) -> Option<i64> {
    if config.max_per_core == 0 {
        return None;
    }
    let scaled = i64::from(config.max_per_core).saturating_mul(i64::try_from(cpus).unwrap_or(i64::MAX));
    Some(if scaled > MAX_TRACKED { MAX_TRACKED } else { scaled.max(config.min.into()) })
}

fn exactly(name: &'static str, value: i64) -> Wanted {
    Wanted { knob: Knob::Netfilter(name), value: Value::Exactly(value) }
}

/// A score that the kernel kills this process by when memory runs out.
pub fn plan_oom_score(score: i32) -> Wanted {
    Wanted { knob: Knob::OomScoreAdj, value: Value::Exactly(score.into()) }
}

/// Writes what differs, and goes on past what cannot be set: a node without connection tracking yet, or one that gives
/// no rights to its sysctls, must not be left without Services (k8s#18604).
pub fn apply<'a>(
    sysctls: &mut impl Sysctls,
    wanted: impl IntoIterator<Item = &'a Wanted>,
) -> Vec<SysctlError> {
    wanted.into_iter().filter_map(|wanted| set(sysctls, wanted).err()).collect()
}

fn set(sysctls: &mut impl Sysctls, wanted: &Wanted) -> Result<(), SysctlError> {
    let knob = wanted.knob;
    let is = sysctls.read(knob).map_err(|source| SysctlError::Read { knob, source })?;
    let value = match wanted.value {
        Value::Exactly(value) if is != value => value,
        Value::AtLeast(value) if is < value => value,
        _ => return Ok(()),
    };
    sysctls.write(knob, value).map_err(|source| SysctlError::Write { knob, value, source })?;
    tracing::info!(knob = %knob, was = is, now = value, "Set");
    Ok(())
}

/// Whether connection tracking takes TCP packets outside the window for what they are instead of for INVALID.
pub fn tcp_is_liberal() -> bool {
    Kernel.read(Knob::Netfilter("nf_conntrack_tcp_be_liberal")).is_ok_and(|value| value != 0)
}

/// The CPUs of this machine, not only those that this process may use (k8s#99225).
pub fn count_cpus() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    online
        .and_then(|text| count_in_list(text.trim()))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Counts the kernel's `0-3,8`.
fn count_in_list(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(count + (last.checked_sub(first)? + 1))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Refuses what the kernel refuses: a knob that is not there.
    #[derive(Default)]
    struct Fake {
        knobs: BTreeMap<Knob, i64>,
        written: Vec<(Knob, i64)>,
        read_only: bool,
    }

    impl Sysctls for Fake {
        fn read(&self, knob: Knob) -> io::Result<i64> {
            self.knobs.get(&knob).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        }

        fn write(&mut self, knob: Knob, value: i64) -> io::Result<()> {
            if self.read_only {
                return Err(io::Error::from_raw_os_error(libc::EROFS));
            }
            *self.knobs.get_mut(&knob).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))? = value;
            self.written.push((knob, value));
            Ok(())
        }
    }

    const NOTHING: Conntrack = Conntrack {
        max_per_core: 0,
        min: 0,
        tcp_established_timeout: None,
        tcp_close_wait_timeout: None,
        udp_timeout: None,
        udp_stream_timeout: None,
        tcp_be_liberal: false,
    };
    const MAX: Knob = Knob::Netfilter("nf_conntrack_max");

    #[test]
    fn the_limit_scales_with_the_cpus() {
        let table = [
            (0, 131_072, 4, None),
            (32_768, 131_072, 1, Some(131_072)),
            (32_768, 131_072, 4, Some(131_072)),
            (32_768, 131_072, 5, Some(163_840)),
            (32_768, 131_072, 32, Some(1_048_576)),
            (32_768, 131_072, 33, Some(1_048_576)),
            (32_768, 2_000_000, 4, Some(2_000_000)),
            (32_768, 2_000_000, 64, Some(1_048_576)),
            (i32::MAX as u32, 0, usize::MAX, Some(1_048_576)),
        ];
        for (max_per_core, min, cpus, expected) in table {
            let config = Conntrack { max_per_core, min, ..NOTHING };
            assert_eq!(
                tracked_connections(&config, cpus),
                expected,
                "{max_per_core} x {cpus}, at least {min}"
            );
        }
    }

    #[test]
    fn a_plan_prints_what_is_wanted() {
        let config = Conntrack {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established_timeout: Some(Duration::from_secs(86_400)),
            udp_stream_timeout: Some(Duration::from_millis(1_900)),
            tcp_be_liberal: true,
            ..NOTHING
        };
        let lines: Vec<String> = plan_conntrack(&config, 2).iter().map(Wanted::to_string).collect();
        let expected = [
            "/proc/sys/net/netfilter/nf_conntrack_max = 131072",
            "/sys/module/nf_conntrack/parameters/hashsize >= 32768",
            "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established = 86400",
            "/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream = 1",
            "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal = 1",
        ];
        assert_eq!(lines, expected);
        assert_eq!(plan_conntrack(&NOTHING, 2), []);
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut fake = Fake { knobs: [(MAX, 7), (Knob::ConntrackHashSize, 9)].into(), ..Fake::default() };
        let wanted = [
            exactly("nf_conntrack_max", 5),
            Wanted { knob: Knob::ConntrackHashSize, value: Value::AtLeast(8) },
        ];
        assert!(apply(&mut fake, &wanted).is_empty());
        assert_eq!(fake.written, [(MAX, 5)], "a limit is lowered, a size is not");
        assert!(apply(&mut fake, &wanted).is_empty());
        assert_eq!(fake.written.len(), 1, "the second time there is nothing to do");
    }

    /// Row C10 of the faults: kube-proxy does not start without nf_conntrack_max.
    #[test]
    fn c10_what_cannot_be_set_stops_nothing() {
        let liberal = Knob::Netfilter("nf_conntrack_tcp_be_liberal");
        let wanted = [exactly("nf_conntrack_max", 5), exactly("nf_conntrack_tcp_be_liberal", 1)];
        let mut fake = Fake { knobs: [(liberal, 0)].into(), ..Fake::default() };
        let errors = apply(&mut fake, &wanted);
        assert!(matches!(errors[..], [SysctlError::Read { knob: MAX, .. }]), "{errors:?}");
        assert_eq!(fake.written, [(liberal, 1)]);
        let mut fake = Fake { knobs: [(MAX, 0), (liberal, 0)].into(), read_only: true, ..Fake::default() };
        let errors = apply(&mut fake, &wanted);
        assert!(matches!(errors[..], [SysctlError::Write { value: 5, .. }, SysctlError::Write { .. }]));
    }

    #[test]
    fn cpu_lists_are_counted() {
        let table = [("0", Some(1)), ("0-3", Some(4)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)];
        for (list, count) in table {
            assert_eq!(count_in_list(list), count, "{list:?}");
        }
        assert!(count_cpus() >= 1);
    }

    /// Raising one's own score needs no rights, so that the real door can be tried by anybody.
    #[test]
    fn the_kernels_own_door_reads_and_writes() {
        let mut kernel = Kernel;
        let before = kernel.read(Knob::OomScoreAdj).unwrap();
        let higher = (before + 1).min(1000);
        assert!(apply(&mut kernel, &[plan_oom_score(higher as i32)]).is_empty());
        assert_eq!(kernel.read(Knob::OomScoreAdj).unwrap(), higher);
    }
}
