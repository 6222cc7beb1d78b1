//! The fixed skeleton: the chains where packets enter, and the few rules that ask the sets. No Service appears in them.

use ipnet::IpNet;

use super::Settings;
use super::hooks::{
    self, CHAINS, COUNT, COUNT_REPLIES, COUNT_REQUESTS, COUNTING_CHAINS, NODE_ADMISSION, NODE_PORTS,
    NODE_REFUSE, OWN_NODE_ADMISSION, OWN_NODE_PORTS, REFUSE, REJECTION, REMEMBER,
};
use super::names::{Keying, Set};
use super::pods::Pods;
use super::rules;
use super::traffic::Counting;
use crate::kernel::nftables::expression::{
    CtDirection, FibLookup, FibScope, Membership, NatFlags, PacketEnd,
};
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::statement::Mark;
use crate::kernel::nftables::{Chain, Rule, Statement, Value, Verdict};
use crate::model::{Family, ServiceTable};
use crate::modes::iptables::InvalidPackets;

/// Bits of `ct state` and of `ct status`.
const INVALID: u32 = 1;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;
const TRANSLATED: u32 = 32;

/// `--masquerade-all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MasqueradeAll {
    Yes,
    No,
}

/// All that the skeleton depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    family: Family,
    mark: u32,
    invalid: InvalidPackets,
    pods: Pods,
    everybody: MasqueradeAll,
    /// `None` for every address of the node but loopback.
    node_ports: Option<Vec<IpNet>>,
    counting: Counting,
}

/// Where a chain stands. What the node itself sends came in by no interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Prerouting,
    Output,
}

impl Style {
    pub fn new(settings: &Settings, table: &ServiceTable) -> Self {
        let (node, family) = (table.node(), table.family());
        Style {
            family,
            mark: settings.mark,
            invalid: settings.invalid,
            pods: Pods::new(family, &node.local_traffic),
            everybody: if node.masquerade_all { MasqueradeAll::Yes } else { MasqueradeAll::No },
            node_ports: node.node_ports.networks(family),
            counting: settings.counting,
        }
    }

    pub fn counting(&self) -> Counting {
        self.counting
    }

