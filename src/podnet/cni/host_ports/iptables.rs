//! Ports in iptables, for kernels without nf_tables. Each rule has its owner as its comment.
//!
//! ```text
//! PREROUTING, OUTPUT (not to 127.0.0.0/8 or ::1), to addresses of the node -> FERROVIA-HOST-PORTS
//! POSTROUTING -> FERROVIA-HOST-PORTS-OWN: a pod that reaches itself is masqueraded
//! ```

use std::fmt::{self, Write};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::mapping::Mapped;
use super::{HostPortError, Ports};
use crate::kernel::iptables::{Door, Flavour, Input, Programs, Table};
use crate::kernel::links;
use crate::model::{Family, Protocol};

const CHAIN: &str = "FERROVIA-HOST-PORTS";
const OWN: &str = "FERROVIA-HOST-PORTS-OWN";
/// iptables reads the whole table to write part of it: one of us at a time.
const LOCK: &str = "/run/ferrovia-host-ports.lock";

pub struct IptablesPorts {
    programs: Vec<Programs>,
    _lock: File,
}

impl IptablesPorts {
    /// `None` where there is no iptables either.
    pub fn find() -> Result<Option<Self>, HostPortError> {
        let programs: Vec<Programs> =
            Family::ALL.into_iter().filter_map(|family| Programs::usable(family, None).ok()).collect();
        if programs.is_empty() { Ok(None) } else { Self::with(programs, Path::new(LOCK)).map(Some) }
    }

    /// Wherever programs of this flavour are installed and the kernel has what they need.
    pub fn of_flavour(flavour: Flavour) -> Result<Self, HostPortError> {
        let of_family = |family| Programs::find(family, Some(flavour)).ok();
        let programs = Family::ALL.into_iter().filter_map(of_family);
        Self::with(programs.filter(|programs| programs.probe().is_ok()).collect(), Path::new(LOCK))
    }

    pub(super) fn with(programs: Vec<Programs>, lock: &Path) -> Result<Self, HostPortError> {
        let lock = File::create(lock).map_err(HostPortError::Lock)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| HostPortError::Lock(errno.into()))?;
        Ok(IptablesPorts { programs, _lock: lock })
    }

    /// A family whose programs are missing has no ports.
    fn programs(&mut self, family: Family) -> Option<&mut Programs> {
        self.programs.iter_mut().find(|programs| programs.family() == family)
    }

    /// All rules of the table `nat`, as iptables-save prints them.
    fn rules(&mut self, family: Family) -> Result<Vec<String>, HostPortError> {
        let mut lines = Vec::new();
        if let Some(programs) = self.programs(family) {
            programs.save(Table::Nat, &mut |line| lines.push(line.to_owned()))?;
        }
        Ok(lines)
    }

    fn write(&mut self, family: Family, script: String) -> Result<(), HostPortError> {
        match self.programs(family) {
            Some(programs) => Ok(programs.restore(&Script(script))?),
            None => Err(HostPortError::NoPrograms(family)),
        }
    }
}

impl Ports for IptablesPorts {
    fn open(&mut self, family: Family, owner: &str, wanted: &[Mapped]) -> Result<(), HostPortError> {
        let rules = self.rules(family)?;
        let mut script = String::from("*nat\n");
        add_skeleton(&mut script, family, &rules);
        for (line, mapped, other) in rules.iter().filter_map(|line| parse(line)) {
            let is_contested = wanted.iter().any(|wanted| is_same_port(wanted, &mapped));
            if is_contested && other != owner {
                if links::exists(other) {
                    return Err(HostPortError::Taken { mapped, owner: other.to_owned() });
                }
                script.push_str(&deletion(line));
            }
        }
        for mapped in wanted {
            // Writing to a string cannot fail.
            let _ = writeln!(script, "{}", Rule { mapped, owner });
        }
        if let Some(address) = wanted.first().map(|mapped| mapped.pod.ip()) {
            let comment = format!("-m comment --comment {owner}");
            let _ = writeln!(script, "-A {OWN} -s {address} -d {address} {comment} -j MASQUERADE");
        }
        script.push_str("COMMIT\n");
        self.write(family, script)
    }

