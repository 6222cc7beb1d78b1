//! Chains as rules, exactly as iptables-save prints them, so that what is read back compares equal.

use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;
use ipnet::IpNet;

use super::choose::{self, Choice, Group, Step};
use super::dispatch::{Key, Node, Slot, Tree};
use super::names::{ChainKey, Part, PortId};
use super::path::{Path, Prefix};
use crate::model::{
    Family, Frontend, LocalTraffic, Protocol, Role, ServicePort, ServicePortName, ServiceTable,
    TrafficPolicy, Verdict,
};

/// What the operator chose, and what the iptables at hand can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--iptables-masquerade-bit`: 0 to 31.
    pub masquerade_bit: u8,
    pub ports: MasqueradePorts,
    pub invalid: InvalidPackets,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { masquerade_bit: 14, ports: MasqueradePorts::FullyRandom, invalid: InvalidPackets::Drop }
    }
}

/// How the source port of a masqueraded flow is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasqueradePorts {
    /// Two flows at once seldom take the same port and lose a packet for it (k8s#56903). iptables 1.6.2.
    FullyRandom,
    Hashed,
}

/// What becomes of packets of pods that conntrack finds INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidPackets {
    Drop,
    /// With `nf_conntrack_tcp_be_liberal` conntrack is content with what it would call so.
    Pass,
}

/// All that rendering depends on, other than the chain itself.
#[derive(Clone, Debug)]
pub struct Style {
    pub family: Family,
    pub mark: u32,
    pub ports: MasqueradePorts,
    pub invalid: InvalidPackets,
    pub local: LocalTraffic,
}

impl Style {
    pub fn new(settings: &Settings, table: &ServiceTable) -> Self {
        Style {
            family: table.family(),
            mark: 1 << settings.masquerade_bit,
            ports: settings.ports,
            invalid: settings.invalid,
            local: table.node().local_traffic.clone(),
        }
    }

    pub fn set_mark(&self) -> String {
        format!("-j MARK --set-xmark {0:#x}/{0:#x}", self.mark)
    }

    pub fn masquerade(&self) -> &'static str {
        match self.ports {
            MasqueradePorts::FullyRandom => "-j MASQUERADE --random-fully",
            MasqueradePorts::Hashed => "-j MASQUERADE",
        }
    }

    pub fn host_mask(&self) -> &'static str {
        match self.family {
            Family::V4 => "255.255.255.255",
            Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        }
    }

    /// Matches that together hold for what comes from this node's pods.
    pub fn local_sources(&self) -> impl Iterator<Item = String> {
        match &self.local {
            LocalTraffic::Undetected => Vec::new(),
            LocalTraffic::Sources(networks) => networks
                .iter()
                .filter(|network| self.family.contains(network))
                .map(|pods| network("-s", pods))
                .collect(),
            LocalTraffic::Interface(name) => vec![format!("-i {name} ")],
            LocalTraffic::InterfacePrefix(prefix) => vec![format!("-i {prefix}+ ")],
        }
        .into_iter()
    }

    /// Matches that together hold for what comes from or goes to pods, where pods can be told.
    pub fn of_pods(&self) -> Vec<String> {
        match &self.local {
            LocalTraffic::Undetected => vec![String::new()],
            LocalTraffic::Interface(name) => vec![format!("-i {name} "), format!("-o {name} ")],
            LocalTraffic::InterfacePrefix(prefix) => {
                vec![format!("-i {prefix}+ "), format!("-o {prefix}+ ")]
            }
            LocalTraffic::Sources(networks) => networks
                .iter()
                .filter(|network| self.family.contains(network))
                .flat_map(|pods| ["-s", "-d"].map(|side| network(side, pods)))
                .collect(),
        }
    }

    /// Matches the network of a prefix.
    pub fn network(&self, side: &str, prefix: &Prefix) -> String {
        let address = prefix.first().address(self.family);
        match IpNet::new(address, prefix.network_bits(self.family)) {
            Ok(prefix) => network(side, &prefix),
            Err(_) => String::new(),
        }
    }

    /// A reset is taken at once. An ICMP error that finds its local socket busy connecting is kept as a soft error: the
    /// client hears of it a second later, when its SYN was repeated.
    fn reject(&self, protocol: Protocol) -> &'static str {
        match (protocol, self.family) {
            (Protocol::Tcp, _) => "-j REJECT --reject-with tcp-reset",
            (_, Family::V4) => "-j REJECT --reject-with icmp-port-unreachable",
            (_, Family::V6) => "-j REJECT --reject-with icmp6-port-unreachable",
        }
    }
}

