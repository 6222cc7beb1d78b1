//! Silence about virtual addresses.
//!
//! The kernel answers ARP requests for whatever a route of type `local` leads to. A node that answers for virtual addresses
//! draws the packets of its network's other hosts, which were meant for whoever has the address there.

use std::fs;
use std::{fmt, io};

use super::{Kernel, Knob, Sysctls, Value, Wanted};

pub(super) const INTERFACES: &str = "/proc/sys/net/ipv4/conf";

/// What `ip-sysctl` calls "do not reply for local addresses configured with scope host": the interfaces' own addresses have
/// a wider one, and are answered for on every interface, as with 0.
const SILENT_ABOUT_HOST_SCOPE: i64 = 3;

/// The name of an interface: at most 15 bytes, `IFNAMSIZ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName {
    bytes: [u8; 15],
    length: u8,
}

impl InterfaceName {
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; 15];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(InterfaceName { bytes, length: name.len() as u8 })
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length.into()]).unwrap_or_default()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `sysctl net.ipv4.conf.INTERFACE.arp_ignore`, of every interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArpIgnore {
    pub all: i64,
    /// Including `default`, which is what new interfaces get.
    pub interfaces: Vec<(InterfaceName, i64)>,
}

impl ArpIgnore {
    /// Of the network namespace of the calling thread. An interface that goes away meanwhile is left out.
    pub fn read() -> io::Result<Self> {
        let mut found = ArpIgnore::default();
        for entry in fs::read_dir(INTERFACES)? {
            let Some(name) = entry?.file_name().to_str().and_then(InterfaceName::new) else { continue };
            let Ok(value) = Kernel.read(Knob::ArpIgnore(name)) else { continue };
            match name.as_str() {
                "all" => found.all = value,
                _ => found.interfaces.push((name, value)),
            }
        }
        found.interfaces.sort_unstable();
        Ok(found)
    }
}

/// Makes the interfaces silent that would answer for everything, and leaves those alone that somebody has set up. Pure.
pub fn plan_quiet_arp(found: &ArpIgnore) -> Vec<Wanted> {
    // The kernel goes by the greater one of `all` and the interface's own (`IN_DEV_ARP_IGNORE`).
    let answers = |value: i64| value.max(found.all) == 0;
    let wanted =
        |name| Wanted { knob: Knob::ArpIgnore(name), value: Value::AtLeast(SILENT_ABOUT_HOST_SCOPE) };
    found.interfaces.iter().filter(|(_, value)| answers(*value)).map(|(name, _)| wanted(*name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{SysctlError, apply};
    use super::*;
    use crate::kernel::netns::Namespace;

    fn found(all: i64, interfaces: &[(&str, i64)]) -> ArpIgnore {
        let interfaces =
            interfaces.iter().map(|(name, value)| (InterfaceName::new(name).unwrap(), *value)).collect();
        ArpIgnore { all, interfaces }
    }

    fn print(found: &ArpIgnore) -> Vec<String> {
        plan_quiet_arp(found).iter().map(Wanted::to_string).collect()
    }

    #[test]
    fn interfaces_that_answer_for_everything_become_silent() {
        let interfaces = [("default", 0), ("eth0", 0), ("eth0.100", 0), ("eth1", 1), ("eth2", 8), ("lo", 0)];
        assert_eq!(
            print(&found(0, &interfaces)),
            ["default", "eth0", "eth0.100", "lo"]
                .map(|name| format!("/proc/sys/net/ipv4/conf/{name}/arp_ignore >= 3"))
        );
        for all in [1, 2, 3] {
            assert_eq!(print(&found(all, &interfaces)), [""; 0], "{all} already holds for every interface");
        }
    }

    #[test]
    fn names_are_as_long_as_the_kernel_allows() {
        let longest = "a".repeat(15);
        assert_eq!(InterfaceName::new(&longest).unwrap().as_str(), longest);
        assert_eq!(InterfaceName::new(&"a".repeat(16)), None);
        assert_eq!(InterfaceName::new("").unwrap().as_str(), "");
    }

    #[test]
    fn the_kernel_is_set_once_and_new_interfaces_are_silent_too() {
        let namespace = Namespace::new().unwrap();
        let ip = |line: &str| {
            let status = namespace.command("ip").unwrap().args(line.split_whitespace()).status().unwrap();
            assert!(status.success(), "ip {line}");
        };
        ip("link add eth0 type bridge");
        namespace
            .run(|| {
                let before = ArpIgnore::read().unwrap();
                assert!(before.interfaces.iter().any(|(name, value)| (name.as_str(), *value) == ("eth0", 0)));
                assert!(apply(&mut Kernel, &plan_quiet_arp(&before)).is_empty());
                assert_eq!(plan_quiet_arp(&ArpIgnore::read().unwrap()), []);
            })
            .unwrap();
        ip("link add eth1 type bridge");
        ip("link del eth0");
        namespace
            .run(|| {
                let after = ArpIgnore::read().unwrap();
                assert!(after.interfaces.contains(&(InterfaceName::new("eth1").unwrap(), 3)), "{after:?}");
                let errors = apply(&mut Kernel, &plan_quiet_arp(&found(0, &[("eth0", 0), ("eth1", 0)])));
                let [SysctlError::Read { knob, .. }] = errors[..] else { panic!("{errors:?}") };
                assert_eq!(knob.to_string(), "/proc/sys/net/ipv4/conf/eth0/arp_ignore");
            })
            .unwrap();
    }
}
