//! The fixed skeleton: the few rules of iptables that ask the sets. No Service appears in them, so no change of a Service
//! starts a program.

use super::names::{ServiceMarks, Set};
use crate::kernel::iptables::Table;
use crate::model::Family;
use crate::modes::iptables::{self, CANARY, InvalidPackets, Jump, Layout, MARK_MASQUERADE, Style};
use crate::modes::skeleton::Chain;

/// The chains of the table that no other mode writes to.
pub const ADMISSION: &str = "FERRO-ADMISSION";
pub const REPLIES: &str = "FERRO-REPLIES";

/// In the order in which they stand in each chain.
const JUMPS: [Jump; 10] = {
    let [prerouting, output, postrouting, health_checks, input, forward, filter_output] = iptables::JUMPS;
    [
        Jump {
            table: Table::Mangle,
            chain: "PREROUTING",
            rule: "-m conntrack --ctstate NEW -j FERRO-ADMISSION",
        },
        Jump {
            table: Table::Mangle,
            chain: "PREROUTING",
            rule: "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j FERRO-REPLIES",
        },
        Jump { table: Table::Mangle, chain: "OUTPUT", rule: "-m conntrack --ctstate NEW -j FERRO-ADMISSION" },
        prerouting,
        output,
        postrouting,
        health_checks,
        input,
        forward,
        filter_output,
    ]
};

pub static LAYOUT: Layout = Layout { tables: &Table::ALL, guests: iptables::LAYOUT.guests, jumps: &JUMPS };

pub fn is_ours(chain: &str) -> bool {
    chain.starts_with("FERRO-") || matches!(chain, CANARY | MARK_MASQUERADE)
}

/// Everything that depends on the node and its settings alone.
pub fn chains(style: &Style, everybody: MasqueradeAll) -> Vec<Chain> {
    let chain = |table, name, rules| Chain { table, name, rules };
    vec![
        chain(Table::Mangle, ADMISSION, admission(style)),
        chain(Table::Mangle, REPLIES, replies(style)),
        chain(Table::Nat, CANARY, vec![]),
        chain(Table::Nat, MARK_MASQUERADE, vec![style.set_mark()]),
        chain(Table::Nat, "FERRO-SERVICES", services(style)),
        chain(Table::Nat, "FERRO-CLUSTER-IPS", cluster_ips(style, everybody)),
        chain(Table::Nat, "FERRO-POSTROUTING", postrouting(style)),
        chain(Table::Filter, CANARY, vec![]),
        chain(Table::Filter, "FERRO-HEALTH-CHECKS", health_checks(style)),
        chain(Table::Filter, "FERRO-FILTER", filter(style)),
        chain(Table::Filter, "FERRO-REJECT", reject(style)),
        chain(Table::Filter, "FERRO-FORWARD", forward(style)),
    ]
}

/// `--masquerade-all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasqueradeAll {
    Yes,
    No,
}

/// Who is dropped, and who short-circuits. In mangle, because IPVS takes what the node itself sends before the filter
/// table sees it, and because only here a set can give a packet its mark.
fn admission(style: &Style) -> Vec<String> {
    let set = |set: Set| set.name(style.family);
    let mut rules = vec![format!(
        "-m set --match-set {} dst,dst -m set ! --match-set {} dst,dst,src -j DROP",
        set(Set::Guarded),
        set(Set::SourceRanges)
    )];
    let mark = format!("-j SET --map-set {} dst,dst --map-mark", set(Set::ShortCircuit));
    rules.extend(style.local_sources().map(|pods| format!("{pods}{mark}")));
    rules.push(format!("-m addrtype --src-type LOCAL {mark}"));
    rules.push(format!(
        "-m set --match-set {} dst,dst -m mark ! --mark {} -j DROP",
        set(Set::Drop),
        short_circuit(style)
    ));
    rules
}

/// IPVS knows no connections but its own, and would take the reply to a flow of the node itself for a new connection where
/// that flow's own port is a NodePort (k8s#111682). A mark leads such replies past it. Of TCP it schedules whatever has the
/// SYN flag, so that other replies need none.
fn replies(style: &Style) -> Vec<String> {
    let served = format!("-m set --match-set {} dst,dst", Set::Served.name(style.family));
    let past = format!("-j MARK --set-xmark {:#x}/0xffffffff", ServiceMarks::new(style.mark).bypass());
    vec![format!("-p tcp -m tcp --tcp-flags SYN SYN {served} {past}"), format!("! -p tcp {served} {past}")]
}