    /// The chains with their rules, in the order of [`CHAINS`].
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let counting = COUNTING_CHAINS.into_iter().filter(|_| self.counting == Counting::On);
        counting.chain(CHAINS).map(|name| (hooks::chain(name), self.rules(name))).collect()
    }

    fn rules(&self, chain: &str) -> Vec<Rule> {
        match chain {
            REMEMBER => self.remember(),
            REJECTION => rules::rejection(self.family),
            NODE_REFUSE => vec![self.rejecting(self.is_in(Set::Reject, Keying::Node))],
            REFUSE => self.refuse(),
            NODE_ADMISSION => self.admission(Keying::Node, Path::Prerouting),
            OWN_NODE_ADMISSION => self.admission(Keying::Node, Path::Output),
            NODE_PORTS => self.dispatch(Keying::Node, Path::Prerouting),
            OWN_NODE_PORTS => self.dispatch(Keying::Node, Path::Output),
            "admission-prerouting" => self.enter_admission(Path::Prerouting),
            "admission-output" => self.enter_admission(Path::Output),
            "prerouting" => self.translate(Path::Prerouting),
            "output" => self.translate(Path::Output),
            "postrouting" => self.postrouting(),
            "filter-forward" => self.forward(),
            COUNT => self.count(),
            COUNT_REQUESTS => self.count_in(Set::Requests),
            COUNT_REPLIES => self.count_in(Set::Replies),
            "count-input" => vec![enter_count([])],
            "count-postrouting" => {
                // What goes to the node itself comes to its input hook yet.
                vec![enter_count([Statement::IsNot(Selector::OutputInterface, Value::interface("lo"))])]
            }
            _ => vec![enter_refuse()],
        }
    }

    fn is_in(&self, set: Set, keying: Keying) -> Statement {
        lookup(keying.selectors(self.family), Membership::In, set, keying)
    }

    /// To the chain of the class that a packet has in a set.
    fn enter_class(&self, set: Set, keying: Keying) -> [Statement; 2] {
        enter(keying.selectors(self.family), set, keying, Set::Classes)
    }

    fn to_address(&self, set: Set) -> Statement {
        lookup(vec![Selector::DestinationAddress(self.family)], Membership::In, set, Keying::Address)
    }

    fn enter_node(&self, chain: &str) -> Vec<Rule> {
        rules::to_node(self.family, self.node_ports.as_deref(), chain)
    }

    fn enter_admission(&self, path: Path) -> Vec<Rule> {
        let mut rules = vec![known()];
        rules.extend(self.admission(Keying::Address, path));
        rules.extend(self.enter_node(match path {
            Path::Prerouting => NODE_ADMISSION,
            Path::Output => OWN_NODE_ADMISSION,
        }));
        rules
    }

    /// Who is dropped.
    fn admission(&self, keying: Keying, path: Path) -> Vec<Rule> {
        let mut rules = Vec::new();
        if keying == Keying::Node {
            let claimed = self.is_in(Set::Claimed, Keying::Address);
            rules.push(Rule::new([claimed, Statement::Verdict(Verdict::Return)]));
        }
        if keying == Keying::Address {
            let mut source = keying.selectors(self.family);
            source.push(Selector::SourceAddress(self.family));
            let outside = lookup(source, Membership::NotIn, Set::SourceRanges, keying);
            rules.push(rules::dropping([self.is_in(Set::Guarded, keying), outside]));
        }
        rules.push(rules::dropping([self.is_in(Set::Drop, keying)]));
        if path == Path::Prerouting {
            let mut matches = self.pods.are_not_the_source(path);
            matches.push(self.is_in(Set::DropOutside, keying));
            rules.push(rules::dropping(matches));
        }
        rules
    }

    fn translate(&self, path: Path) -> Vec<Rule> {
        let is_for_cluster_ip = self.to_address(Set::ClusterIps);
        let masquerade = [is_for_cluster_ip, Statement::SetBits { of: Mark::Packet, bits: self.mark }];
        let mut rules = Vec::new();
        if self.everybody == MasqueradeAll::Yes {
            rules.push(Rule::new(masquerade));
        } else if self.pods.can_be_told() {
            let elsewhere = self.pods.are_not_the_source(path);
            rules.push(Rule::new(elsewhere.into_iter().chain(masquerade).collect::<Vec<_>>()));
        }
        rules.extend(self.dispatch(Keying::Address, path));
        rules.extend(self.enter_node(match path {
            Path::Prerouting => NODE_PORTS,
            Path::Output => OWN_NODE_PORTS,
        }));
        rules
    }

    /// Which packets clients send, and which they receive.
    fn count(&self) -> Vec<Rule> {
        let requests = Statement::Direction(CtDirection::Original);
        vec![
            Rule::new([requests, Statement::Verdict(Verdict::Goto(COUNT_REQUESTS.into()))]),
            Rule::new([Statement::Verdict(Verdict::Goto(COUNT_REPLIES.into()))]),
        ]
    }

    /// By what the connection was opened to, as the dispatch of its first packet: an address before a NodePort.
    fn count_in(&self, set: Set) -> Vec<Rule> {
        let opened_to = |keying| lookup(self.opened_to(keying), Membership::In, set, keying);
        vec![
            Rule::new([opened_to(Keying::Address), Statement::Verdict(Verdict::Return)]),
            Rule::new([opened_to(Keying::Node)]),
        ]
    }

    fn opened_to(&self, keying: Keying) -> Vec<Selector> {
        let address = (keying == Keying::Address).then_some(Selector::OriginalDestination(self.family));
        address.into_iter().chain([Selector::Protocol, Selector::OriginalDestinationPort]).collect()
    }

    fn dispatch(&self, keying: Keying, path: Path) -> Vec<Rule> {
        let short_circuit = |is_pod| {
            let [look_up, go] = self.enter_class(Set::ShortCircuits, keying);
            Rule::new([is_pod, look_up, go])
        };
        // Only first packets of connections come to chains of type nat.
        let counted = (self.counting == Counting::On).then(|| self.is_in(Set::Connections, keying));
        let mut rules: Vec<Rule> = counted.into_iter().map(|counted| Rule::new([counted])).collect();
        rules.extend(self.pods.are_the_source(path).into_iter().map(short_circuit));
        if path == Path::Output {
            rules.push(Rule::new(self.enter_class(Set::OwnShortCircuits, keying)));
        }
        rules.push(Rule::new(self.enter_class(Set::Services, keying)));
        rules
    }

    fn postrouting(&self) -> Vec<Rule> {
        let (mask, flags) = (self.mark, NatFlags { fully_random: true, ..NatFlags::default() });
        let ends = vec![Selector::SourceAddress(self.family), Selector::DestinationAddress(self.family)];
        vec![
            // The mark has done its work: packets that are encapsulated come here again with it.
            Rule::new([
                Statement::Bits { selector: Selector::Mark, mask, value: mask },
                Statement::KeepBits { of: Mark::Packet, bits: !mask },
                Statement::Masquerade(flags),
            ]),
            Rule::new([
                Statement::Any(Selector::CtStatus, TRANSLATED),
                lookup(ends, Membership::In, Set::Hairpin, Keying::Address),
                Statement::Masquerade(flags),
            ]),
        ]
    }

    /// A packet that conntrack calls INVALID is not translated: a reply of an endpoint would reach the client under the
    /// endpoint's address, and the client answer with a reset (k8s#74839). Dropping all of them would break asymmetric
    /// routing through this node (k8s#117924); those of pods are as near to ours as one gets.
    fn forward(&self) -> Vec<Rule> {
        let mut rules = vec![known()];
        if self.invalid == InvalidPackets::Drop {
            let invalid = Statement::Any(Selector::CtState, INVALID);
            let of_pods = self.pods.at_either_end().into_iter();
            rules.extend(
                of_pods.map(|pods| {
                    rules::dropping(pods.into_iter().chain([invalid.clone()]).collect::<Vec<_>>())
                }),
            );
        }
        rules.push(enter_refuse());
        rules
    }

    /// What was forwarded has another destination by now; what still is for a virtual address is served nowhere. What is
    /// for an address that a Service may get one day is dropped, not refused: nobody has said that it will not be served.
    fn refuse(&self) -> Vec<Rule> {
        let translated = Statement::Any(Selector::CtStatus, TRANSLATED);
        let mut rules = vec![
            Rule::new([translated, Statement::Verdict(Verdict::Goto(REMEMBER.into()))]),
            self.rejecting(self.to_address(Set::VirtualIps)),
            self.rejecting(self.is_in(Set::Reject, Keying::Address)),
        ];
        rules.extend(self.enter_node(NODE_REFUSE));
        rules.push(self.unallocated());
        rules
    }

    /// A node that has such an address itself, as for a cache of DNS, is not kept from it.
    fn unallocated(&self) -> Rule {
        let destination = FibLookup { end: PacketEnd::Destination, scope: FibScope::Anywhere };
        let is_elsewhere = Statement::IsNotLocal(Selector::AddressType(destination));
        rules::dropping([self.to_address(Set::ServiceNetworks), is_elsewhere])
    }

    /// Which endpoint the client of a translated connection got. A ClusterIP whose port has the number of a NodePort may be
    /// remembered in vain.
    fn remember(&self) -> Vec<Rule> {
        let rule = |keying| Rule::new(enter(self.opened_to(keying), Set::Sticky, keying, Set::Timeouts));
        vec![rule(Keying::Address), rule(Keying::Node)]
    }

    fn rejecting(&self, what: Statement) -> Rule {
        Rule::new([what, Statement::Verdict(Verdict::Goto(REJECTION.into()))])
    }
}

