//! What our chains are called. A name depends on nothing but what the chain is for, so that a restart finds its own.
//!
//! | chain | name |
//! |-|-|
//! | fixed | see [`base`](super::base) |
//! | node of a dispatch tree | `FERRO-`tree`-`prefix in hex, or a hash of it where that is too long |
//! | ServicePort | `FERRO-SVC-`, `-SVL-`, `-EXT-`, `-FW-` and a hash of its name, as kube-proxy's `KUBE-SVC-` |
//! | group of endpoints | `FERRO-`letter and digits of the group`-`hash of the ServicePort |
//!
//! The kernel allows 28 characters.

use std::fmt::{self, Write};

use ring::digest::{SHA256, digest};

use super::base::BaseChain;
use super::choose::{Group, Step};
use super::dispatch::Tree;
use super::path::Prefix;
use crate::kernel::iptables::Table;
use crate::model::{Endpoint, Family, ServicePortName, TrafficPolicy};

pub const OURS: &str = "FERRO-";

/// A chain of ours. Ordered so that the nodes below a prefix stand together, and so do the chains of a ServicePort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKey {
    Base(BaseChain),
    Node(Tree, Prefix),
    Port(PortId, Part),
}

/// The chains that a ServicePort can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Where traffic to external frontends goes.
    External,
    /// Lets only some clients on to `External`.
    Firewall,
    /// Chooses an endpoint, or one group of them.
    Choose(TrafficPolicy, Step, Group),
}

/// 80 bits of a hash of a ServicePort's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId([u8; 10]);

impl PortId {
    pub fn of(name: &ServicePortName) -> Self {
        PortId(hash(format!("{name}").as_bytes()))
    }
}

impl ChainKey {
    pub fn table(&self) -> Table {
        match self {
            ChainKey::Base(base) => base.table(),
            ChainKey::Node(tree, _) => tree.table(),
            ChainKey::Port(..) => Table::Nat,
        }
    }

    pub fn name(&self, family: Family) -> ChainName {
        let mut name = ChainName::default();
        // Cannot fail: every form below is at most 28 bytes of ASCII.
        let _ = match self {
            ChainKey::Base(base) => name.write_str(base.name()),
            ChainKey::Node(tree, prefix) => write_node(&mut name, family, *tree, prefix),
            ChainKey::Port(id, part) => write_part(&mut name, *id, part),
        };
        name
    }
}

fn write_node(name: &mut ChainName, family: Family, tree: Tree, prefix: &Prefix) -> fmt::Result {
    /// What a name of 28 characters leaves for the prefix.
    const ROOM: usize = 19;
    let text = prefix.digits(family, tree);
    write!(name, "{OURS}{}-", tree.letters())?;
    match text.len() {
        0 => name.write_str("any"),
        1..=ROOM => name.write_str(&text),
        _ => write_base32(name, &hash(text.as_bytes())),
    }
}

fn write_part(name: &mut ChainName, id: PortId, part: &Part) -> fmt::Result {
    name.write_str(OURS)?;
    match part {
        Part::External => name.write_str("EXT")?,
        Part::Firewall => name.write_str("FW")?,
        Part::Choose(TrafficPolicy::Cluster, _, Group::ALL) => name.write_str("SVC")?,
        Part::Choose(TrafficPolicy::Local, _, Group::ALL) => name.write_str("SVL")?,
        Part::Choose(policy, step, group) => {
            name.write_char(match (policy, step) {
                (TrafficPolicy::Cluster, Step::Pick) => 'C',
                (TrafficPolicy::Local, Step::Pick) => 'L',
                (TrafficPolicy::Cluster, Step::Recall) => 'R',
                (TrafficPolicy::Local, Step::Recall) => 'S',
            })?;
            group.write_digits(name)?;
        }
    }
    name.write_char('-')?;
    write_base32(name, &id.0)
}

/// The `xt_recent` list of the clients that an endpoint has. Survives resyncs and restarts: it depends on names only.
pub fn recent_list(port: &ServicePortName, endpoint: &Endpoint) -> String {
    let mut list = OURS.to_owned();
    let identity = format!("{port} {} {}", endpoint.address, endpoint.port);
    // Writing to a String cannot fail.
    let _ = write_base32(&mut list, &hash(identity.as_bytes()));
    list
}

pub(super) fn hash(bytes: &[u8]) -> [u8; 10] {
    let digest = digest(&SHA256, bytes);
    let mut short = [0; 10];
    short.copy_from_slice(&digest.as_ref()[..10]);
    short
}

/// RFC 4648 without padding: 16 characters.
fn write_base32(out: &mut impl Write, bytes: &[u8; 10]) -> fmt::Result {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    for five in bytes.chunks(5) {
        let bits = five.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        for place in (0..8).rev() {
            out.write_char(char::from(ALPHABET[(bits >> (5 * place)) as usize & 31]))?;
        }
    }
    Ok(())
}

/// A chain's name without an allocation: there are many, briefly.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    bytes: [u8; 28],
    length: u8,
}

impl ChainName {
    pub fn as_str(&self) -> &str {
        // Only `write_str` fills it, with whole strings.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl Write for ChainName {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let start = usize::from(self.length);
        let end = start + text.len();
        self.bytes.get_mut(start..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end as u8;
        Ok(())
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc() {
        let mut text = String::new();
        write_base32(&mut text, b"foobarfoob").unwrap();
        // `printf foobarfoob | base32`
        assert_eq!(text, "MZXW6YTBOJTG633C");
    }

    #[test]
    fn a_group_has_the_longest_name_there_is() {
        let group = Group::ALL.child(1).child(2).child(10).child(15);
        let key = ChainKey::Port(PortId([255; 10]), Part::Choose(TrafficPolicy::Cluster, Step::Pick, group));
        assert_eq!(key.name(Family::V4).as_str(), "FERRO-C12af-7777777777777777");
        assert_eq!(key.name(Family::V4).as_str().len(), 28);
    }
}
