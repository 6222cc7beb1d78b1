//! What our sets and marks are called.
//!
//! Each set answers one question about a packet, so that the rules need not know any Service. `ipset list
//! FERRO-4-SERVED` reads well on its own.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::kernel::ipset::{Definition, Marks, SetType};
use crate::model::{Family, ServicePortName};

/// What the names of all our sets begin with.
pub const OURS: &str = "FERRO-";

/// What the names of the sets of one address family begin with.
pub fn of_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "FERRO-4-",
        Family::V6 => "FERRO-6-",
    }
}

/// Elements that a set may hold. The kernel takes memory for those that there are, so the bound is only one on faults; its
/// default of 65,536 has stopped clusters (k8s#129389).
pub const MAX_ELEMENTS: u32 = 1 << 22;

/// The sets, one of each for each address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Frontend and client network: who may use a load balancer address.
    SourceRanges,
    /// Frontends that only those may use.
    Guarded,
    /// Frontends whose policy is Local and whose endpoints are elsewhere.
    Drop,
    /// Frontends whose clients from outside of the cluster are masqueraded.
    ClusterIps,
    /// Frontends whose clients are all masqueraded.
    Masquerade,
    /// Endpoints that may reach themselves, as address and address.
    Hairpin,
    /// Frontends that clients inside the cluster use as if their policy were Cluster, each with its packet mark.
    ShortCircuit,
    /// Frontends that take new connections.
    Served,
    /// NodePorts without endpoints.
    Reject,
    /// The addresses that are there for Services only: what is not served there is refused.
    VirtualIps,
    /// TCP ports on which load balancers ask for the node's health.
    HealthChecks,
}

impl Set {
    pub const ALL: [Set; 11] = [
        Set::SourceRanges,
        Set::Guarded,
        Set::Drop,
        Set::ClusterIps,
        Set::Masquerade,
        Set::Hairpin,
        Set::ShortCircuit,
        Set::Served,
        Set::Reject,
        Set::VirtualIps,
        Set::HealthChecks,
    ];

    /// Those whose elements are frontends.
    pub const OF_FRONTENDS: [Set; 7] = [
        Set::Guarded,
        Set::Drop,
        Set::ClusterIps,
        Set::Masquerade,
        Set::ShortCircuit,
        Set::Served,
        Set::Reject,
    ];

    /// At most 31 bytes, as the kernel demands.
    pub fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Set::SourceRanges, Family::V4) => "FERRO-4-SOURCE-RANGES",
            (Set::SourceRanges, Family::V6) => "FERRO-6-SOURCE-RANGES",
            (Set::Guarded, Family::V4) => "FERRO-4-GUARDED",
            (Set::Guarded, Family::V6) => "FERRO-6-GUARDED",
            (Set::Drop, Family::V4) => "FERRO-4-DROP",
            (Set::Drop, Family::V6) => "FERRO-6-DROP",
            (Set::ClusterIps, Family::V4) => "FERRO-4-CLUSTER-IPS",
            (Set::ClusterIps, Family::V6) => "FERRO-6-CLUSTER-IPS",
            (Set::Masquerade, Family::V4) => "FERRO-4-MASQUERADE",
            (Set::Masquerade, Family::V6) => "FERRO-6-MASQUERADE",
            (Set::Hairpin, Family::V4) => "FERRO-4-HAIRPIN",
            (Set::Hairpin, Family::V6) => "FERRO-6-HAIRPIN",
            (Set::ShortCircuit, Family::V4) => "FERRO-4-SHORT-CIRCUIT",
            (Set::ShortCircuit, Family::V6) => "FERRO-6-SHORT-CIRCUIT",
            (Set::Served, Family::V4) => "FERRO-4-SERVED",
            (Set::Served, Family::V6) => "FERRO-6-SERVED",
            (Set::Reject, Family::V4) => "FERRO-4-REJECT",
            (Set::Reject, Family::V6) => "FERRO-6-REJECT",
            (Set::VirtualIps, Family::V4) => "FERRO-4-VIRTUAL-IPS",
            (Set::VirtualIps, Family::V6) => "FERRO-6-VIRTUAL-IPS",
            (Set::HealthChecks, Family::V4) => "FERRO-4-HEALTH-CHECKS",
            (Set::HealthChecks, Family::V6) => "FERRO-6-HEALTH-CHECKS",
        }
    }

    pub fn of_name(name: &str, family: Family) -> Option<Set> {
        Set::ALL.into_iter().find(|set| set.name(family) == name)
    }

    /// A set must never get another type under the same name: the kernel does not swap such sets.
    pub fn definition(self, family: Family) -> Definition {
        let kind = match self {
            Set::SourceRanges => SetType::HashIpPortNet,
            Set::VirtualIps => SetType::HashIp,
            Set::Hairpin => SetType::HashNetNet,
            Set::HealthChecks => SetType::BitmapPort,
            _ => SetType::HashIpPort,
        };
        let marks = if self == Set::ShortCircuit { Marks::With } else { Marks::Without };
        Definition { name: self.name(family).into(), kind, family, max_elements: MAX_ELEMENTS, marks }
    }
}

