//! Rules with iptables: masquerading where the kernel has no nf_tables, and a way through a firewall that drops what is
//! forwarded unless somebody accepts it. Docker sets one up whenever it starts.

use std::fmt;

use super::{Error, Policy, Written};
use crate::kernel::iptables::{Door, Input, Stamp, Table};

/// What rules are for. Names do not begin as those of the iptables mode, which removes what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    table: Table,
    parent: &'static str,
    chain: &'static str,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Masquerade,
    Forward,
}

pub const MASQUERADE: Part =
    Part { table: Table::Nat, parent: "POSTROUTING", chain: "FERROVIA-PODS", purpose: Purpose::Masquerade };
pub const FORWARD: Part =
    Part { table: Table::Filter, parent: "FORWARD", chain: "FERROVIA-PODS", purpose: Purpose::Forward };

/// Where masquerading decides about packets that come from pods.
const LEAVING: &str = "FERROVIA-PODS-OUT";

/// What happens to what is forwarded and nobody has a rule for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardPolicy {
    Accept,
    Drop,
}

pub struct Iptables<D> {
    door: D,
    part: Part,
    /// What was written or found last, and when.
    held: Option<(Rules, Stamp)>,
}

/// The chains of a part, as iptables-save prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    chains: Vec<&'static str>,
    lines: Vec<String>,
}

/// What is in a table.
struct Found {
    lines: Vec<String>,
    chains: usize,
    jumps: usize,
    policy: ForwardPolicy,
}

impl<D: Door> Iptables<D> {
    pub fn new(door: D, part: Part) -> Self {
        Iptables { door, part, held: None }
    }

    pub fn sync(&mut self, policy: &Policy) -> Result<Written, Error> {
        let stamp = self.door.stamp()?;
        let rules = self.part.rules(policy);
        if self.held.as_ref().is_some_and(|(held, at)| *held == rules && *at == stamp) {
            return Ok(Written::Nothing);
        }
        let was_there = self.held.as_ref().is_some_and(|(held, _)| *held == rules);
        let found = self.find()?;
        let written = match self.part.purpose {
            Purpose::Forward if found.policy == ForwardPolicy::Accept => self.retract(&found)?,
            _ => self.put(&rules, &found)?,
        };
        let written = if was_there && written == Written::Rules { Written::Repair } else { written };
        self.held = Some((rules, self.door.stamp()?));
        Ok(written)
    }

    fn put(&mut self, rules: &Rules, found: &Found) -> Result<Written, Error> {
        if found.lines == rules.lines && found.chains == rules.chains.len() && found.jumps == 1 {
            return Ok(Written::Nothing);
        }
        self.door.restore(&Text { part: self.part, rules: Some(rules), jumps: found.jumps })?;
        Ok(Written::Rules)
    }

    fn retract(&mut self, found: &Found) -> Result<Written, Error> {
        if found.chains == 0 && found.jumps == 0 {
            return Ok(Written::Nothing);
        }
        self.door.restore(&Text { part: self.part, rules: None, jumps: found.jumps })?;
        Ok(Written::Rules)
    }

    /// Done where nothing is there.
    pub fn remove(&mut self) -> Result<(), Error> {
        self.held = None;
        let found = self.find()?;
        self.retract(&found).map(drop)
    }

    fn find(&mut self) -> Result<Found, Error> {
        let part = self.part;
        let mut found = Found { lines: Vec::new(), chains: 0, jumps: 0, policy: ForwardPolicy::Accept };
        self.door.save(part.table, &mut |line| part.note(line, &mut found))?;
        Ok(found)
    }
}

impl Part {
    fn chains(self) -> Vec<&'static str> {
        match self.purpose {
            Purpose::Masquerade => vec![self.chain, LEAVING],
            Purpose::Forward => vec![self.chain],
        }
    }

    fn jump(self) -> String {
        format!("-A {} -j {}", self.parent, self.chain)
    }

    fn note(self, line: &str, found: &mut Found) {
        let declared = line.strip_prefix(':').and_then(|rest| rest.split_once(' '));
        match declared {
            Some((chain, _)) if self.chains().contains(&chain) => found.chains += 1,
            Some((chain, rest)) if chain == self.parent && rest.starts_with("DROP") => {
                found.policy = ForwardPolicy::Drop;
            }
            Some(_) => {}
            None if line == self.jump() => found.jumps += 1,
            None if line.starts_with(&format!("-A {}", self.chain)) => found.lines.push(line.to_owned()),
            None => {}
        }
    }

    fn rules(self, policy: &Policy) -> Rules {
        let Part { chain, .. } = self;
        let mut lines = Vec::new();
        match self.purpose {
            Purpose::Masquerade => {
                lines.extend(policy.pods.iter().map(|pods| format!("-A {chain} -s {pods} -j {LEAVING}")));
                lines
                    .extend(policy.inside.iter().map(|inside| format!("-A {LEAVING} -d {inside} -j RETURN")));
                lines.push(format!("-A {LEAVING} -j MASQUERADE --random-fully"));
            }
            Purpose::Forward => {
                for pods in &policy.pods {
                    lines.push(format!("-A {chain} -s {pods} -j ACCEPT"));
                    lines.push(format!("-A {chain} -d {pods} -j ACCEPT"));
                }
            }
        }
        Rules { chains: self.chains(), lines }
    }
}

