//! What IPVS needs.

use std::collections::BTreeSet;

use super::{ArpIgnore, Kernel, Knob, Value, Wanted, apply, plan_quiet_arp};

/// Who answers ARP requests for the addresses of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arp {
    /// Only the interface that has the address, as `ipvs.strictARP` of kube-proxy's configuration asks for: load balancers
    /// that announce addresses by ARP want the node to be silent about them.
    Strict,
    /// As the node is set up.
    Untouched,
}

/// Of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl KernelVersion {
    /// `uname -r`
    pub fn running() -> Option<Self> {
        Self::parse(rustix::system::uname().release().to_str().ok()?)
    }

    /// Reads `6.1.0-37-amd64`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(KernelVersion { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

/// What of a node is not the data plane's own, while the data plane does not work as it should without it.
pub trait NodeSettings: std::fmt::Debug {
    /// Puts right what is not as it should be. What cannot be put right is told once and keeps nothing from working.
    fn hold(&mut self);
}

/// The sysctls that the IPVS mode needs, in the network namespace of the calling thread.
#[derive(Debug)]
pub struct IpvsNode {
    wanted: Vec<Wanted>,
    virtual_addresses: VirtualAddresses,
    told: BTreeSet<Knob>,
}

/// Who would answer ARP requests for virtual addresses if nobody saw to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualAddresses {
    /// Every interface.
    Routes,
    /// As [`Arp`] has it.
    Device,
}

impl IpvsNode {
    pub fn new(arp: Arp, virtual_addresses: VirtualAddresses) -> Self {
        let wanted = plan_ipvs(KernelVersion::running(), arp);
        IpvsNode { wanted, virtual_addresses, told: BTreeSet::new() }
    }

    fn quiet_arp(&mut self) -> Vec<Wanted> {
        if self.virtual_addresses == VirtualAddresses::Device {
            return Vec::new();
        }
        match ArpIgnore::read() {
            Ok(found) => plan_quiet_arp(&found),
            Err(error) => {
                let all = Knob::Ipv4("conf");
                if self.told.insert(all) {
                    tracing::warn!(%error, "Cannot tell who answers ARP for virtual addresses");
                }
                Vec::new()
            }
        }
    }
}

impl NodeSettings for IpvsNode {
    fn hold(&mut self) {
        let quiet = self.quiet_arp();
        let failed = apply(&mut Kernel, self.wanted.iter().chain(&quiet));
        for error in failed {
            if self.told.insert(error.knob()) {
                tracing::warn!(error = &error as &dyn std::error::Error, "Cannot set up this node for IPVS");
            }
        }
    }
}

/// The sysctls that IPVS should have, as kube-proxy sets them. Forwarding of IPv6 is left to the node, as it is there. Pure.
pub fn plan_ipvs(kernel: Option<KernelVersion>, arp: Arp) -> Vec<Wanted> {
    let mut wanted = vec![exactly("vs/conntrack", 1)];
    wanted.extend(connection_reuse(kernel).map(|mode| exactly("vs/conn_reuse_mode", mode)));
    wanted.push(exactly("vs/expire_nodest_conn", 1));
    wanted.push(exactly("vs/expire_quiescent_template", 1));
    wanted.push(exactly("ip_forward", 1));
    if arp == Arp::Strict {
        wanted.push(at_least("conf/all/arp_ignore", 1));
        wanted.push(at_least("conf/all/arp_announce", 2));
    }
    wanted
}

/// What becomes of a new connection from a port that IPVS still knows. With 1 it is scheduled anew, as it should be, but up
/// to Linux 5.8 at the price of a second of delay (k8s#93297). Before 4.1 there is no choice.
fn connection_reuse(kernel: Option<KernelVersion>) -> Option<i64> {
    let since = |major, minor| kernel.map(|kernel| kernel >= KernelVersion { major, minor });
    match (since(4, 1)?, since(5, 9)?) {
        (false, _) => None,
        (true, false) => Some(0),
        (true, true) => Some(1),
    }
}

fn exactly(name: &'static str, value: i64) -> Wanted {
    Wanted { knob: Knob::Ipv4(name), value: Value::Exactly(value) }
}

fn at_least(name: &'static str, value: i64) -> Wanted {
    Wanted { knob: Knob::Ipv4(name), value: Value::AtLeast(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(release: &str) -> Option<KernelVersion> {
        KernelVersion::parse(release)
    }

    #[test]
    fn a_plan_prints_what_is_wanted() {
        let lines =
            |arp| plan_ipvs(version("6.1.0-37-amd64"), arp).iter().map(Wanted::to_string).collect::<Vec<_>>();
        let expected = [
            "/proc/sys/net/ipv4/vs/conntrack = 1",
            "/proc/sys/net/ipv4/vs/conn_reuse_mode = 1",
            "/proc/sys/net/ipv4/vs/expire_nodest_conn = 1",
            "/proc/sys/net/ipv4/vs/expire_quiescent_template = 1",
            "/proc/sys/net/ipv4/ip_forward = 1",
            "/proc/sys/net/ipv4/conf/all/arp_ignore >= 1",
            "/proc/sys/net/ipv4/conf/all/arp_announce >= 2",
        ];
        assert_eq!(lines(Arp::Strict), expected);
        assert_eq!(lines(Arp::Untouched), expected[..5]);
    }

    #[test]
    fn connections_are_scheduled_anew_where_that_is_quick() {
        let table = [
            ("3.10.0-1160.el7.x86_64", None),
            ("4.0.9", None),
            ("4.1.0", Some(0)),
            ("4.19.0-27-amd64", Some(0)),
            ("5.8.18", Some(0)),
            ("5.9.0", Some(1)),
            ("5.15.0-125-generic", Some(1)),
            ("6.18.44-fc-v782", Some(1)),
            ("unknown", None),
            ("", None),
        ];
        for (release, mode) in table {
            assert_eq!(connection_reuse(version(release)), mode, "{release:?}");
        }
        assert!(KernelVersion::running().is_some_and(|kernel| kernel.major >= 4));
    }
}
