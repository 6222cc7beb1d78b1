//! The fixed skeleton: the chains that are always there, what is in them, and the jumps to them from the built-in chains.

use super::dispatch::{Keys, Tree};
use super::names::ChainKey;
use super::observe::Layout;
use super::render::{InvalidPackets, Style};
use crate::kernel::iptables::Table;
use crate::model::{Family, ServiceTable};

/// A chain that is there whatever Services there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BaseChain {
    /// Kept under kube-proxy's name, like the next: monitors look whether it vanishes, as it does in a flush. There is
    /// none in mangle: a table that only holds a canary costs every packet of the node five hooks.
    CanaryFilter,
    CanaryNat,
    /// Kept under kube-proxy's name: hostPort plugins and node firewalls jump to it.
    MarkMasquerade,
    Services,
    ClusterIps,
    NodePorts,
    Postrouting,
    Filter,
    NodePortFilter,
    HealthChecks,
    Forward,
}

impl BaseChain {
    pub const ALL: [BaseChain; 11] = [
        BaseChain::CanaryFilter,
        BaseChain::CanaryNat,
        BaseChain::MarkMasquerade,
        BaseChain::Services,
        BaseChain::ClusterIps,
        BaseChain::NodePorts,
        BaseChain::Postrouting,
        BaseChain::Filter,
        BaseChain::NodePortFilter,
        BaseChain::HealthChecks,
        BaseChain::Forward,
    ];

    pub fn table(self) -> Table {
        match self {
            BaseChain::CanaryFilter
            | BaseChain::Filter
            | BaseChain::NodePortFilter
            | BaseChain::HealthChecks
            | BaseChain::Forward => Table::Filter,
            _ => Table::Nat,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            BaseChain::CanaryFilter | BaseChain::CanaryNat => CANARY,
            BaseChain::MarkMasquerade => MARK_MASQUERADE,
            BaseChain::Services => "FERRO-SERVICES",
            BaseChain::ClusterIps => "FERRO-CLUSTER-IPS",
            BaseChain::NodePorts => "FERRO-NODEPORTS",
            BaseChain::Postrouting => "FERRO-POSTROUTING",
            BaseChain::Filter => "FERRO-FILTER",
            BaseChain::NodePortFilter => "FERRO-FILTER-NODEPORTS",
            BaseChain::HealthChecks => "FERRO-HEALTH-CHECKS",
            BaseChain::Forward => "FERRO-FORWARD",
        }
    }
}

pub const CANARY: &str = "KUBE-PROXY-CANARY";
pub const MARK_MASQUERADE: &str = "KUBE-MARK-MASQ";

/// A rule of a built-in chain that leads to one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    pub table: Table,
    pub chain: &'static str,
    /// As iptables-save prints it.
    pub rule: &'static str,
}

/// In the order in which they stand in each chain. They carry no comment: it is a match more for every packet.
pub const JUMPS: [Jump; 7] = [
    Jump { table: Table::Nat, chain: "PREROUTING", rule: "-j FERRO-SERVICES" },
    Jump { table: Table::Nat, chain: "OUTPUT", rule: "-j FERRO-SERVICES" },
    Jump { table: Table::Nat, chain: "POSTROUTING", rule: "-j FERRO-POSTROUTING" },
    Jump {
        table: Table::Filter,
        chain: "INPUT",
        rule: "-p tcp -m conntrack --ctstate NEW -j FERRO-HEALTH-CHECKS",
    },
    Jump { table: Table::Filter, chain: "INPUT", rule: "-m conntrack --ctstate NEW -j FERRO-FILTER" },
    Jump { table: Table::Filter, chain: "FORWARD", rule: "-j FERRO-FORWARD" },
    Jump { table: Table::Filter, chain: "OUTPUT", rule: "-m conntrack --ctstate NEW -j FERRO-FILTER" },
];

pub static LAYOUT: Layout = Layout {
    tables: &[Table::Filter, Table::Nat],
    guests: &[(Table::Filter, CANARY), (Table::Nat, CANARY), (Table::Nat, MARK_MASQUERADE)],
    jumps: &JUMPS,
};

/// What is in a base chain. It depends on the Services only through the roots of the trees.
pub fn rules(chain: BaseChain, style: &Style, table: &ServiceTable) -> Vec<String> {
    match chain {
        BaseChain::CanaryFilter | BaseChain::CanaryNat => Vec::new(),
        BaseChain::MarkMasquerade => vec![style.set_mark()],
        BaseChain::Services => services(style, table),
        BaseChain::ClusterIps => cluster_ips(style, table),
        BaseChain::NodePorts => node_ports(Tree::NodePort, style, table),
        BaseChain::Postrouting => postrouting(style, table),
        BaseChain::Filter => filter(style, table),
        BaseChain::NodePortFilter => node_ports(Tree::NodePortGuard, style, table),
        BaseChain::HealthChecks => health_checks(table),
        BaseChain::Forward => forward(style),
    }
}

