//! Taking rules out again: our own, and what kube-proxy left.

use std::collections::HashSet;
use std::fmt;

use super::base::{CANARY, MARK_MASQUERADE};
use super::names::OURS;
use super::observe::leads_to;
use crate::kernel::iptables::{Door, Error, Input, Table};

/// Removes everything that this mode may have created, and nothing else. `KUBE-MARK-MASQ` stays while somebody uses it.
pub fn remove_ours(door: &mut impl Door) -> Result<(), Error> {
    let is_ours = |chain: &str| chain.starts_with(OURS) || chain == CANARY;
    remove(door, is_ours, |chain| chain == MARK_MASQUERADE)
}

/// Removes one chain and what leads to it.
pub fn remove_chain(door: &mut impl Door, name: &str) -> Result<(), Error> {
    remove(door, |chain| chain == name, |_| false)
}

/// Removes what kube-proxy's iptables mode leaves behind, and the chains of its IPVS mode. To be called when our rules are in: a change from kube-proxy
/// then loses no connection. Chains that kubelet has, or that others lead to, are not touched.
pub fn remove_kube_proxy(door: &mut impl Door) -> Result<(), Error> {
    remove(door, is_kube_proxys, |_| false)
}

pub fn is_kube_proxys(chain: &str) -> bool {
    const FIXED: [&str; 11] = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-FORWARD",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-PROXY-FIREWALL",
        "KUBE-NODE-PORT",
        "KUBE-LOAD-BALANCER",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    ];
    const PER_SERVICE: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];
    FIXED.contains(&chain) || PER_SERVICE.iter().any(|prefix| chain.starts_with(prefix))
}

fn remove(
    door: &mut impl Door,
    doomed: impl Fn(&str) -> bool,
    if_unused: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    for table in Table::ALL {
        let mut removal = Removal::new(table);
        door.save(table, &mut |line| removal.add(line, &doomed, &if_unused))?;
        removal.settle();
        if !removal.chains.is_empty() {
            door.restore(&removal)?;
        }
    }
    Ok(())
}

/// Which chains of a table go, and which rules of others lead to them and go too.
struct Removal {
    table: Table,
    chains: Vec<String>,
    spared: Vec<String>,
    rules: Vec<String>,
    used: HashSet<String>,
}

impl Removal {
    fn new(table: Table) -> Self {
        Removal { table, chains: vec![], spared: vec![], rules: vec![], used: HashSet::new() }
    }

    fn add(&mut self, line: &str, doomed: &impl Fn(&str) -> bool, if_unused: &impl Fn(&str) -> bool) {
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if doomed(name) {
                self.chains.push(name.to_owned());
            } else if if_unused(name) {
                self.spared.push(name.to_owned());
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
            && !doomed(chain)
            && let Some(target) = leads_to(rule)
        {
            if doomed(target) {
                self.rules.push(format!("{chain} {rule}"));
            } else if if_unused(target) {
                self.used.insert(target.to_owned());
            }
        }
    }

    fn settle(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.chains.extend(self.spared.drain(..).filter(|chain| !used.contains(chain)));
    }
}

impl Input for Removal {
    fn commits(&self) -> u32 {
        1
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        self.chains.iter().try_for_each(|chain| writeln!(f, ":{chain} - [0:0]"))?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "-D {rule}"))?;
        self.chains.iter().try_for_each(|chain| writeln!(f, "-X {chain}"))?;
        f.write_str("COMMIT\n")
    }
}
