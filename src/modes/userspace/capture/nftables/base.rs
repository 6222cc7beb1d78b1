//! The fixed skeleton: the chains where packets enter, and the few rules that ask the sets. No Service appears in them.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::names::SetId;
use crate::kernel::nftables::chain::{ChainKind, Hook};
use crate::kernel::nftables::expression::{CtDirection, Membership};
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::statement::Mark;
use crate::kernel::nftables::{Chain, Rule, Statement, Value, Verdict};
use crate::model::{Family, Protocol, ServiceTable};
use crate::modes::nftables::base::Path;
use crate::modes::nftables::names::Keying;
use crate::modes::nftables::pods::Pods;
use crate::modes::nftables::rules;
use crate::modes::userspace::Settings;
use crate::modes::userspace::capture::Set;
use crate::modes::userspace::sockets::{Ports, listening};

/// After `NF_IP_PRI_NAT_DST`: what somebody else translates, such as a host port or a mode that is about to go, is left to
/// them.
const CAPTURE: i32 = -99;
/// Before anything is translated, when frontends still are what they were sent to.
const ADMISSION: i32 = -110;
const FILTER: i32 = 0;

/// Bits of `ct state`.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;

const REJECTION: &str = "rejection";
const NODE_REFUSE: &str = "node-refuse";
const REFUSE: &str = "refuse";
const NODE_ADMISSION: &str = "node-admission";
const OWN_NODE_ADMISSION: &str = "own-node-admission";
const PROXY: &str = "proxy";
const OWN_PROXY: &str = "own-proxy";
const TO_NODE: &str = "to-node-ports";
const OWN_TO_NODE: &str = "own-to-node-ports";

/// All of them, those that others lead to first.
const CHAINS: [&str; 16] = [
    REJECTION,
    NODE_REFUSE,
    REFUSE,
    NODE_ADMISSION,
    OWN_NODE_ADMISSION,
    PROXY,
    OWN_PROXY,
    TO_NODE,
    OWN_TO_NODE,
    "admission-prerouting",
    "admission-output",
    "prerouting",
    "output",
    "filter-input",
    "filter-forward",
    "filter-output",
];

/// All that the skeleton depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    family: Family,
    mark: u32,
    ports: Ports,
    pods: Pods,
    /// `None` for every address of the node but loopback.
    node_ports: Option<Vec<IpNet>>,
}

impl Style {
    pub fn new(settings: &Settings, table: &ServiceTable) -> Self {
        let (node, family) = (table.node(), table.family());
        Style {
            family,
            mark: settings.mark,
            ports: settings.ports.of(family),
            pods: Pods::new(family, &node.local_traffic),
            node_ports: node.node_ports.networks(family),
        }
    }

