//! Classes of chains: one for all ServicePorts that are treated alike, however many there are.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::names::{Keying, Set, SlotMap, policy_name};
use crate::kernel::nftables::expression::{Numbering, SetChange};
use crate::kernel::nftables::selector::{Generator, Hash, Selector};
use crate::kernel::nftables::statement::{ElementData, MappedNat, Mark, NatTarget};
use crate::kernel::nftables::{Name, Rule, Statement, Verdict};
use crate::model::{Family, Scheduler, ServicePortName};

/// The same on every node, so that it does not matter which one a client's packets come through.
const HASH_SEED: u32 = 0x6665_7272;

const STICKY: &str = "-sticky";

/// A chain that gives a packet to one of the endpoints of its frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub map: SlotMap,
    pub turn: Turn,
    pub memory: Memory,
}

/// Whether a client gets the endpoint that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    Sticky,
    None,
}

/// Which slot is next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    Random,
    /// By the client's address.
    Hash,
    /// One after the other. The kernel counts for each rule, so that these ServicePorts have chains of their own.
    RoundRobin(ServicePortName),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Pick(Pick),
    /// Marks what goes to the chain of the same name with `pick-`.
    Masquerade(Pick),
    /// Remembers which endpoint a client got, for so many seconds after its last new connection.
    Remember(NonZeroU32),
}

impl Turn {
    /// With one slot all are the same.
    pub fn of(scheduler: Scheduler, slots: u32, name: &ServicePortName) -> Self {
        match scheduler {
            Scheduler::RoundRobin if slots > 1 => Turn::RoundRobin(name.clone()),
            Scheduler::SourceHash if slots > 1 => Turn::Hash,
            _ => Turn::Random,
        }
    }

    fn scheduler(&self) -> Scheduler {
        match self {
            Turn::Random => Scheduler::Random,
            Turn::Hash => Scheduler::SourceHash,
            Turn::RoundRobin(_) => Scheduler::RoundRobin,
        }
    }

    fn selector(&self, family: Family, slots: u32) -> Selector {
        let number = |numbering| Selector::Number(Generator { numbering, modulus: slots, offset: 0 });
        match self {
            Turn::Random => number(Numbering::Random),
            Turn::RoundRobin(_) => number(Numbering::Incremental),
            Turn::Hash => Selector::Hash(Hash {
                of: vec![Selector::SourceAddress(family)],
                modulus: slots,
                seed: Some(HASH_SEED),
            }),
        }
    }
}

impl Class {
    /// The map in which its number stands.
    pub fn numbered_in(&self) -> Set {
        match self {
            Class::Pick(_) | Class::Masquerade(_) => Set::Classes,
            Class::Remember(_) => Set::Timeouts,
        }
    }

    /// The map that its packets are looked up in.
    pub fn map(&self) -> Option<SlotMap> {
        match self {
            Class::Pick(pick) | Class::Masquerade(pick) => Some(pick.map),
            Class::Remember(_) => None,
        }
    }

    /// The class whose chain has to be there before this one's.
    pub fn next(&self) -> Option<Class> {
        match self {
            Class::Masquerade(pick) => Some(Class::Pick(pick.clone())),
            Class::Pick(_) | Class::Remember(_) => None,
        }
    }

    /// `mark` is the bit by which packets are masqueraded.
    pub fn rules(&self, family: Family, mark: u32) -> Vec<Rule> {
        match self {
            Class::Pick(pick) => pick.rules(family),
            Class::Masquerade(pick) => {
                let next = Class::Pick(pick.clone()).to_string();
                let mark = Statement::SetBits { of: Mark::Packet, bits: mark };
                vec![Rule::new([mark, Statement::Verdict(Verdict::Goto(next.into()))])]
            }
            Class::Remember(seconds) => vec![remember(family, *seconds)],
        }
    }
}

/// Whether a chain of this name looks for the endpoint that a client had. It may say so of one that does not.
pub fn may_be_sticky(chain: &str) -> bool {
    chain.contains(STICKY)
}

impl Pick {
    fn rules(&self, family: Family) -> Vec<Rule> {
        let mut choice = self.map.keying.selectors(family);
        choice.push(self.turn.selector(family, self.map.slots));
        let pick = translate(family, choice, self.map.to_string().into());
        let client = [Selector::SourceAddress(family)].into_iter().chain(Keying::Address.selectors(family));
        match self.memory {
            Memory::None => vec![Rule::new([Statement::ClearPriority, pick])],
            Memory::Sticky => {
                let known = translate(family, client.collect(), affinity());
                vec![Rule::new([Statement::ClearPriority, known]), Rule::new([pick])]
            }
        }
    }
}

fn affinity() -> Name {
    Set::Affinity.name(Keying::Address).into()
}

/// When the packet has been translated: its destination is the endpoint, and connection tracking knows what it was sent
/// to. The kernel leaves the data of an element alone that is there, and only restarts its time (`nft_dynset_eval`).
/// nft 1.0.6 cannot list a rule that remembers what a map is about to give.
fn remember(family: Family, seconds: NonZeroU32) -> Rule {
    let key = vec![
        Selector::SourceAddress(family),
        Selector::OriginalDestination(family),
        Selector::Protocol,
        Selector::OriginalDestinationPort,
    ];
    let endpoint = vec![Selector::DestinationAddress(family), Selector::DestinationPort];
    let update = Statement::ChangeSet {
        change: SetChange::Update,
        set: affinity(),
        key,
        timeout: Some(Duration::from_secs(seconds.get().into())),
        data: Some(ElementData::Selectors(endpoint)),
    };
    Rule::new([Statement::ClearPriority, update])
}

fn translate(family: Family, key: Vec<Selector>, map: Name) -> Statement {
    Statement::DestinationNat(NatTarget::Map { family, key, map, data: MappedNat::AddressAndPort })
}

/// `pick-cluster-random-3`, `masquerade-node-cluster-rr-2-default/web/http/tcp`, `pick-local-sh-2-sticky`,
/// `remember-10800s`
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Class::Pick(pick) => write!(f, "pick-{pick}"),
            Class::Masquerade(pick) => write!(f, "masquerade-{pick}"),
            Class::Remember(seconds) => write!(f, "remember-{seconds}s"),
        }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pick { map, turn, memory } = self;
        let node = if map.keying == Keying::Node { "node-" } else { "" };
        write!(f, "{node}{}-{}-{}", policy_name(map.policy), turn.scheduler(), map.size())?;
        f.write_str(if *memory == Memory::Sticky { STICKY } else { "" })?;
        match turn {
            Turn::RoundRobin(name) => write_owner(f, name),
            Turn::Random | Turn::Hash => Ok(()),
        }
    }
}

/// Without what nft does not take in a name.
fn write_owner(f: &mut fmt::Formatter<'_>, name: &ServicePortName) -> fmt::Result {
    write!(f, "-{}/{}", name.namespace, name.service)?;
    if !name.port.is_empty() {
        write!(f, "/{}", name.port)?;
    }
    write!(f, "/{}", name.protocol.lowercase())
}