fn services(style: &Style, table: &ServiceTable) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(root) = Keys::new(table, Tree::ClusterIp).root() {
        let network = style.network("-d", &root);
        rules.push(format!("{network}-j {}", BaseChain::ClusterIps.name()));
    }
    rules.extend(enter(Tree::External, style, table));
    rules.extend(enter_node_ports(Tree::NodePort, BaseChain::NodePorts, style, table));
    rules
}

/// Off-cluster clients of ClusterIPs are masqueraded with a constant number of rules: mark first, and take the mark back
/// from what turns out to be for no Service. A mark that somebody else set before stays.
fn cluster_ips(style: &Style, table: &ServiceTable) -> Vec<String> {
    let Some(root) = Keys::new(table, Tree::ClusterIp).root() else { return Vec::new() };
    let root = ChainKey::Node(Tree::ClusterIp, root).name(style.family);
    let everybody = table.node().masquerade_all;
    if !everybody && !style.local.detects(style.family) {
        return vec![format!("-g {root}")];
    }
    let mut rules = Vec::new();
    if !everybody {
        rules.extend(style.local_sources().map(|pods| format!("{pods}-g {root}")));
    }
    rules.push(format!("-m mark --mark {0:#x}/{0:#x} -g {root}", style.mark));
    rules.push(style.set_mark());
    rules.push(format!("-j {root}"));
    rules.push(format!("-j MARK --set-xmark 0x0/{:#x}", style.mark));
    rules
}

fn postrouting(style: &Style, table: &ServiceTable) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(root) = Keys::new(table, Tree::Hairpin).root() {
        let chain = ChainKey::Node(Tree::Hairpin, root).name(style.family);
        rules.push(format!("-m conntrack --ctstate DNAT -j {chain}"));
    }
    rules.push(format!("-m mark ! --mark {0:#x}/{0:#x} -j RETURN", style.mark));
    // The mark has done its work: packets that are encapsulated come here again with it.
    rules.push(format!("-j MARK --set-xmark {:#x}/0x0", style.mark));
    rules.push(style.masquerade().to_owned());
    rules
}

/// What was forwarded has another destination by now; what is left for a guarded frontend is to be refused.
fn filter(style: &Style, table: &ServiceTable) -> Vec<String> {
    let guards = enter(Tree::Guard, style, table).into_iter().chain(enter_node_ports(
        Tree::NodePortGuard,
        BaseChain::NodePortFilter,
        style,
        table,
    ));
    let mut rules: Vec<_> = guards.collect();
    if !rules.is_empty() {
        rules.insert(0, "-m conntrack --ctstate DNAT -j RETURN".to_owned());
    }
    rules
}

fn enter(tree: Tree, style: &Style, table: &ServiceTable) -> Option<String> {
    let root = Keys::new(table, tree).root()?;
    let chain = ChainKey::Node(tree, root).name(style.family);
    Some(format!("{}-j {chain}", style.network("-d", &root)))
}

/// The kernel knows the node's own addresses: nothing has to be polled. Loopback addresses have no NodePorts, as that
/// would need `route_localnet` (CVE-2020-8558).
fn enter_node_ports(tree: Tree, chain: BaseChain, style: &Style, table: &ServiceTable) -> Option<String> {
    Keys::new(table, tree).root()?;
    let loopback = match style.family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    Some(format!("! -d {loopback} -m addrtype --dst-type LOCAL -j {}", chain.name()))
}

fn node_ports(tree: Tree, style: &Style, table: &ServiceTable) -> Vec<String> {
    let Some(root) = Keys::new(table, tree).root() else { return Vec::new() };
    let root = ChainKey::Node(tree, root).name(style.family);
    match table.node().node_ports.networks(style.family) {
        None => vec![format!("-g {root}")],
        Some(networks) => networks
            .iter()
            .map(|network| format!("{}-g {root}", super::render::network("-d", network)))
            .collect(),
    }
}

/// `xt_multiport` takes 15 ports.
fn health_checks(table: &ServiceTable) -> Vec<String> {
    let mut ports: Vec<_> = table.health_checks().values().map(|check| check.node_port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
        .chunks(15)
        .map(|ports| {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("-p tcp -m multiport --dports {} -j ACCEPT", ports.join(","))
        })
        .collect()
}

/// A packet that conntrack calls INVALID is not translated: a reply of an endpoint would reach the client under the
/// endpoint's address, and the client answer with a reset (k8s#74839). Such a packet belongs to no flow that could be
/// asked whether it is ours; that it comes from or goes to a pod is as near as one gets. Dropping all of them would break
/// asymmetric routing through this node (k8s#117924).
/// Packets of established flows, by far the most, leave after two rules at the latest.
fn forward(style: &Style) -> Vec<String> {
    // Only flows of Services, in case the node's policy is to forward nothing: the rest is its owner's business.
    let mut rules = vec![
        "-m conntrack --ctstate DNAT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned(),
    ];
    if style.invalid == InvalidPackets::Drop {
        rules.extend(
            style.of_pods().iter().map(|pods| format!("{pods}-m conntrack --ctstate INVALID -j DROP")),
        );
    }
    rules.push(format!("-m conntrack --ctstate NEW -j {}", BaseChain::Filter.name()));
    rules.push(format!("-m mark --mark {0:#x}/{0:#x} -j ACCEPT", style.mark));
    rules
}
