//! Legacy or nft: which of the two iptables this machine uses. Rules in the other one are invisible to its users.

use std::env;
use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;

use iptables::IPTables;

use super::Error;
use crate::model::Family;

/// The two implementations of iptables. Both can be installed; a node must use one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The original, x_tables in the kernel.
    Legacy,
    /// iptables on top of nf_tables.
    Nft,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Legacy => "legacy",
            Flavour::Nft => "nft",
        })
    }
}

/// A name that is not a flavour.
#[derive(Debug, thiserror::Error)]
#[error("unknown iptables flavour {0:?}: it is legacy or nft")]
pub struct ParseFlavourError(String);

impl FromStr for Flavour {
    type Err = ParseFlavourError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "legacy" => Ok(Flavour::Legacy),
            "nft" => Ok(Flavour::Nft),
            _ => Err(ParseFlavourError(text.to_owned())),
        }
    }
}

impl Flavour {
    pub fn other(self) -> Flavour {
        match self {
            Flavour::Legacy => Flavour::Nft,
            Flavour::Nft => Flavour::Legacy,
        }
    }

    /// Finds the flavour in use as kubernetes-sigs/iptables-wrappers does: by the chains that kubelet leaves for this
    /// purpose (KEP-3178), first in nft, IPv4 and IPv6, then in legacy; without a trace, nft.
    pub fn detect() -> Result<Flavour, Error> {
        let nft = Variant::find(Family::V4, Flavour::Nft);
        let legacy = Variant::find(Family::V4, Flavour::Legacy);
        match (nft, legacy) {
            (Err(missing), Err(_)) => Err(missing),
            (Ok(_), Err(_)) => Ok(Flavour::Nft),
            (Err(_), Ok(_)) => Ok(Flavour::Legacy),
            (Ok(_), Ok(_)) if has_hint(Flavour::Nft) => Ok(Flavour::Nft),
            (Ok(_), Ok(_)) if has_hint(Flavour::Legacy) => Ok(Flavour::Legacy),
            (Ok(_), Ok(_)) => Ok(Flavour::Nft),
        }
    }
}

fn has_hint(flavour: Flavour) -> bool {
    Family::ALL.into_iter().any(|family| {
        let Ok(variant) = Variant::find(family, flavour) else { return false };
        let mut save = Command::new(variant.save);
        // Asked for by name, legacy would create the mangle table; unasked it prints the tables that exist.
        if flavour == Flavour::Nft {
            save.args(["-t", "mangle"]);
        }
        let output = save.stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.is_ok_and(|output| is_hint(&String::from_utf8_lossy(&output.stdout)))
    })
}

fn is_hint(saved: &str) -> bool {
    saved
        .lines()
        .any(|line| line.starts_with(":KUBE-IPTABLES-HINT ") || line.starts_with(":KUBE-KUBELET-CANARY "))
}

/// The programs of one family and flavour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub flavour: Flavour,
    pub iptables: &'static str,
    pub save: &'static str,
    pub restore: &'static str,
}

impl Variant {
    /// By the flavour's own names, or by the plain ones where these are of that flavour.
    pub(super) fn find(family: Family, flavour: Flavour) -> Result<Self, Error> {
        let named = Variant::named(family, flavour);
        if on_path(named.restore) && on_path(named.save) {
            return Ok(named);
        }
        let plain = Variant::plain(family, flavour);
        let is_nft = || plain.describe().is_some_and(|text| text.contains("nf_tables"));
        if on_path(plain.restore) && on_path(plain.save) && is_nft() == (flavour == Flavour::Nft) {
            return Ok(plain);
        }
        Err(Error::Missing(named.restore))
    }

    fn named(family: Family, flavour: Flavour) -> Self {
        let (iptables, save, restore) = match (family, flavour) {
            (Family::V4, Flavour::Legacy) => {
                ("iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore")
            }
            (Family::V4, Flavour::Nft) => ("iptables-nft", "iptables-nft-save", "iptables-nft-restore"),
            (Family::V6, Flavour::Legacy) => {
                ("ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore")
            }
            (Family::V6, Flavour::Nft) => ("ip6tables-nft", "ip6tables-nft-save", "ip6tables-nft-restore"),
        };
        Variant { flavour, iptables, save, restore }
    }

    fn plain(family: Family, flavour: Flavour) -> Self {
        let (iptables, save, restore) = match family {
            Family::V4 => ("iptables", "iptables-save", "iptables-restore"),
            Family::V6 => ("ip6tables", "ip6tables-save", "ip6tables-restore"),
        };
        Variant { flavour, iptables, save, restore }
    }

    /// `iptables v1.8.9 (nf_tables)`. Releases before 1.8 are legacy and name no flavour.
    fn describe(&self) -> Option<String> {
        let program = IPTables { cmd: self.iptables, has_check: true, has_wait: false, is_numeric: false };
        let output = program.execute("filter", "--version").ok()?;
        String::from_utf8(output.stdout).ok()
    }

    pub(super) fn version(&self) -> Option<(u32, u32, u32)> {
        parse_version(&self.describe()?)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let number = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("iptables v1.8.9 (nf_tables)\n"), Some((1, 8, 9)));
        assert!(parse_version("iptables v1.8.10 (legacy)") > parse_version("iptables v1.8.9"));
        assert_eq!(parse_version("iptables"), None);
    }

    #[test]
    fn only_the_chains_of_kubelet_are_hints() {
        assert!(is_hint("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"));
        assert!(!is_hint("*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n"));
    }
}