/// Packets of established flows, by far the most, leave after one rule.
fn known() -> Rule {
    let known = Statement::Any(Selector::CtState, ESTABLISHED | RELATED);
    Rule::new([known, Statement::Verdict(Verdict::Accept)])
}

/// By way of the packet's priority, which what is entered clears. A packet that is in no class keeps its own.
fn enter(key: Vec<Selector>, set: Set, keying: Keying, classes: Set) -> [Statement; 2] {
    let map = classes.name(Keying::Address).into();
    [
        Statement::MapPriority { key, map: set.name(keying).into() },
        Statement::VerdictMap { key: vec![Selector::Priority], map },
    ]
}

/// What was never translated is no Service's.
fn enter_count(matches: impl Into<Vec<Statement>>) -> Rule {
    let mut statements = matches.into();
    statements.push(Statement::Any(Selector::CtStatus, TRANSLATED));
    statements.push(Statement::Verdict(Verdict::Goto(COUNT.into())));
    Rule::new(statements)
}

fn enter_refuse() -> Rule {
    let new = Statement::Any(Selector::CtState, NEW);
    Rule::new([new, Statement::Verdict(Verdict::Jump(REFUSE.into()))])
}

fn lookup(key: Vec<Selector>, membership: Membership, set: Set, keying: Keying) -> Statement {
    Statement::Lookup { key, membership, set: set.name(keying).into() }
}
