//! The fixed skeleton: the few rules of iptables that ask the sets. They say what those of nf_tables say.

use ipnet::IpNet;

use super::names::{At, SetId};
use crate::kernel::iptables::Table;
use crate::model::{Family, LocalTraffic, Protocol, ServiceTable};
use crate::modes::iptables::{Jump, Layout, network};
use crate::modes::skeleton::{Chain, Needs};
use crate::modes::userspace::Settings;
use crate::modes::userspace::capture::Set;
use crate::modes::userspace::sockets::{Ports, listening};

/// Capturing comes before everybody's dnat, as TPROXY is to be had in the mangle table alone.
const JUMPS: [Jump; 8] = [
    Jump { table: Table::Mangle, chain: "PREROUTING", rule: "-j FERRO-CAPTURE" },
    Jump { table: Table::Mangle, chain: "OUTPUT", rule: "-j FERRO-CAPTURE-OWN" },
    Jump { table: Table::Filter, chain: "INPUT", rule: NEW },
    Jump { table: Table::Filter, chain: "INPUT", rule: UDP },
    Jump { table: Table::Filter, chain: "FORWARD", rule: NEW },
    Jump { table: Table::Filter, chain: "FORWARD", rule: UDP },
    Jump { table: Table::Filter, chain: "OUTPUT", rule: NEW },
    Jump { table: Table::Filter, chain: "OUTPUT", rule: UDP },
];
const NEW: &str = "-m conntrack --ctstate NEW -j FERRO-REFUSE";
/// Nothing is translated, so connection tracking takes a client that goes on sending datagrams to a Service without
/// endpoints for an established flow.
const UDP: &str = "-p udp -m conntrack --ctdir ORIGINAL -j FERRO-REFUSE";

/// All tables, as the chains that another mode left in nat go with what is written.
static LAYOUT: Layout = Layout { tables: &Table::ALL, guests: &[], jumps: &JUMPS };

/// Of all chains. No other mode has one of these names.
pub const CHAINS: [&str; 15] = [
    "FERRO-CAPTURE",
    "FERRO-CAPTURE-NODE",
    "FERRO-CAPTURE-OWN",
    "FERRO-CAPTURE-OWN-NODE",
    "FERRO-GUARD",
    "FERRO-GUARD-NODE",
    "FERRO-GUARD-OWN",
    "FERRO-GUARD-OWN-NODE",
    "FERRO-OUTSIDE",
    "FERRO-KNOWN",
    "FERRO-PROXY",
    "FERRO-PROXY-OWN",
    "FERRO-REFUSE",
    "FERRO-REFUSE-NODE",
    "FERRO-REJECTION",
];

/// All that the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    family: Family,
    mark: u32,
    ports: Ports,
    pods: LocalTraffic,
    /// `None` for every address of the node but loopback.
    node_ports: Option<Vec<IpNet>>,
}

/// Where a packet is met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Prerouting,
    Output,
}

impl Needs for Style {
    type Settings = Settings;

    const LAYOUT: &'static Layout = &LAYOUT;

    fn of(settings: &Settings, table: &ServiceTable) -> Self {
        let (node, family) = (table.node(), table.family());
        Style {
            family,
            mark: settings.mark,
            ports: settings.ports.of(family),
            pods: node.local_traffic.clone(),
            node_ports: node.node_ports.networks(family),
        }
    }

    fn chains(&self) -> Vec<Chain> {
        let chain = |table, name, rules| Chain { table, name, rules };
        vec![
            chain(Table::Mangle, "FERRO-CAPTURE", self.capture()),
            chain(Table::Mangle, "FERRO-CAPTURE-NODE", self.at_node(Set::Captured, "-g FERRO-PROXY")),
            chain(Table::Mangle, "FERRO-CAPTURE-OWN", self.capture_own()),
            chain(Table::Mangle, "FERRO-CAPTURE-OWN-NODE", self.at_node(Set::Captured, "-g FERRO-PROXY-OWN")),
            chain(Table::Mangle, "FERRO-GUARD", self.guard(Path::Prerouting)),
            chain(Table::Mangle, "FERRO-GUARD-NODE", self.guard_node(Path::Prerouting)),
            chain(Table::Mangle, "FERRO-GUARD-OWN", self.guard(Path::Output)),
            chain(Table::Mangle, "FERRO-GUARD-OWN-NODE", self.guard_node(Path::Output)),
            chain(Table::Mangle, "FERRO-OUTSIDE", self.outside()),
            chain(Table::Mangle, "FERRO-KNOWN", vec![self.marking("MARK")]),
            chain(Table::Mangle, "FERRO-PROXY", self.proxy()),
            chain(Table::Mangle, "FERRO-PROXY-OWN", vec![self.marking("CONNMARK"), self.marking("MARK")]),
            chain(Table::Filter, "FERRO-REFUSE", self.refuse()),
            chain(Table::Filter, "FERRO-REFUSE-NODE", self.at_node(Set::Reject, "-j FERRO-REJECTION")),
            chain(Table::Filter, "FERRO-REJECTION", self.rejection()),
        ]
    }