/// For iptables-restore: the rules in place of what is there, or nothing in its place.
struct Text<'a> {
    part: Part,
    rules: Option<&'a Rules>,
    /// How many jumps there are.
    jumps: usize,
}

impl Input for Text<'_> {
    fn commits(&self) -> u32 {
        1
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chains = self.part.chains();
        let jump = self.part.jump();
        let jump = jump.trim_start_matches("-A ");
        writeln!(f, "*{}", self.part.table)?;
        chains.iter().try_for_each(|chain| writeln!(f, ":{chain} - [0:0]"))?;
        let surplus = if self.rules.is_some() { self.jumps.saturating_sub(1) } else { self.jumps };
        (0..surplus).try_for_each(|_| writeln!(f, "-D {jump}"))?;
        match self.rules {
            Some(rules) => {
                rules.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
                if self.jumps == 0 {
                    // After all rules of others: what they drop stays dropped, only the policy is overruled.
                    writeln!(f, "-A {jump}")?;
                }
            }
            None => chains.iter().try_for_each(|chain| writeln!(f, "-X {chain}"))?,
        }
        f.write_str("COMMIT\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::iptables::fake::Fake;
    use crate::model::Family;

    fn policy() -> Policy {
        Policy::new(Family::V4, &["10.244.1.0/24".parse().unwrap()], ["10.244.2.0/24".parse().unwrap()])
    }

    fn saved(iptables: &mut Iptables<Fake>, table: Table) -> Vec<String> {
        let mut lines = Vec::new();
        iptables.door.save(table, &mut |line| lines.push(line.to_owned())).unwrap();
        lines.retain(|line| line.contains("FERROVIA"));
        lines
    }

    #[test]
    fn masquerading_is_written_once_and_leaves_nothing() {
        let mut iptables = Iptables::new(Fake::new(Family::V4), MASQUERADE);
        assert_eq!(iptables.sync(&policy()).unwrap(), Written::Rules);
        assert_eq!(iptables.sync(&policy()).unwrap(), Written::Nothing);
        let lines = saved(&mut iptables, Table::Nat).join("\n");
        for line in [
            "-A POSTROUTING -j FERROVIA-PODS",
            "-A FERROVIA-PODS -s 10.244.1.0/24 -j FERROVIA-PODS-OUT",
            "-A FERROVIA-PODS-OUT -d 10.244.2.0/24 -j RETURN",
            "-A FERROVIA-PODS-OUT -d 169.254.0.0/16 -j RETURN",
            "-A FERROVIA-PODS-OUT -d 224.0.0.0/4 -j RETURN",
            "-A FERROVIA-PODS-OUT -j MASQUERADE --random-fully",
        ] {
            assert!(lines.contains(line), "{line} in\n{lines}");
        }
        iptables.remove().unwrap();
        assert_eq!(saved(&mut iptables, Table::Nat), [] as [String; 0]);
        iptables.remove().unwrap();
    }

    /// A new process must not add a second jump.
    #[test]
    fn a_restart_finds_its_rules() {
        let mut iptables = Iptables::new(Fake::new(Family::V4), MASQUERADE);
        iptables.sync(&policy()).unwrap();
        iptables.held = None;
        assert_eq!(iptables.sync(&policy()).unwrap(), Written::Nothing);
    }

    #[test]
    fn forwarding_is_accepted_only_where_the_policy_drops() {
        let part = FORWARD;
        let rules = part.rules(&policy());
        let mut found = Found { lines: vec![], chains: 0, jumps: 0, policy: ForwardPolicy::Accept };
        for line in [":INPUT DROP [0:0]", ":FORWARD ACCEPT [0:0]", "-A FORWARD -j DROP"] {
            part.note(line, &mut found);
        }
        assert_eq!(found.policy, ForwardPolicy::Accept);
        part.note(":FORWARD DROP [12:34]", &mut found);
        assert_eq!(found.policy, ForwardPolicy::Drop);
        let text = Text { part, rules: Some(&rules), jumps: 0 }.to_string();
        assert!(text.contains("-A FERROVIA-PODS -s 10.244.1.0/24 -j ACCEPT"), "{text}");
        assert!(text.ends_with("-A FORWARD -j FERROVIA-PODS\nCOMMIT\n"), "{text}");
    }
}