fn services(style: &Style) -> Vec<String> {
    let (masquerade, cluster_ips) = (Set::Masquerade.name(style.family), Set::ClusterIps.name(style.family));
    vec![
        format!("-m set --match-set {masquerade} dst,dst -g {MARK_MASQUERADE}"),
        format!("-m set --match-set {cluster_ips} dst,dst -g FERRO-CLUSTER-IPS"),
    ]
}

/// The node's own packets come from outside of the cluster as far as this goes: a pod elsewhere need not know the way to
/// the address that they have.
fn cluster_ips(style: &Style, everybody: MasqueradeAll) -> Vec<String> {
    if everybody == MasqueradeAll::No && !style.local.detects(style.family) {
        return vec![];
    }
    let pods = style.local_sources().map(|pods| format!("{pods}-j RETURN"));
    let mut rules: Vec<_> = if everybody == MasqueradeAll::Yes { vec![] } else { pods.collect() };
    rules.push(style.set_mark());
    rules
}

/// IPVS has changed the destination by now. What is given another source here keeps it for the whole connection.
fn postrouting(style: &Style) -> Vec<String> {
    let masquerade = style.masquerade();
    vec![
        // Not over the loopback interface: an endpoint on the node's own network needs no other source.
        format!("! -o lo -m set --match-set {} src,dst {masquerade}", Set::Hairpin.name(style.family)),
        // The node itself in a short-circuit: the mark led to its virtual server and could hold nothing else.
        format!("-m mark --mark {} -m addrtype --src-type LOCAL {masquerade}", short_circuit(style)),
        // Where the route to a virtual address has no source hint, packets of the node have that address as source.
        format!("-m set --match-set {} src {masquerade}", Set::VirtualIps.name(style.family)),
        format!("-m mark ! --mark {0:#x}/{0:#x} -j RETURN", style.mark),
        // The mark has done its work: packets that are encapsulated come here again with it.
        format!("-j MARK --set-xmark {:#x}/0x0", style.mark),
        masquerade.to_owned(),
    ]
}

fn health_checks(style: &Style) -> Vec<String> {
    vec![format!("-p tcp -m set --match-set {} dst -j ACCEPT", Set::HealthChecks.name(style.family))]
}

/// Nothing of the node itself is to be had at a virtual address (k8s#72236): what is not served there is refused.
fn filter(style: &Style) -> Vec<String> {
    let set = |set: Set| set.name(style.family);
    vec![
        format!("-m set --match-set {} dst,dst -j RETURN", set(Set::Served)),
        format!("-m mark --mark {} -j RETURN", short_circuit(style)),
        format!("-m set --match-set {} dst -j FERRO-REJECT", set(Set::VirtualIps)),
        format!("-m set --match-set {} dst,dst -j FERRO-REJECT", set(Set::Reject)),
    ]
}

/// A virtual address answers pings, as that of kube-proxy's IPVS mode does. Errors about flows are not new.
fn reject(style: &Style) -> Vec<String> {
    let (ping, refusal) = match style.family {
        Family::V4 => ("-p icmp -j RETURN", "icmp-port-unreachable"),
        Family::V6 => ("-p ipv6-icmp -j RETURN", "icmp6-port-unreachable"),
    };
    vec![
        "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
        ping.to_owned(),
        format!("-j REJECT --reject-with {refusal}"),
    ]
}

/// Requests do not come this way, as IPVS sends them out itself; replies do. A reply of an established flow is let
/// through whatever the node's policy, since its request was. The other rule is the iptables mode's (k8s#74839).
fn forward(style: &Style) -> Vec<String> {
    let mut rules = vec!["-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT".to_owned()];
    if style.invalid == InvalidPackets::Drop {
        let invalid = "-m conntrack --ctstate INVALID -j DROP";
        rules.extend(style.of_pods().iter().map(|pods| format!("{pods}{invalid}")));
    }
    rules
}

fn short_circuit(style: &Style) -> String {
    // The whole upper byte: others use single bits of it.
    format!("{:#x}/0xff000000", ServiceMarks::new(style.mark).bit)
}
