//! Choosing one of a ServicePort's endpoints.
//!
//! Up to [`GROUP`] endpoints are one chain with a rule for each. More of them are split by a hash of the endpoint into
//! groups, and these again, so that one endpoint more or less rewrites its own group and the weights on the way to it.

use std::fmt::{self, Write};

use super::names::{self, ChainKey, Part, PortId};
use super::render::{Rules, Style};
use crate::model::{Affinity, Endpoint, Scheduler, ServicePort, TrafficPolicy};

/// As many endpoints as one chain chooses from. `xt_cluster` knows at most 32 nodes.
pub const GROUP: usize = 32;

/// The endpoints whose hash begins with these nibbles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    first: u16,
    depth: u8,
}

impl Group {
    pub const ALL: Group = Group { first: 0, depth: 0 };
    /// What a chain name has room for: 65,536 groups.
    const DEEPEST: u8 = 4;

    pub fn child(self, nibble: u16) -> Group {
        Group { first: self.first | nibble << (12 - 4 * self.depth), depth: self.depth + 1 }
    }

    fn holds(self, hash: u16) -> bool {
        (u32::from(hash ^ self.first) >> (16 - 4 * u32::from(self.depth))) == 0
    }

    pub fn write_digits(self, out: &mut impl Write) -> fmt::Result {
        (0..self.depth).try_for_each(|at| write!(out, "{:x}", self.first >> (12 - 4 * at) & 0xf))
    }

    /// Differs from level to level: with one seed, all clients of a group would have the same few hashes.
    fn seed(self) -> u32 {
        0x6665_7272 ^ u32::from(self.depth) << 28 ^ u32::from(self.first)
    }
}

/// The two things done on the way to an endpoint; only session affinity needs the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Go to the endpoint that had this client before.
    Recall,
    Pick,
}

/// One chain that chooses.
#[derive(Clone, Debug)]
pub struct Choice {
    pub policy: TrafficPolicy,
    pub step: Step,
    pub group: Group,
    members: Members,
}

#[derive(Clone, Debug)]
enum Members {
    /// All endpoints that the ServicePort has for the policy.
    All,
    Some(Box<[Endpoint]>),
    /// With how many endpoints each has.
    Groups(Box<[(Group, u32)]>),
}

/// All chains that choose for a policy; none without endpoints.
pub fn choices(port: &ServicePort, policy: TrafficPolicy) -> Vec<Choice> {
    let endpoints = port.endpoints(policy);
    let mut choices = Vec::new();
    if endpoints.len() > GROUP {
        let mut hashed: Vec<_> = endpoints.iter().map(|endpoint| (hash(endpoint), *endpoint)).collect();
        hashed.sort_unstable();
        split(&hashed, Group::ALL, &mut |group, members| {
            push(&mut choices, port, policy, group, members);
        });
    } else if !endpoints.is_empty() {
        push(&mut choices, port, policy, Group::ALL, Members::All);
    }
    choices
}

/// The first chain does both steps; groups below it have one chain for each.
fn push(
    choices: &mut Vec<Choice>,
    port: &ServicePort,
    policy: TrafficPolicy,
    group: Group,
    members: Members,
) {
    if port.affinity.is_some() && group != Group::ALL {
        choices.push(Choice { policy, step: Step::Recall, group, members: members.clone() });
    }
    choices.push(Choice { policy, step: Step::Pick, group, members });
}

fn split(hashed: &[(u16, Endpoint)], group: Group, visit: &mut impl FnMut(Group, Members)) {
    if hashed.len() <= GROUP || group.depth == Group::DEEPEST {
        visit(group, Members::Some(hashed.iter().map(|(_, endpoint)| *endpoint).collect()));
        return;
    }
    let mut groups = Vec::new();
    let mut rest = hashed;
    for nibble in 0..16 {
        let child = group.child(nibble);
        let (members, others) = rest.split_at(rest.partition_point(|(hash, _)| child.holds(*hash)));
        rest = others;
        if !members.is_empty() {
            groups.push((child, members.len() as u32));
            split(members, child, visit);
        }
    }
    visit(group, Members::Groups(groups.into()));
}

/// By address and port only: where an endpoint is says nothing about which group it is in.
fn hash(endpoint: &Endpoint) -> u16 {
    let hash = names::hash(format!("{} {}", endpoint.address, endpoint.port).as_bytes());
    u16::from_be_bytes([hash[0], hash[1]])
}

impl Choice {
    pub fn part(&self) -> Part {
        Part::Choose(self.policy, self.step, self.group)
    }

    pub fn render(&self, port: &ServicePort, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
        if let Some(affinity) = port.affinity
            && (self.step == Step::Recall || self.group == Group::ALL)
        {
            self.recall(port, affinity, style, out)?;
        }
        match self.step {
            Step::Recall => Ok(()),
            Step::Pick => self.pick(port, style, out),
        }
    }

    fn endpoints<'a>(&'a self, port: &'a ServicePort) -> &'a [Endpoint] {
        match &self.members {
            Members::All => port.endpoints(self.policy),
            Members::Some(endpoints) => endpoints,
            Members::Groups(_) => &[],
        }
    }

    fn groups(&self) -> &[(Group, u32)] {
        match &self.members {
            Members::Groups(groups) => groups,
            _ => &[],
        }
    }