    fn list(
        &mut self,
        family: Family,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Mapped>, HostPortError> {
        let rules = self.rules(family)?;
        let meant = rules.iter().filter_map(|line| parse(line)).filter(|(.., owner)| is_meant(owner));
        Ok(meant.map(|(_, mapped, _)| mapped).collect())
    }

    fn remove(
        &mut self,
        family: Family,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Mapped>, HostPortError> {
        let rules = self.rules(family)?;
        let meant: Vec<&String> = rules.iter().filter(|line| owner(line).is_some_and(is_meant)).collect();
        if meant.is_empty() {
            return Ok(Vec::new());
        }
        let deletions: String = meant.iter().map(|line| deletion(line)).collect();
        self.write(family, format!("*nat\n{deletions}COMMIT\n"))?;
        Ok(meant.into_iter().filter_map(|line| parse(line)).map(|(_, mapped, _)| mapped).collect())
    }

    fn retire(&mut self, family: Family) -> Result<(), HostPortError> {
        let rules = self.rules(family)?;
        let chains = [CHAIN, OWN].into_iter().filter(|chain| rules.iter().any(|line| declares(line, chain)));
        let chains: String = chains.map(|chain| format!("-X {chain}\n")).collect();
        if chains.is_empty() || rules.iter().any(|line| owner(line).is_some()) {
            return Ok(());
        }
        let is_jump =
            |line: &&String| [CHAIN, OWN].iter().any(|chain| line.ends_with(&format!("-j {chain}")));
        let jumps: String = rules.iter().filter(is_jump).map(|line| deletion(line)).collect();
        self.write(family, format!("*nat\n{jumps}{chains}COMMIT\n"))
    }
}

struct Script(String);

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Input for Script {
    fn commits(&self) -> u32 {
        1
    }
}

struct Rule<'a> {
    mapped: &'a Mapped,
    owner: &'a str,
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mapped { protocol, at, port, pod } = self.mapped;
        let protocol = protocol.lowercase();
        write!(f, "-A {CHAIN}")?;
        at.map_or(Ok(()), |address| write!(f, " -d {address}"))?;
        write!(f, " -p {protocol} -m {protocol} --dport {port}")?;
        write!(f, " -m comment --comment {} -j DNAT --to-destination {pod}", self.owner)
    }
}

/// Chains that are declared twice are emptied, and rules that are added twice are there twice.
fn add_skeleton(script: &mut String, family: Family, rules: &[String]) {
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    for chain in [CHAIN, OWN] {
        if !rules.iter().any(|line| declares(line, chain)) {
            let _ = writeln!(script, ":{chain} - [0:0]");
        }
    }
    let jumps = [
        ("PREROUTING", "-m addrtype --dst-type LOCAL".to_owned(), CHAIN),
        ("OUTPUT", format!("! -d {loopback} -m addrtype --dst-type LOCAL"), CHAIN),
        ("POSTROUTING", String::new(), OWN),
    ];
    for (from, matches, to) in jumps {
        let is_there =
            |line: &String| line.starts_with(&format!("-A {from} ")) && line.ends_with(&format!("-j {to}"));
        if !rules.iter().any(is_there) {
            let _ = writeln!(script, "-A {from} {matches} -j {to}");
        }
    }
}

fn declares(line: &str, chain: &str) -> bool {
    line.starts_with(&format!(":{chain} "))
}

/// `-A CHAIN ...` as a line that takes it away again.
fn deletion(line: &str) -> String {
    format!("{}\n", line.replacen("-A ", "-D ", 1))
}

fn word_after<'a>(line: &'a str, option: &str) -> Option<&'a str> {
    line.split(' ').skip_while(|word| *word != option).nth(1)
}

/// Whose rule it is, of those in our chains.
fn owner(line: &str) -> Option<&str> {
    let is_ours = [CHAIN, OWN].iter().any(|chain| line.starts_with(&format!("-A {chain} ")));
    word_after(line, "--comment").filter(|_| is_ours).map(|word| word.trim_matches('"'))
}

