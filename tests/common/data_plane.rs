//! The ways to forward that the cases are run with.

use ferrovia::model::route::Outcome;

/// What a command line makes the program forward with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    IptablesLegacy,
    IptablesNft,
    Ipvs,
    Nftables,
}

impl DataPlane {
    pub const IPTABLES: [DataPlane; 2] = [DataPlane::IptablesLegacy, DataPlane::IptablesNft];

    /// What chooses it on the program's command line.
    pub fn flags(self) -> [&'static str; 4] {
        let mode = match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => "iptables",
            DataPlane::Ipvs => "ipvs",
            DataPlane::Nftables => "nftables",
        };
        ["--proxy-mode", mode, "--iptables-flavour", self.flavour()]
    }

    /// Of iptables, as in `iptables-FLAVOUR-save`. IPVS needs it for all but forwarding; the guest kernel has no nf_tables
    /// for IPv4 and IPv6.
    pub fn flavour(self) -> &'static str {
        match self {
            DataPlane::IptablesLegacy | DataPlane::Ipvs => "legacy",
            DataPlane::IptablesNft | DataPlane::Nftables => "nft",
        }
    }

    /// The program that prints where it forwards to.
    pub fn listing(self) -> &'static str {
        match self {
            DataPlane::IptablesLegacy => "iptables-legacy-save -t nat",
            DataPlane::IptablesNft => "iptables-nft-save -t nat",
            DataPlane::Ipvs => "ipvsadm -Ln",
            DataPlane::Nftables => "nft list ruleset",
        }
    }

    /// What becomes of packets to a Service's address on a port that no Service has there.
    pub fn unused(self) -> Outcome {
        match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => Outcome::Untouched,
            DataPlane::Ipvs | DataPlane::Nftables => Outcome::Reject,
        }
    }

    /// What becomes of packets to an address that no Service has, though Services may get it.
    pub fn unallocated(self) -> Outcome {
        match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft | DataPlane::Ipvs => Outcome::Untouched,
            DataPlane::Nftables => Outcome::Drop,
        }
    }

    /// An endpoint, or what it begins with, as the listing has it.
    pub fn listed(self, endpoint: &str) -> String {
        match self {
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => format!("--to-destination {endpoint}"),
            DataPlane::Ipvs => format!("-> {endpoint}"),
            DataPlane::Nftables => format!(": {}", endpoint.replace(':', " . ")),
        }
    }
}

/// Makes a test of each case for every way to forward. Those that the kernel of the host may lack are for the guest kernel
/// that `tests/guest.rs` boots.
macro_rules! in_every_mode {
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

pub(crate) use {in_both_flavours, in_every_mode};
