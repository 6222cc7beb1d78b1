//! What the sets and maps of our table are called, and what is in them.
//!
//! Each set answers one question about a packet, so that the rules need not know any Service. `nft get element ip ferrovia
//! services '{ 10.96.0.10 . tcp . 80 }'` reads well on its own.

use std::fmt;
use std::time::Duration;

use super::traffic::Counting;
use crate::kernel::nftables::datatype::Datatype;
use crate::kernel::nftables::expression::Numbering;
use crate::kernel::nftables::selector::{Generator, Selector};
use crate::kernel::nftables::set::{SetData, Shape};
use crate::kernel::nftables::{self as door, Table};
use crate::model::{Destination, Family, FrontendKey, TrafficPolicy};

/// Of the table in each family.
pub const TABLE: &str = "ferrovia";

/// By which a table of ours is known.
pub const COMMENT: &str = "Services, by ferrovia: what others change here is changed back";

/// As many clients as connection tracking commonly has room for. Those beyond have no affinity.
const CLIENTS: u32 = 262_144;

pub fn table(family: Family) -> Table {
    Table::new(family, TABLE)
}

/// What a key consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keying {
    /// Address, protocol and port.
    Address,
    /// Protocol and port, at whatever address of the node.
    Node,
}

impl Keying {
    pub fn of(place: &FrontendKey) -> Self {
        match place.destination {
            Destination::Address(_) => Keying::Address,
            Destination::Node => Keying::Node,
        }
    }

    /// What of a packet makes the key.
    pub fn selectors(self, family: Family) -> Vec<Selector> {
        let port = [Selector::Protocol, Selector::DestinationPort];
        let address = (self == Keying::Address).then_some(Selector::DestinationAddress(family));
        address.into_iter().chain(port).collect()
    }

    fn datatypes(self, family: Family) -> Vec<Datatype> {
        let address = (self == Keying::Address).then_some(address(family));
        address.into_iter().chain([Datatype::Protocol, Datatype::Port]).collect()
    }
}

fn address(family: Family) -> Datatype {
    match family {
        Family::V4 => Datatype::Ipv4Address,
        Family::V6 => Datatype::Ipv6Address,
    }
}

/// The sets and maps that are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The class of packets to a frontend.
    Services,
    /// That of packets of this node's pods, if all endpoints are theirs though the policy is Local.
    ShortCircuits,
    /// The same for what the node itself sends.
    OwnShortCircuits,
    /// Frontends that only [`SourceRanges`](Set::SourceRanges) may use.
    Guarded,
    SourceRanges,
    /// Policy Local without an endpoint here.
    Drop,
    /// The same, except for clients of this node.
    DropOutside,
    /// Without endpoints, at an address that the node has for other reasons too.
    Reject,
    /// Frontends at such addresses, which NodePorts of the same number do not get.
    Claimed,
    /// Whoever comes to these from elsewhere than the cluster is masqueraded.
    ClusterIps,
    /// Addresses that are there for Services only: what is not served there is refused.
    VirtualIps,
    /// Networks that ClusterIPs are taken from: what is sent to one that no Service has is dropped.
    ServiceNetworks,
    /// Endpoints that may reach themselves.
    Hairpin,
    /// Frontends whose clients are remembered: the class says for how long.
    Sticky,
    /// Where packets of a class go on.
    Classes,
    /// The same for [`Sticky`](Set::Sticky).
    Timeouts,
    /// Frontends whose new connections are counted, where that is asked for.
    Connections,
    /// Frontends whose packets are counted that clients send, by what they were sent to first.
    Requests,
    /// The same for packets that clients receive.
    Replies,
    /// Which endpoint a client had. By the address also for NodePorts: a connection is remembered as it was sent.
    Affinity,
}