/// `-s` or `-d` with a network and a space after it. iptables-save does not print one that everything is in.
pub fn network(side: &str, network: &IpNet) -> String {
    match network.prefix_len() {
        0 => String::new(),
        _ => format!("{side} {} ", network.trunc()),
    }
}

/// The rules of one chain, on their way out.
pub struct Rules<'a> {
    out: &'a mut dyn Write,
    chain: &'a str,
    which: Which,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Only rules that lead to no other chain.
    ToEndpoints,
}

impl<'a> Rules<'a> {
    pub fn new(out: &'a mut dyn Write, chain: &'a str) -> Self {
        Rules { out, chain, which: Which::All }
    }

    /// Leaves out the rules that lead to other chains, which need not be there.
    pub fn to_endpoints(out: &'a mut dyn Write, chain: &'a str) -> Self {
        Rules { out, chain, which: Which::ToEndpoints }
    }

    pub fn goto(&mut self, rule: fmt::Arguments<'_>) -> fmt::Result {
        match self.which {
            Which::All => self.rule(rule),
            Which::ToEndpoints => Ok(()),
        }
    }

    pub fn rule(&mut self, rule: fmt::Arguments<'_>) -> fmt::Result {
        writeln!(self.out, "-A {} {rule}", self.chain)
    }
}

/// Compares chains without keeping them: a hash over their lines, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash(u64);

impl ContentHash {
    pub fn of(rules: &str) -> Self {
        let mut hash = ContentHash::default();
        rules.lines().for_each(|line| hash.add(line));
        hash
    }

    pub fn add(&mut self, line: &str) {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write_u64(self.0);
        hasher.write(line.as_bytes());
        self.0 = hasher.finish();
    }
}

/// What is in a chain. Small: the rules are made when they are written.
#[derive(Clone, Debug)]
pub enum Content {
    Base(Vec<String>),
    Node(Node),
    External(Arc<ServicePort>),
    Firewall(Arc<ServicePort>),
    Choice(Arc<ServicePort>, Choice),
}

impl Content {
    pub fn render(&self, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
        match self {
            Content::Base(rules) => rules.iter().try_for_each(|rule| out.rule(format_args!("{rule}"))),
            Content::Node(node) => node.slots.iter().try_for_each(|slot| render_slot(node, slot, style, out)),
            Content::External(port) => render_external(port, style, out),
            Content::Firewall(port) => render_firewall(port, style, out),
            Content::Choice(port, choice) => choice.render(port, style, out),
        }
    }

    /// Whom the rule at this place in the chain is for.
    pub fn owner(&self, rule: usize) -> Option<&ServicePortName> {
        match self {
            Content::Base(_) => None,
            Content::Node(node) => match node.slots.get(rule)? {
                Slot::One(key) => key.port.as_deref().map(|port| &port.name),
                Slot::Many(_) => None,
            },
            Content::External(port) | Content::Firewall(port) | Content::Choice(port, _) => Some(&port.name),
        }
    }
}

fn render_slot(node: &Node, slot: &Slot, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
    match slot {
        Slot::Many(child) => {
            let chain = ChainKey::Node(node.tree, *child).name(style.family);
            out.rule(format_args!("{}-g {chain}", narrow(node, child, style)))
        }
        Slot::One(Key { path, port: None }) => {
            let host = IpNet::from(path.address(style.family));
            out.rule(format_args!("-s {host} -d {host} {}", style.masquerade()))
        }
        Slot::One(Key { path, port: Some(port) }) => {
            let reached = |frontend: &&Frontend| Path::of_frontend(&port.key(frontend)) == *path;
            // The tree holds no other keys.
            let Some(frontend) = port.frontends.iter().find(reached) else { return Ok(()) };
            let host = match node.tree {
                Tree::NodePort | Tree::NodePortGuard => String::new(),
                _ => network("-d", &IpNet::from(path.address(style.family))),
            };
            let protocol = port.name.protocol.lowercase();
            let target = Target::of(node.tree, port, frontend).render(port, style);
            // No comment with the ServicePort's name: it made every change 15 % slower in legacy at 10,000 Services.
            out.rule(format_args!("{host}-p {protocol} -m {protocol} --dport {} {target}", path.port()))
        }
    }
}