    /// `--update` makes the timeout count from the client's last new connection.
    fn recall(
        &self,
        port: &ServicePort,
        affinity: Affinity,
        style: &Style,
        out: &mut Rules<'_>,
    ) -> fmt::Result {
        for (group, _) in self.groups() {
            out.rule(format_args!("-j {}", self.chain(port, Step::Recall, *group, style)))?;
        }
        let protocol = port.name.protocol.lowercase();
        for endpoint in self.endpoints(port) {
            out.rule(format_args!(
                "-p {protocol} -m recent --update --seconds {} --reap --name {} --mask {} --rsource {}",
                affinity.timeout_seconds,
                names::recent_list(&port.name, endpoint),
                style.host_mask(),
                Dnat(endpoint),
            ))?;
        }
        Ok(())
    }

    fn pick(&self, port: &ServicePort, style: &Style, out: &mut Rules<'_>) -> fmt::Result {
        let mut weights = Weights::new(self.groups().iter().map(|(_, size)| *size).sum());
        for (at, (group, size)) in self.groups().iter().enumerate() {
            let chance = match port.scheduler {
                Scheduler::SourceHash => slots(self.groups(), at, self.group.seed()),
                // Groups differ in size and `nth` counts only evenly: round-robin holds within each group.
                _ => weights.random(*size),
            };
            out.rule(format_args!("{chance}-g {}", self.chain(port, Step::Pick, *group, style)))?;
        }
        let endpoints = self.endpoints(port);
        let mut weights = Weights::new(endpoints.len() as u32);
        for (at, endpoint) in endpoints.iter().enumerate() {
            let chance = match port.scheduler {
                Scheduler::SourceHash if endpoints.len() <= GROUP => {
                    weights.hashed(at, endpoints.len(), self.group.seed())
                }
                Scheduler::RoundRobin => weights.in_turn(),
                _ => weights.random(1),
            };
            self.rule(port, endpoint, &chance, style, out)?;
        }
        Ok(())
    }

    /// `recent --set` comes after the chance: matches are evaluated in their order, and only the chosen one may remember.
    fn rule(
        &self,
        port: &ServicePort,
        endpoint: &Endpoint,
        chance: &Chance,
        style: &Style,
        out: &mut Rules<'_>,
    ) -> fmt::Result {
        let protocol = port.name.protocol.lowercase();
        match port.affinity {
            None => out.rule(format_args!("-p {protocol} {chance}{}", Dnat(endpoint))),
            Some(_) => out.rule(format_args!(
                "-p {protocol} {chance}-m recent --set --name {} --mask {} --rsource {}",
                names::recent_list(&port.name, endpoint),
                style.host_mask(),
                Dnat(endpoint),
            )),
        }
    }

    fn chain(&self, port: &ServicePort, step: Step, group: Group, style: &Style) -> names::ChainName {
        let part = Part::Choose(self.policy, step, group);
        ChainKey::Port(PortId::of(&port.name), part).name(style.family)
    }
}

struct Dnat<'a>(&'a Endpoint);

impl fmt::Display for Dnat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = std::net::SocketAddr::new(self.0.address, self.0.port);
        write!(f, "-j DNAT --to-destination {destination}")
    }
}

/// The match that makes a rule hold for its share of what comes to it. The last rule takes what is left.
enum Chance {
    Rest,
    /// In units of 2^-31, as `xt_statistic` has it.
    Random(u32),
    Nth(u32),
    Cluster {
        total: usize,
        mask: u32,
        seed: u32,
    },
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chance::Rest => Ok(()),
            Chance::Random(part) => {
                let probability = f64::from(*part) / f64::from(1u32 << 31);
                write!(f, "-m statistic --mode random --probability {probability:.11} ")
            }
            Chance::Nth(every) => write!(f, "-m statistic --mode nth --every {every} --packet 0 "),
            Chance::Cluster { total, mask, seed } => write!(
                f,
                "-m cluster --cluster-local-nodemask {mask:#010x} --cluster-total-nodes {total} \
                 --cluster-hash-seed {seed:#010x} "
            ),
        }
    }
}

struct Weights {
    remaining: u32,
}

impl Weights {
    fn new(total: u32) -> Self {
        Weights { remaining: total }
    }

    fn random(&mut self, weight: u32) -> Chance {
        let remaining = u64::from(self.remaining);
        self.remaining -= weight;
        if self.remaining == 0 {
            return Chance::Rest;
        }
        Chance::Random((((u64::from(weight) << 31) + remaining / 2) / remaining) as u32)
    }

    /// The first of n rules takes every n-th packet, the next one every (n-1)-th of the others, and so on: exact.
    fn in_turn(&mut self) -> Chance {
        let every = self.remaining;
        self.remaining -= 1;
        if self.remaining == 0 { Chance::Rest } else { Chance::Nth(every) }
    }

    fn hashed(&mut self, at: usize, total: usize, seed: u32) -> Chance {
        self.remaining -= 1;
        if self.remaining == 0 { Chance::Rest } else { Chance::Cluster { total, mask: 1 << at, seed } }
    }
}

/// `xt_cluster` has 32 equal slots at most: a group gets its share of them, at least one, so that groups with more
/// endpoints get more clients as far as 32 slots can tell.
fn slots(groups: &[(Group, u32)], at: usize, seed: u32) -> Chance {
    const SLOTS: u64 = 32;
    if at + 1 == groups.len() {
        return Chance::Rest;
    }
    let total: u64 = groups.iter().map(|(_, size)| u64::from(*size)).sum();
    let spare = SLOTS - groups.len() as u64;
    let up_to = |end: usize| {
        let before: u64 = groups[..end].iter().map(|(_, size)| u64::from(*size)).sum();
        end as u64 + before * spare / total
    };
    let (from, to) = (up_to(at), up_to(at + 1));
    let mask = (((1u64 << to) - 1) & !((1u64 << from) - 1)) as u32;
    Chance::Cluster { total: SLOTS as usize, mask, seed }
}