/// The marks that lead packets past IPVS, of which one is in use: the second where the first means masquerade.
pub const BYPASSES: [u32; 2] = [1 << 28, 1 << 29];

/// Packet marks that lead to a virtual server of their own: for clients that short-circuit externalTrafficPolicy Local.
///
/// IPVS compares the whole mark, so these replace whatever was there, for the first packet of such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceMarks {
    /// Set in each of our marks, and in no other of ours.
    pub bit: u32,
    masquerade: u32,
}

impl ServiceMarks {
    /// Marks that never hold the bit that says masquerade: it means something else.
    pub fn new(masquerade: u32) -> Self {
        ServiceMarks { bit: if masquerade == BYPASSES[0] { BYPASSES[1] } else { BYPASSES[0] }, masquerade }
    }

    /// The mark that leads packets past IPVS.
    pub fn bypass(self) -> u32 {
        self.bit
    }

    pub fn is_ours(self, mark: u32) -> bool {
        mark & !(0xff_ffff) == self.bit && mark & self.masquerade == 0
    }

    /// A mark for a ServicePort: the first from where its name points that is not taken. Small numbers of ServicePorts
    /// get the same ones again after a restart, even where nothing is left to adopt.
    pub fn choose(self, name: &ServicePortName, is_taken: impl Fn(u32) -> bool) -> u32 {
        let start = FixedState::default().hash_one(name) as u32;
        let places = 0xff_ffff & !self.masquerade;
        let mut candidates = (0..=0xff_ffff_u32).map(|step| self.bit | start.wrapping_add(step) & places);
        // With all 2^23 of them taken a node has other problems; sharing one is the least of them.
        candidates.find(|mark| *mark != self.bypass() && !is_taken(*mark)).unwrap_or(self.bit | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn names_fit_the_kernel() {
        for (set, family) in Set::ALL.into_iter().flat_map(|set| Family::ALL.map(|family| (set, family))) {
            assert!(set.name(family).len() <= 31, "{}", set.name(family));
            assert_eq!(Set::of_name(set.name(family), family), Some(set));
        }
    }

    /// Those that meet have to be told apart one by one.
    #[test]
    fn marks_seldom_meet_whatever_the_masquerade_bit() {
        let name = |index: u32| ServicePortName {
            namespace: "ns".into(),
            service: format!("s{index}").into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        for bit in [0, 14, 23, 31] {
            let marks = ServiceMarks::new(1 << bit);
            let chosen: std::collections::HashSet<_> =
                (0..1000).map(|index| marks.choose(&name(index), |_| false)).collect();
            assert!(chosen.len() > 995, "bit {bit}: {} of 1000", chosen.len());
        }
    }

    #[test]
    fn marks_keep_clear_of_the_masquerade_bit_and_of_each_other() {
        let name = ServicePortName {
            namespace: "ns".into(),
            service: "web".into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        for bit in 0..32 {
            let marks = ServiceMarks::new(1 << bit);
            let first = marks.choose(&name, |_| false);
            let second = marks.choose(&name, |mark| mark == first);
            assert_ne!(first, second);
            for mark in [first, second] {
                assert!(marks.is_ours(mark) && mark & (1 << bit) == 0, "bit {bit}: {mark:#x}");
            }
        }
    }
}
