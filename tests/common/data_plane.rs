//! The ways to forward that the cases are run with.

use ferrovia::lab::flows::FlowTable;
use ferrovia::model::Protocol;
use ferrovia::model::route::{Outcome, Source};

/// What a command line makes the program forward with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    IptablesLegacy,
    IptablesNft,
    Ipvs,
    Nftables,
    /// Captured by nf_tables.
    Userspace,
    /// Captured by iptables, legacy, and sets.
    UserspaceByIptables,
}

impl DataPlane {
    pub const IPTABLES: [DataPlane; 2] = [DataPlane::IptablesLegacy, DataPlane::IptablesNft];

    /// What chooses it on the program's command line.
    pub fn flags(self) -> [&'static str; 6] {
        let mode = match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => "iptables",
            DataPlane::Ipvs => "ipvs",
            DataPlane::Nftables => "nftables",
            DataPlane::Userspace | DataPlane::UserspaceByIptables => "userspace",
        };
        let capture = if self == DataPlane::UserspaceByIptables { "iptables" } else { "nftables" };
        ["--proxy-mode", mode, "--iptables-flavour", self.flavour(), "--userspace-capture", capture]
    }

    /// Of iptables, as in `iptables-FLAVOUR-save`. IPVS needs it for all but forwarding; the guest kernel has no nf_tables
    /// for IPv4 and IPv6.
    pub fn flavour(self) -> &'static str {
        match self {
            DataPlane::IptablesLegacy | DataPlane::Ipvs | DataPlane::UserspaceByIptables => "legacy",
            DataPlane::IptablesNft | DataPlane::Nftables | DataPlane::Userspace => "nft",
        }
    }

    /// The program that prints where it forwards to.
    pub fn listing(self) -> &'static str {
        match self {
            DataPlane::IptablesLegacy => "iptables-legacy-save -t nat",
            DataPlane::IptablesNft => "iptables-nft-save -t nat",
            DataPlane::Ipvs => "ipvsadm -Ln",
            DataPlane::Nftables => "nft list ruleset",
            DataPlane::Userspace | DataPlane::UserspaceByIptables => {
                "curl -sS http://127.0.0.1:10249/metrics"
            }
        }
    }

    /// What becomes of packets to a Service's address on a port that no Service has there.
    pub fn unused(self) -> Outcome {
        match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => Outcome::Untouched,
            _ => Outcome::Reject,
        }
    }

    /// What becomes of packets to an address that no Service has, though Services may get it.
    pub fn unallocated(self) -> Outcome {
        match self {
            DataPlane::Nftables => Outcome::Drop,
            _ => Outcome::Untouched,
        }
    }

    /// What a flow table says of this way to forward. The userspace mode has the exceptions that its README names: endpoints
    /// see this node's address, and SCTP is not spoken.
    pub fn expected(self, table: &FlowTable) -> FlowTable {
        let table = table.clone().with(&Outcome::Unused, &self.unused());
        let mut table = table.with(&Outcome::Unallocated, &self.unallocated());
        if self.is_userspace() {
            table.flows.retain(|flow| flow.protocol != Protocol::Sctp);
            for flow in &mut table.flows {
                if let Outcome::Forward(targets) = &mut flow.outcome {
                    targets.iter_mut().for_each(|target| target.source = Source::Masqueraded);
                    targets.sort();
                }
            }
        }
        table
    }

    /// Whether the process itself carries the connections.
    pub fn is_userspace(self) -> bool {
        matches!(self, DataPlane::Userspace | DataPlane::UserspaceByIptables)
    }

    /// An endpoint, or what it begins with, as the listing has it.
    pub fn listed(self, endpoint: &str) -> String {
        match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => format!("--to-destination {endpoint}"),
            DataPlane::Ipvs => format!("-> {endpoint}"),
            DataPlane::Nftables => format!(": {}", endpoint.replace(':', " . ")),
            DataPlane::Userspace | DataPlane::UserspaceByIptables => format!("endpoint=\"{endpoint}"),
        }
    }
}

/// Makes a test of each case for every way to forward. Those that the kernel of the host may lack are for the guest kernel
/// that `tests/guest.rs` boots.
macro_rules! in_every_mode {
    ($($(#[$attribute:meta])* fn $name:ident($plane:ident: DataPlane) $body:block)*) => {
        crate::common::data_plane::in_every_kernel_mode! {
            $($(#[$attribute])* fn $name($plane: DataPlane) $body)*
        }
        mod userspace {
            $(#[test] fn $name() { super::$name(crate::common::data_plane::DataPlane::Userspace) })*
        }
        mod userspace_by_iptables {
            $(
                #[test]
                fn $name() { super::$name(crate::common::data_plane::DataPlane::UserspaceByIptables) }
            )*
        }
    };
}

/// The same without the userspace mode: what is about flows and clients that outlive the process.
macro_rules! in_every_kernel_mode {
    ($($(#[$attribute:meta])* fn $name:ident($plane:ident: DataPlane) $body:block)*) => {
        crate::common::data_plane::in_both_flavours! {
            $($(#[$attribute])* fn $name($plane: DataPlane) $body)*
        }
        mod nftables {
            $(#[test] fn $name() { super::$name(crate::common::data_plane::DataPlane::Nftables) })*
        }
        mod ipvs {
            $(
                #[test]
                #[ignore = "needs IPVS: the guest kernel runs it"]
                fn $name() { super::$name(crate::common::data_plane::DataPlane::Ipvs) }
            )*
        }
    };
}

/// Makes two tests of each case that is about iptables' own rules, one for each flavour.
macro_rules! in_both_flavours {
    ($($(#[$attribute:meta])* fn $name:ident($plane:ident: DataPlane) $body:block)*) => {
        $($(#[$attribute])* fn $name($plane: DataPlane) $body)*
        mod legacy {
            $(#[test] fn $name() { super::$name(crate::common::data_plane::DataPlane::IptablesLegacy) })*
        }
        mod nft {
            $(#[test] fn $name() { super::$name(crate::common::data_plane::DataPlane::IptablesNft) })*
        }
    };
}

pub(crate) use {in_both_flavours, in_every_kernel_mode, in_every_mode};