    fn is_ours(chain: &str) -> bool {
        chain.starts_with("FERRO-")
    }
}

impl Style {
    /// What has a socket already goes there, also when its Service is gone. So do answers of endpoints that see the
    /// client's address. What somebody else has translated is theirs: a mode that was here before is about to go, and its
    /// connections go on.
    fn capture(&self) -> Vec<String> {
        let mark = self.mark;
        let mut rules = vec![
            "-m socket --transparent -g FERRO-KNOWN".to_owned(),
            "-m conntrack --ctstate DNAT -j RETURN".to_owned(),
            // What has the mark was judged when the node sent it.
            format!(
                "-m mark ! --mark {mark:#x}/{mark:#x} -m conntrack ! --ctstate RELATED,ESTABLISHED -j FERRO-GUARD"
            ),
        ];
        rules.extend(self.capturing("FERRO-PROXY", "FERRO-CAPTURE-NODE"));
        rules
    }

    /// What the node itself sends is routed to the node itself and comes in by `lo`. The connection remembers that, so
    /// that it outlives its Service.
    fn capture_own(&self) -> Vec<String> {
        let mark = self.mark;
        let mut rules = vec![
            format!("-m connmark --mark {mark:#x}/{mark:#x} -m conntrack --ctdir ORIGINAL -g FERRO-KNOWN"),
            "-m conntrack --ctstate DNAT -j RETURN".to_owned(),
            "-m conntrack ! --ctstate RELATED,ESTABLISHED -j FERRO-GUARD-OWN".to_owned(),
        ];
        rules.extend(self.capturing("FERRO-PROXY-OWN", "FERRO-CAPTURE-OWN-NODE"));
        rules
    }

    /// A NodePort must not take a reply that has its number (k8s#111682). What a Service has at an address is no
    /// NodePort's, also where the address is one of the node's own.
    fn capturing(&self, proxy: &str, node: &str) -> Vec<String> {
        let mut rules = vec![
            format!("{} -g {proxy}", self.is_in(Set::Captured)),
            "-m conntrack --ctdir REPLY -j RETURN".to_owned(),
            format!("{} -j RETURN", self.is_in(Set::Reject)),
        ];
        rules.extend(self.enter_node("-g", node));
        rules
    }

    /// Who is dropped: a listener could only refuse.
    fn guard(&self, path: Path) -> Vec<String> {
        let ranges = SetId(Set::SourceRanges, At::Address).name(self.family);
        let guarded = self.is_in(Set::Guarded);
        let mut rules = vec![
            format!("{guarded} -m set ! --match-set {ranges} dst,dst,src -j DROP"),
            format!("{} -j DROP", self.is_in(Set::Drop)),
        ];
        if path == Path::Prerouting {
            rules.push(format!("{} -j FERRO-OUTSIDE", self.is_in(Set::DropOutside)));
        }
        rules.push(format!("{} -j RETURN", self.is_in(Set::Captured)));
        rules.push(format!("{} -j RETURN", self.is_in(Set::Reject)));
        rules.extend(self.enter_node(
            "-g",
            match path {
                Path::Prerouting => "FERRO-GUARD-NODE",
                Path::Output => "FERRO-GUARD-OWN-NODE",
            },
        ));
        rules
    }

    fn guard_node(&self, path: Path) -> Vec<String> {
        let mut rules = self.at_node(Set::Drop, "-j DROP");
        if path == Path::Prerouting {
            rules.extend(self.at_ports(Set::DropOutside, "-j FERRO-OUTSIDE"));
        }
        rules
    }