/// What a child is narrower in than its parent.
fn narrow(node: &Node, child: &Prefix, style: &Style) -> String {
    let family = style.family;
    let side = if node.tree == Tree::Hairpin { "-s" } else { "-d" };
    let mut text = match child.network_bits(family) > node.prefix.network_bits(family) {
        true => style.network(side, child),
        false => String::new(),
    };
    let protocol = child.protocol(family).map(|protocol| protocol.lowercase());
    if let (Some(name), Some((low, high))) = (protocol, child.ports(family)) {
        text += &format!("-p {name} -m {name} --dport {low}:{high} ");
    } else if let Some(name) = protocol {
        text += &format!("-p {name} ");
    }
    text
}

/// What a frontend's rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Goto(Part),
    Reject,
    Drop,
}

impl Target {
    pub fn of(tree: Tree, port: &ServicePort, frontend: &Frontend) -> Target {
        match (tree, port.verdict(frontend)) {
            (Tree::Guard | Tree::NodePortGuard, Verdict::Reject) => Target::Reject,
            (Tree::Guard | Tree::NodePortGuard, _) => Target::Drop,
            (Tree::ClusterIp, Verdict::Forward(policy)) => Target::Goto(whole(policy)),
            _ if port.admits(frontend).is_some() => Target::Goto(Part::Firewall),
            _ => Target::Goto(Part::External),
        }
    }

    fn render(self, port: &ServicePort, style: &Style) -> String {
        match self {
            Target::Goto(part) => {
                format!("-g {}", ChainKey::Port(PortId::of(&port.name), part).name(style.family))
            }
            Target::Reject => style.reject(port.name.protocol).to_owned(),
            Target::Drop => "-j DROP".to_owned(),
        }
    }
}

/// The chain that chooses among all endpoints of a policy.
fn whole(policy: TrafficPolicy) -> Part {
    Part::Choose(policy, Step::Pick, Group::ALL)
}

fn render_external(port: &ServicePort, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
    let id = PortId::of(&port.name);
    let chain = |policy| ChainKey::Port(id, whole(policy)).name(style.family);
    if port.external == Verdict::Forward(TrafficPolicy::Cluster) {
        out.rule(format_args!("{}", style.set_mark()))?;
        return out.rule(format_args!("-g {}", chain(TrafficPolicy::Cluster)));
    }
    if port.short_circuit() {
        let cluster = chain(TrafficPolicy::Cluster);
        for pods in style.local_sources() {
            out.rule(format_args!("{pods}-g {cluster}"))?;
        }
        out.rule(format_args!("-m addrtype --src-type LOCAL {}", style.set_mark()))?;
        out.rule(format_args!("-m addrtype --src-type LOCAL -g {cluster}"))?;
    }
    if port.external == Verdict::Forward(TrafficPolicy::Local) {
        out.rule(format_args!("-g {}", chain(TrafficPolicy::Local)))?;
    }
    Ok(())
}

/// Who is not let through falls out of the nat table as it came, and is dropped by the filter table.
fn render_firewall(port: &ServicePort, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
    let external = ChainKey::Port(PortId::of(&port.name), Part::External).name(style.family);
    let sources = port.load_balancer_sources.as_deref().unwrap_or_default();
    sources
        .iter()
        .filter(|source| style.family.contains(source))
        .try_for_each(|source| out.rule(format_args!("{}-g {external}", network("-s", source))))
}

/// The chains of a ServicePort.
pub fn port_chains(port: &Arc<ServicePort>) -> Vec<(Part, Content)> {
    let mut chains = Vec::new();
    let forwards =
        |role| port.frontends.iter().any(|frontend| Role::of(port, frontend).any(|found| found == role));
    if forwards(Role::External) || forwards(Role::NodePort) {
        chains.push((Part::External, Content::External(Arc::clone(port))));
        if port.frontends.iter().any(|frontend| port.admits(frontend).is_some()) {
            chains.push((Part::Firewall, Content::Firewall(Arc::clone(port))));
        }
    } else if !forwards(Role::ClusterIp) {
        return chains;
    }
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        let choices = choose::choices(port, policy);
        chains.extend(
            choices.into_iter().map(|choice| (choice.part(), Content::Choice(Arc::clone(port), choice))),
        );
    }
    chains
}
