//! What packets of pods need beside routes: the node's address where they leave the cluster, and a way through the node's
//! firewall. It does not matter which proxy mode runs.

mod iptables;
mod nftables;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::kernel::alarm::Ring;
use crate::kernel::iptables::{self as door, Door, Flavour, Programs};
use crate::kernel::nftables::NftablesError;
use crate::kernel::nftables::events::SubscriptionError;
use crate::model::Family;

pub use iptables::{FORWARD, ForwardPolicy, Iptables, MASQUERADE};
pub use nftables::{Nftables, TABLE, render};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the rules of pods")]
    Nftables(#[from] NftablesError),
    #[error("cannot tell who changes the rules of pods")]
    Watch(#[from] SubscriptionError),
    #[error("cannot write the rules of pods")]
    Iptables(#[from] door::Error),
    #[error(
        "there is neither nf_tables in this kernel ({nftables}) nor iptables to masquerade with ({iptables})"
    )]
    Neither { nftables: Box<Error>, iptables: door::Error },
}

/// What the rules of one family say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub family: Family,
    /// Networks of this node's pods.
    pub pods: Vec<IpNet>,
    /// Where pods are seen with their own addresses. As few networks as possible, none overlaps another.
    pub inside: Vec<IpNet>,
}

impl Policy {
    /// `inside` is the cluster and what the operator adds; multicast and link-local packets never leave a segment with an
    /// address that is not theirs.
    pub fn new(family: Family, pods: &[IpNet], inside: impl IntoIterator<Item = IpNet>) -> Self {
        let of_family = |networks: Vec<IpNet>| {
            let mut networks: Vec<_> = networks.into_iter().filter(|net| family.contains(net)).collect();
            networks.sort_unstable();
            networks
        };
        let inside: Vec<IpNet> =
            inside.into_iter().chain(pods.iter().copied()).chain(never(family)).collect();
        let mut inside = of_family(IpNet::aggregate(&of_family(inside)));
        inside.dedup();
        Policy { family, pods: of_family(pods.to_vec()), inside }
    }

    /// Adds what another one has inside.
    pub fn widen(&mut self, other: &Policy) {
        if other.inside.iter().all(|network| self.has_inside(network)) {
            return;
        }
        let inside = self.inside.iter().chain(&other.inside).copied().collect::<Vec<_>>();
        *self = Policy::new(self.family, &self.pods, inside);
    }

    /// Whether a network is part of one of `inside`, which are sorted and do not overlap.
    fn has_inside(&self, network: &IpNet) -> bool {
        let later = self.inside.partition_point(|inside| inside.network() <= network.network());
        later.checked_sub(1).is_some_and(|index| self.inside[index].contains(network))
    }
}

fn never(family: Family) -> Vec<IpNet> {
    match family {
        Family::V4 => vec![
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
            IpNet::from(IpAddr::from(Ipv4Addr::BROADCAST)),
        ],
        Family::V6 => vec![
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
        ],
    }
}

/// The rules of one family.
pub struct Firewall {
    family: Family,
    masquerade: Masquerade,
    /// One for each flavour of iptables that is installed: any of them may drop what is forwarded.
    forward: Vec<Iptables<Programs>>,
}

enum Masquerade {
    Nftables(Nftables),
    Iptables(Box<Iptables<Programs>>),
}

/// What one sync of rules did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    Nothing,
    Rules,
    /// The same as before, as somebody else had changed them.
    Repair,
}

impl Firewall {
    /// With nf_tables where the kernel has it, else with iptables, of this flavour if one is asked for.
    pub fn open(family: Family, flavour: Option<Flavour>) -> Result<Self, Error> {
        let masquerade = match Nftables::open(family) {
            Ok(nftables) => Masquerade::Nftables(nftables),
            Err(error) => {
                let programs = Programs::usable(family, flavour)
                    .map_err(|iptables| Error::Neither { nftables: Box::new(error), iptables })?;
                Masquerade::Iptables(Box::new(Iptables::new(programs, MASQUERADE)))
            }
        };
        let mut doors = Programs::installed(family);
        doors.retain_mut(|door| door.stamp().is_ok());
        let forward = doors.into_iter().map(|door| Iptables::new(door, FORWARD)).collect();
        Ok(Firewall { family, masquerade, forward })
    }

    pub fn facility(&self) -> &'static str {
        match self.masquerade {
            Masquerade::Nftables(_) => "nftables",
            Masquerade::Iptables(_) => "iptables",
        }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// Makes the rules say what they should, whoever changed them.
    pub fn sync(&mut self, policy: &Policy) -> Result<Written, Error> {
        let masquerade = match &mut self.masquerade {
            Masquerade::Nftables(nftables) => nftables.sync(policy)?,
            Masquerade::Iptables(iptables) => iptables.sync(policy)?,
        };
        let mut written = masquerade;
        for iptables in &mut self.forward {
            written = written.max(iptables.sync(policy)?);
        }
        Ok(written)
    }

    /// Rings whenever somebody else may have changed rules, where the kernel tells: of nf_tables, to which iptables-nft
    /// belongs.
    pub fn alert(&mut self, ring: Ring) -> io::Result<()> {
        match &mut self.masquerade {
            Masquerade::Nftables(nftables) => nftables.alert(ring),
            Masquerade::Iptables(_) => Ok(()),
        }
    }
}

/// Takes all of it out again, both families and flavours. Goes on after an error; returns all.
pub fn cleanup() -> Vec<Error> {
    let mut errors = Vec::new();
    for family in Family::ALL {
        errors.extend(nftables::remove(family).err());
        for part in [MASQUERADE, FORWARD] {
            for door in Programs::installed(family) {
                errors.extend(Iptables::new(door, part).remove().err());
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(inside: &[&str]) -> Policy {
        let inside = inside.iter().map(|text| text.parse::<IpNet>().unwrap());
        Policy::new(Family::V4, &["10.244.1.0/24".parse().unwrap()], inside)
    }

    #[test]
    fn a_policy_is_widened_by_what_it_has_not_yet() {
        let wide = policy(&["10.244.2.0/24", "10.244.3.0/24", "172.18.0.2/32"]);
        let (before, mut same) = (policy(&["10.244.2.0/24"]), wide.clone());
        same.widen(&before);
        assert_eq!(same, wide, "it has that already, as part of a larger one");
        let mut narrow = policy(&["172.18.0.2/32"]);
        narrow.widen(&policy(&["10.244.3.0/24", "10.244.2.0/24"]));
        assert_eq!(narrow, wide);
    }
}