    /// Everybody but pods of this node. The node itself does not come this way.
    fn outside(&self) -> Vec<String> {
        let mut rules: Vec<_> = self.pods().into_iter().map(|pods| format!("{pods}-j RETURN")).collect();
        rules.push("-j DROP".to_owned());
        rules
    }

    /// Gives a packet to the listener of its protocol. Pods that are known by their interface have one of their own, as a
    /// socket does not tell by which interface it was reached.
    fn proxy(&self) -> Vec<String> {
        let by_interface = match &self.pods {
            LocalTraffic::Undetected | LocalTraffic::Sources(_) => Vec::new(),
            LocalTraffic::Interface(_) | LocalTraffic::InterfacePrefix(_) => self.pods(),
        };
        let mut rules = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let rule = |pods: &str, port| {
                let (to, mark) = (listening(self.family), self.mark);
                format!(
                    "{pods}-p {} -j TPROXY --on-port {port} --on-ip {to} --tproxy-mark {mark:#x}/{mark:#x}",
                    protocol.lowercase()
                )
            };
            rules.extend(by_interface.iter().map(|pods| rule(pods, self.ports.pods.of(protocol))));
            rules.push(rule("", self.ports.everybody.of(protocol)));
        }
        rules
    }

    /// What is captured has the mark by now; what still is for a virtual address is served nowhere.
    fn refuse(&self) -> Vec<String> {
        let virtual_ips = SetId(Set::VirtualIps, At::Address).name(self.family);
        let mut rules = vec![
            format!("-m mark --mark {0:#x}/{0:#x} -j RETURN", self.mark),
            format!("-m set --match-set {virtual_ips} dst -j FERRO-REJECTION"),
            format!("{} -j FERRO-REJECTION", self.is_in(Set::Reject)),
        ];
        rules.extend(self.enter_node("-j", "FERRO-REFUSE-NODE"));
        rules
    }

    /// A reset is taken at once, and what has no ports, such as ping, is left alone.
    fn rejection(&self) -> Vec<String> {
        let unreachable = match self.family {
            Family::V4 => "icmp-port-unreachable",
            Family::V6 => "icmp6-port-unreachable",
        };
        vec![
            "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
            format!("-p udp -j REJECT --reject-with {unreachable}"),
            format!("-p sctp -j REJECT --reject-with {unreachable}"),
        ]
    }

    /// Of the sets of addresses and ports.
    fn is_in(&self, set: Set) -> String {
        format!("-m set --match-set {} dst,dst", SetId(set, At::Address).name(self.family))
    }

    /// The kernel knows the node's own addresses.
    fn enter_node(&self, how: &str, chain: &str) -> Vec<String> {
        let rule = |network: &str| format!("{network}-m addrtype --dst-type LOCAL {how} {chain}");
        match &self.node_ports {
            None => vec![rule("")],
            Some(networks) => networks.iter().map(|of| rule(&network("-d", of))).collect(),
        }
    }

    /// Loopback has sockets of its own.
    fn at_node(&self, set: Set, action: &str) -> Vec<String> {
        let loopback = match self.family {
            Family::V4 => "-d 127.0.0.0/8 -j RETURN",
            Family::V6 => "-d ::1/128 -j RETURN",
        };
        std::iter::once(loopback.to_owned()).chain(self.at_ports(set, action)).collect()
    }

    fn at_ports(&self, set: Set, action: &str) -> Vec<String> {
        let rule = |protocol: Protocol| {
            let name = SetId(set, At::Node(protocol)).name(self.family);
            format!("-p {} -m set --match-set {name} dst {action}", protocol.lowercase())
        };
        [Protocol::Tcp, Protocol::Udp].map(rule).into()
    }

    /// Matches that together hold for what comes from this node's pods.
    fn pods(&self) -> Vec<String> {
        match &self.pods {
            LocalTraffic::Undetected => Vec::new(),
            LocalTraffic::Sources(networks) => {
                let own = networks.iter().filter(|network| self.family.contains(network));
                own.map(|pods| network("-s", pods)).collect()
            }
            LocalTraffic::Interface(name) => vec![format!("-i {name} ")],
            LocalTraffic::InterfacePrefix(prefix) => vec![format!("-i {prefix}+ ")],
        }
    }

    fn marking(&self, target: &str) -> String {
        format!("-j {target} --set-xmark {0:#x}/{0:#x}", self.mark)
    }
}