/// All that there are, with their names.
pub const NAMES: [(Set, Keying, &str); 30] = [
    (Set::Services, Keying::Address, "services"),
    (Set::Services, Keying::Node, "node-ports"),
    (Set::ShortCircuits, Keying::Address, "short-circuits"),
    (Set::ShortCircuits, Keying::Node, "node-short-circuits"),
    (Set::OwnShortCircuits, Keying::Address, "own-short-circuits"),
    (Set::OwnShortCircuits, Keying::Node, "own-node-short-circuits"),
    (Set::Guarded, Keying::Address, "guarded"),
    (Set::SourceRanges, Keying::Address, "source-ranges"),
    (Set::Drop, Keying::Address, "drop-always"),
    (Set::Drop, Keying::Node, "node-drop-always"),
    (Set::DropOutside, Keying::Address, "drop-outside"),
    (Set::DropOutside, Keying::Node, "node-drop-outside"),
    (Set::Reject, Keying::Address, "rejected"),
    (Set::Reject, Keying::Node, "node-rejected"),
    (Set::Claimed, Keying::Address, "claimed"),
    (Set::Connections, Keying::Address, "counted-connections"),
    (Set::Connections, Keying::Node, "node-counted-connections"),
    (Set::Requests, Keying::Address, "counted-requests"),
    (Set::Requests, Keying::Node, "node-counted-requests"),
    (Set::Replies, Keying::Address, "counted-replies"),
    (Set::Replies, Keying::Node, "node-counted-replies"),
    (Set::ClusterIps, Keying::Address, "cluster-ips"),
    (Set::VirtualIps, Keying::Address, "virtual-ips"),
    (Set::ServiceNetworks, Keying::Address, "service-cidrs"),
    (Set::Hairpin, Keying::Address, "hairpin"),
    (Set::Affinity, Keying::Address, "affinity"),
    (Set::Sticky, Keying::Address, "sticky"),
    (Set::Sticky, Keying::Node, "node-sticky"),
    (Set::Classes, Keying::Address, "classes"),
    (Set::Timeouts, Keying::Address, "timeouts"),
];

impl Set {
    /// The first and the last in order.
    pub const ENDS: (Set, Set) = (Set::Services, Set::Affinity);

    /// Those that are there only for `--service-counters`.
    pub const COUNTING: [Set; 3] = [Set::Connections, Set::Requests, Set::Replies];

    pub fn name(self, keying: Keying) -> &'static str {
        let found = NAMES.iter().find(|(set, of, _)| (*set, *of) == (self, keying));
        found.map(|(_, _, name)| *name).unwrap_or_default()
    }
}

/// Any set or map of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetId {
    Fixed(Set, Keying),
    Slots(SlotMap),
}

impl SetId {
    /// The sets of the skeleton.
    pub fn all_fixed(counting: Counting) -> impl Iterator<Item = SetId> {
        let is_there = move |set: Set| counting == Counting::On || !Set::COUNTING.contains(&set);
        let there = NAMES.into_iter().filter(move |(set, ..)| is_there(*set));
        there.map(|(set, keying, _)| SetId::Fixed(set, keying))
    }

    pub fn parse(name: &str) -> Option<Self> {
        let fixed = NAMES.iter().find(|(.., of)| *of == name);
        let fixed = fixed.map(|(set, keying, _)| SetId::Fixed(*set, *keying));
        fixed.or_else(|| SlotMap::parse(name).map(SetId::Slots))
    }

    pub fn declaration(self, family: Family) -> door::Set {
        match self {
            SetId::Fixed(set, keying) => fixed(set, keying, family),
            SetId::Slots(map) => map.declaration(family),
        }
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetId::Fixed(set, keying) => f.write_str(set.name(*keying)),
            SetId::Slots(map) => map.fmt(f),
        }
    }
}