/// A line of iptables-save that maps a port, and whose it is.
fn parse(line: &str) -> Option<(&str, Mapped, &str)> {
    let owner = owner(line)?;
    let name = word_after(line, "-p")?;
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let at = word_after(line, "-d").and_then(|word| word.split('/').next());
    let pod: SocketAddr = word_after(line, "--to-destination")?.parse().ok()?;
    let mapped = Mapped {
        protocol: known.into_iter().find(|protocol| protocol.lowercase() == name)?,
        at: at.map(str::parse::<IpAddr>).transpose().ok()?,
        port: word_after(line, "--dport")?.parse().ok()?,
        pod,
    };
    Some((line, mapped, owner))
}

fn is_same_port(one: &Mapped, other: &Mapped) -> bool {
    (one.protocol, one.at, one.port) == (other.protocol, other.at, other.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netns::Namespace;

    const OPEN: &str = "-A FERROVIA-HOST-PORTS -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -m comment \
        --comment fpod1 -j DNAT --to-destination 10.244.1.5:8080";

    fn mapped(at: Option<&str>, port: u16) -> Mapped {
        let at = at.map(|address| address.parse().unwrap());
        Mapped { protocol: Protocol::Tcp, at, port, pod: "10.244.1.5:8080".parse().unwrap() }
    }

    #[test]
    fn what_iptables_save_prints_is_understood() {
        assert_eq!(parse(OPEN), Some((OPEN, mapped(Some("192.0.2.1"), 80), "fpod1")));
        assert_eq!(parse("-A KUBE-SERVICES -m comment --comment fpod1 -j KUBE-SEP"), None);
        let own = "-A FERROVIA-HOST-PORTS-OWN -s 10.0.0.1/32 -m comment --comment fpod1 -j MASQUERADE";
        assert_eq!((owner(own), parse(own)), (Some("fpod1"), None));
    }

    /// In both flavours, with the programs themselves.
    #[test]
    fn ports_are_opened_found_and_closed_twice() {
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            let namespace = Namespace::new().unwrap();
            namespace
                .run(|| {
                    let programs = Programs::find(Family::V4, Some(flavour)).unwrap();
                    let mut ports =
                        IptablesPorts::with(vec![programs], Path::new("/run/lock-of-test")).unwrap();
                    let wanted = [mapped(None, 80), mapped(Some("192.0.2.1"), 81)];
                    ports.open(Family::V4, "fpod1", &wanted).unwrap();
                    let mut found = ports.list(Family::V4, &|owner| owner == "fpod1").unwrap();
                    found.sort_unstable();
                    assert_eq!(found, wanted);
                    // The links of both are nowhere: the second takes over, and leaves what it does not need.
                    ports.open(Family::V4, "fpod2", &wanted[..1]).unwrap();
                    assert_eq!(ports.list(Family::V4, &|owner| owner == "fpod1").unwrap(), wanted[1..]);
                    let taken = ports.open(Family::V4, "lo", &wanted[1..]);
                    taken.unwrap();
                    let refused = ports.open(Family::V4, "fpod3", &wanted[1..]).unwrap_err();
                    assert!(matches!(refused, HostPortError::Taken { owner, .. } if owner == "lo"));
                    for _ in 0..2 {
                        ports.remove(Family::V4, &|_| true).unwrap();
                        assert_eq!(ports.list(Family::V4, &|_| true).unwrap(), []);
                    }
                    let left = ports.rules(Family::V4).unwrap();
                    let of_ours = left.iter().filter(|line| owner(line).is_some()).count();
                    let jumps = left.iter().filter(|line| line.contains("-j FERROVIA-HOST-PORTS")).count();
                    assert_eq!((of_ours, jumps), (0, 3), "{left:?}");
                    ports.open(Family::V4, "fpod1", &wanted).unwrap();
                    ports.retire(Family::V4).unwrap();
                    assert_eq!(ports.list(Family::V4, &|_| true).unwrap().len(), 2, "ports stay");
                    ports.remove(Family::V4, &|_| true).unwrap();
                    for _ in 0..2 {
                        ports.retire(Family::V4).unwrap();
                        let left = ports.rules(Family::V4).unwrap();
                        assert!(!left.iter().any(|line| line.contains("FERROVIA")), "{left:?}");
                    }
                })
                .unwrap();
        }
    }
}
