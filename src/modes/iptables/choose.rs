//! Choosing one of a ServicePort's endpoints.
//!
//! Up to [`GROUP`] endpoints are one chain with a rule for each. More of them are split by a hash of the endpoint into
//! groups, and these again, so that one endpoint more or less rewrites its own group and the weights on the way to it.

use std::fmt::{self, Write};

use super::chance::{Chance, Weights};
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

    fn seed(self) -> u32 {
        u32::from(self.depth) << 16 | u32::from(self.first)
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
fn digest(endpoint: &Endpoint) -> [u8; 10] {
    names::hash(format!("{} {}", endpoint.address, endpoint.port).as_bytes())
}

fn hash(endpoint: &Endpoint) -> u16 {
    let digest = digest(endpoint);
    u16::from_be_bytes([digest[0], digest[1]])
}

fn seed(endpoint: &Endpoint) -> u32 {
    let digest = digest(endpoint);
    u32::from_be_bytes([digest[2], digest[3], digest[4], digest[5]])
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
            out.goto(format_args!("-j {}", self.chain(port, Step::Recall, *group, style)))?;
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
        for (group, size) in self.groups() {
            let chance = match port.scheduler {
                Scheduler::SourceHash => weights.hashed(*size, group.seed()),
                // Groups differ in size and `nth` counts only evenly: round-robin holds within each group.
                _ => weights.random(*size),
            };
            out.goto(format_args!("{chance}-g {}", self.chain(port, Step::Pick, *group, style)))?;
        }
        let endpoints = self.endpoints(port);
        let mut weights = Weights::new(endpoints.len() as u32);
        for endpoint in endpoints {
            let chance = match port.scheduler {
                Scheduler::SourceHash => weights.hashed(1, seed(endpoint)),
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