fn fixed(set: Set, keying: Keying, family: Family) -> door::Set {
    let name = set.name(keying);
    let key = keying.datatypes(family);
    let one = address(family);
    match set {
        Set::Services | Set::ShortCircuits | Set::OwnShortCircuits | Set::Sticky => {
            let class = SetData::Value(Shape::types(&[Datatype::Priority]));
            door::Set::map(name, Shape::types(&key), class)
        }
        Set::Classes | Set::Timeouts => {
            door::Set::map(name, Shape::types(&[Datatype::Priority]), SetData::Verdict)
        }
        Set::Guarded | Set::Drop | Set::DropOutside | Set::Reject | Set::Claimed => {
            door::Set::new(name, Shape::types(&key))
        }
        Set::SourceRanges => {
            let key: Vec<_> = key.into_iter().chain([one]).collect();
            door::Set::new(name, Shape::types(&key)).intervals()
        }
        Set::Connections | Set::Requests | Set::Replies => {
            door::Set { counted: true, ..door::Set::new(name, Shape::types(&key)) }
        }
        Set::ClusterIps | Set::VirtualIps => door::Set::new(name, Shape::types(&[one])),
        Set::ServiceNetworks => door::Set::new(name, Shape::types(&[one])).intervals(),
        Set::Hairpin => door::Set::new(name, Shape::types(&[one, one])),
        Set::Affinity => {
            let key: Vec<_> = [one].into_iter().chain(key).collect();
            let data = SetData::Value(Shape::types(&[one, Datatype::Port]));
            // Each rule says how long; this is what Kubernetes takes where nobody does.
            door::Set::map(name, Shape::types(&key), data).dynamic(Duration::from_secs(10_800), CLIENTS)
        }
    }
}

/// A map to the endpoints of frontends with so many slots: one map for each number keeps the elements together that one
/// rule looks at, and the kernel from walking all of them for every rule that it checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotMap {
    pub keying: Keying,
    pub policy: TrafficPolicy,
    pub slots: u32,
    /// A map that is full is followed by another one. From 1 on.
    pub volume: u32,
}

/// Elements in a map of slots. Reading one takes the square of its size, as the kernel starts anew for each message
/// (`nf_tables_dump_set`): 18 s for half a million, half a second for as many in maps of this size.
const VOLUME: u32 = 8192;

/// Elements in the first map of a kind: the kernel makes room for all when the map is made, and most nodes have few.
const FIRST_VOLUME: u32 = 1024;

const NODE: &str = "node-";
const POLICIES: [(TrafficPolicy, &str); 2] =
    [(TrafficPolicy::Cluster, "cluster"), (TrafficPolicy::Local, "local")];

pub fn policy_name(policy: TrafficPolicy) -> &'static str {
    POLICIES.iter().find(|(found, _)| *found == policy).map(|(_, name)| *name).unwrap_or_default()
}

impl SlotMap {
    fn parse(name: &str) -> Option<Self> {
        let (keying, rest) = match name.strip_prefix(NODE) {
            Some(rest) => (Keying::Node, rest),
            None => (Keying::Address, name),
        };
        let (policy, rest) = rest.split_once('-')?;
        let policy = POLICIES.into_iter().find(|(_, name)| *name == policy)?.0;
        let (slots, volume) = rest.split_once('.').unwrap_or((rest, "1"));
        let map = SlotMap { keying, policy, slots: slots.parse().ok()?, volume: volume.parse().ok()? };
        (map.to_string() == name).then_some(map)
    }

    /// How many frontends it has room for.
    pub fn room(&self) -> u32 {
        let elements = if self.volume == 1 { FIRST_VOLUME } else { VOLUME };
        (elements / self.slots.max(1)).max(1)
    }

    /// The number of slots, and the volume unless it is the first: `3`, `3.2`. No name of a Service has a dot.
    pub fn size(&self) -> String {
        match self.volume {
            1 => self.slots.to_string(),
            volume => format!("{}.{volume}", self.slots),
        }
    }

    fn declaration(self, family: Family) -> door::Set {
        let generator = Generator { numbering: Numbering::Random, modulus: self.slots, offset: 0 };
        let mut key = self.keying.selectors(family);
        key.push(Selector::Number(generator));
        // Once nft is told the fields of a key, it wants to be told those of the data as well.
        let data = vec![Selector::DestinationAddress(family), Selector::DestinationPort];
        let data = SetData::Value(Shape::Selectors(data));
        // Told the size, the kernel takes a table of hashes that need not grow: faster to fill and to look up.
        let size = Some(self.room() * self.slots.max(1));
        door::Set { size, ..door::Set::map(&self.to_string(), Shape::Selectors(key), data) }
    }
}

/// `cluster-3`, `cluster-3.2`, `node-local-1`
impl fmt::Display for SlotMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = if self.keying == Keying::Node { NODE } else { "" };
        write!(f, "{node}{}-{}", policy_name(self.policy), self.size())
    }
}