    /// The chains with their rules, those first that others lead to.
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        CHAINS.into_iter().map(|name| (chain(name), self.rules(name))).collect()
    }

    fn rules(&self, chain: &str) -> Vec<Rule> {
        match chain {
            REJECTION => rules::rejection(self.family),
            NODE_REFUSE => vec![self.leading(SetId(Set::Reject, Keying::Node), REJECTION)],
            REFUSE => self.refuse(),
            NODE_ADMISSION => self.admission(Keying::Node, Path::Prerouting),
            OWN_NODE_ADMISSION => self.admission(Keying::Node, Path::Output),
            PROXY => self.proxy(),
            OWN_PROXY => self.own_proxy(),
            TO_NODE => vec![self.leading(SetId(Set::Captured, Keying::Node), PROXY)],
            OWN_TO_NODE => vec![self.leading(SetId(Set::Captured, Keying::Node), OWN_PROXY)],
            "admission-prerouting" => self.enter_admission(Path::Prerouting),
            "admission-output" => self.enter_admission(Path::Output),
            "prerouting" => self.prerouting(),
            "output" => self.output(),
            _ => enter_refuse(),
        }
    }

    /// What has a socket already goes there, also when its Service is gone. So do answers of endpoints that see the
    /// client's address: they are for a socket of this process.
    fn prerouting(&self) -> Vec<Rule> {
        let known = Rule::new([Statement::IsTransparent, self.marking(Mark::Packet), accept()]);
        let mut rules = vec![known, self.leading(SetId(Set::Captured, Keying::Address), PROXY), replies()];
        rules.extend(self.leaving_claimed([Set::Reject]));
        rules.extend(self.enter_node(TO_NODE));
        rules
    }

    /// What the node itself sends is routed to the node itself and comes in by `lo`. The connection remembers that, so
    /// that it outlives its Service.
    fn output(&self) -> Vec<Rule> {
        let bits = Statement::Bits { selector: Selector::CtMark, mask: self.mark, value: self.mark };
        let original = Statement::Direction(CtDirection::Original);
        let known = Rule::new([bits, original, self.marking(Mark::Packet), accept()]);
        let captured = self.leading(SetId(Set::Captured, Keying::Address), OWN_PROXY);
        let mut rules = vec![known, captured, replies()];
        rules.extend(self.leaving_claimed([Set::Reject]));
        rules.extend(self.enter_node(OWN_TO_NODE));
        rules
    }

    /// Gives a packet to the listener of its protocol. Pods that are known by their interface have one of their own, as a
    /// socket does not tell by which interface it was reached.
    fn proxy(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let rule = |pods: Option<Statement>, port| {
                let to = SocketAddr::new(listening(self.family), port);
                let is = Statement::Is(Selector::Protocol, Value::protocol(protocol));
                let rest = [is, Statement::TransparentProxy(to), self.marking(Mark::Packet), accept()];
                Rule::new(pods.into_iter().chain(rest).collect::<Vec<_>>())
            };
            if let Some(ports) = self.pods.by_interface() {
                rules.push(rule(Some(ports), self.ports.pods.of(protocol)));
            }
            rules.push(rule(None, self.ports.everybody.of(protocol)));
        }
        rules
    }

    fn own_proxy(&self) -> Vec<Rule> {
        vec![Rule::new([self.marking(Mark::Connection), self.marking(Mark::Packet), accept()])]
    }

    fn marking(&self, of: Mark) -> Statement {
        Statement::SetBits { of, bits: self.mark }
    }

    fn is_captured(&self) -> Statement {
        Statement::Bits { selector: Selector::Mark, mask: self.mark, value: self.mark }
    }

    fn is_in(&self, id: SetId) -> Statement {
        let key = match id {
            SetId(Set::VirtualIps, _) => vec![Selector::DestinationAddress(self.family)],
            SetId(_, keying) => keying.selectors(self.family),
        };
        Statement::Lookup { key, membership: Membership::In, set: id.name().into() }
    }

    fn leading(&self, id: SetId, chain: &str) -> Rule {
        Rule::new([self.is_in(id), Statement::Verdict(Verdict::Goto(chain.into()))])
    }

    fn enter_node(&self, chain: &str) -> Vec<Rule> {
        rules::to_node(self.family, self.node_ports.as_deref(), chain)
    }

    /// What a Service has at an address is no NodePort's, also where the address is one of the node's own.
    fn leaving_claimed(&self, sets: impl IntoIterator<Item = Set>) -> impl Iterator<Item = Rule> {
        let accepting = |set| Rule::new([self.is_in(SetId(set, Keying::Address)), accept()]);
        sets.into_iter().map(accepting)
    }

    fn enter_admission(&self, path: Path) -> Vec<Rule> {
        let known = Statement::Any(Selector::CtState, ESTABLISHED | RELATED);
        // What has the mark was judged when the node sent it.
        let mut rules = vec![Rule::new([known, accept()]), Rule::new([self.is_captured(), accept()])];
        rules.extend(self.admission(Keying::Address, path));
        rules.extend(self.leaving_claimed([Set::Captured, Set::Reject]));
        rules.extend(self.enter_node(match path {
            Path::Prerouting => NODE_ADMISSION,
            Path::Output => OWN_NODE_ADMISSION,
        }));
        rules
    }

    /// Who is dropped: a listener could only refuse.
    fn admission(&self, keying: Keying, path: Path) -> Vec<Rule> {
        let mut rules = Vec::new();
        if keying == Keying::Address {
            let mut key = keying.selectors(self.family);
            key.push(Selector::SourceAddress(self.family));
            let ranges = SetId(Set::SourceRanges, keying).name().into();
            let outside = Statement::Lookup { key, membership: Membership::NotIn, set: ranges };
            rules.push(rules::dropping([self.is_in(SetId(Set::Guarded, keying)), outside]));
        }
        rules.push(rules::dropping([self.is_in(SetId(Set::Drop, keying))]));
        if path == Path::Prerouting {
            let mut matches = self.pods.are_not_the_source(path);
            matches.push(self.is_in(SetId(Set::DropOutside, keying)));
            rules.push(rules::dropping(matches));
        }
        rules
    }

    /// What is captured has the mark by now; what still is for a virtual address is served nowhere.
    fn refuse(&self) -> Vec<Rule> {
        let mut rules = vec![
            Rule::new([self.is_captured(), accept()]),
            self.leading(SetId(Set::VirtualIps, Keying::Address), REJECTION),
            self.leading(SetId(Set::Reject, Keying::Address), REJECTION),
        ];
        rules.extend(self.enter_node(NODE_REFUSE));
        rules
    }
}

fn chain(name: &str) -> Chain {
    let (kind, hook, priority) = match name {
        "admission-prerouting" => (ChainKind::Filter, Hook::Prerouting, ADMISSION),
        "admission-output" => (ChainKind::Filter, Hook::Output, ADMISSION),
        "prerouting" => (ChainKind::Filter, Hook::Prerouting, CAPTURE),
        "output" => (ChainKind::Route, Hook::Output, CAPTURE),
        "filter-input" => (ChainKind::Filter, Hook::Input, FILTER),
        "filter-forward" => (ChainKind::Filter, Hook::Forward, FILTER),
        "filter-output" => (ChainKind::Filter, Hook::Output, FILTER),
        regular => return Chain::regular(regular),
    };
    Chain::base(name, kind, hook, priority)
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

/// A NodePort must not take a reply that has its number (k8s#111682). Nothing replies to a virtual address.
fn replies() -> Rule {
    Rule::new([Statement::Direction(CtDirection::Reply), accept()])
}

/// Nothing is translated, so connection tracking takes a client that goes on sending datagrams to a Service without
/// endpoints for an established flow.
fn enter_refuse() -> Vec<Rule> {
    let jump = || Statement::Verdict(Verdict::Jump(REFUSE.into()));
    let is_udp = Statement::Is(Selector::Protocol, Value::protocol(Protocol::Udp));
    vec![
        Rule::new([Statement::Any(Selector::CtState, NEW), jump()]),
        Rule::new([is_udp, Statement::Direction(CtDirection::Original), jump()]),
    ]
}
