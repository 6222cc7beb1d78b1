//! The table of one family.
//!
//! ```text
//! prerouting, output (not to 127.0.0.0/8 or ::1):
//!   fib daddr type local  dnat to ip daddr . meta l4proto . th dport map @ports-at
//!   fib daddr type local  dnat to meta l4proto . th dport map @ports
//! postrouting:
//!   ip saddr . ip daddr @own  masquerade fully-random          a pod that reaches itself
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::HostPortError;
use super::mapping::Mapped;
use crate::kernel::links;
use crate::kernel::nftables::chain::{ChainKind, Hook};
use crate::kernel::nftables::datatype::Datatype;
use crate::kernel::nftables::element::ElementValue;
use crate::kernel::nftables::expression::{FibLookup, FibScope, Membership, NatFlags, PacketEnd};
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::set::{SetData, Shape};
use crate::kernel::nftables::statement::{MappedNat, NatTarget};
use crate::kernel::nftables::{
    self, Chain, Element, Name, Nftables, NftablesError, Rule, Set, Statement, Transaction, Value,
};
use crate::model::{Family, Protocol, network_of_host};

const NAME: &str = "ferrovia-host-ports";
const PORTS: &str = "ports";
const PORTS_AT: &str = "ports-at";
const OWN: &str = "own";
/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const CHAINS: [(&str, Hook, i32); 3] = [
    ("prerouting", Hook::Prerouting, DSTNAT),
    ("output", Hook::Output, DSTNAT),
    ("postrouting", Hook::Postrouting, SRCNAT),
];

#[derive(Clone, Debug)]
pub struct Table {
    family: Family,
    table: nftables::Table,
}

/// Elements, with the set that each is in.
#[derive(Clone, Debug, Default)]
pub struct Found(Vec<(Name, Element)>);

impl Found {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn mapped(&self) -> Vec<Mapped> {
        self.0.iter().filter_map(|(_, element)| parse(element)).collect()
    }
}

impl Table {
    pub fn new(family: Family) -> Self {
        Table { family, table: nftables::Table::new(family, NAME) }
    }

    pub fn exists(&self, nftables: &mut dyn Nftables) -> Result<bool, NftablesError> {
        let tables = nftables.tables(self.table.family)?;
        Ok(tables.into_iter().any(|found| found.table == self.table))
    }

    /// The table with all that is in it.
    pub fn delete(&self) -> Transaction {
        let mut transaction = Transaction::new(&self.table);
        transaction.delete_table();
        transaction
    }

    /// Everything whose owner is meant.
    pub fn find(
        &self,
        nftables: &mut dyn Nftables,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Found, NftablesError> {
        let mut found = Found::default();
        for set in self.sets() {
            let name = set.name.clone();
            nftables.elements(&self.table, &set, &mut |element| {
                if is_meant(owner(element)) {
                    found.0.push((name.clone(), element.clone()));
                }
            })?;
        }
        Ok(found)
    }

    /// What is in the way of new elements and nobody's. An owner that has its link is an error.
    pub fn contested(
        &self,
        nftables: &mut dyn Nftables,
        owner: &str,
        wanted: &[Mapped],
    ) -> Result<Found, HostPortError> {
        let keys: Vec<Value> = wanted.iter().map(key).chain(own_key(wanted)).collect();
        let mut found = self.find(nftables, &|other| other != owner)?;
        found.0.retain(|(_, element)| keys.contains(&element.key));
        let mut living = found.0.iter().filter(|(_, element)| links::exists(self::owner(element)));
        match living.find_map(|(_, element)| Some((parse(element)?, self::owner(element)))) {
            None => Ok(found),
            Some((mapped, owner)) => Err(HostPortError::Taken { mapped, owner: owner.to_owned() }),
        }
    }

    /// The skeleton, if it is not there, and the elements instead of dead ones.
    pub fn add(&self, owner: &str, wanted: &[Mapped], dead: &Found) -> Transaction {
        let mut transaction = Transaction::new(&self.table);
        transaction.add_table(Some("ports of the node that lead to pods"));
        for set in self.sets() {
            transaction.add_set(set);
        }
        for (name, hook, priority) in CHAINS {
            transaction.add_chain(Chain::base(name, ChainKind::Nat, hook, priority));
            transaction.flush_chain(&name.into());
        }
        self.add_rules(&mut transaction);
        delete(&mut transaction, dead);
        if let Some(key) = own_key(wanted) {
            transaction.add_element(&OWN.into(), &Element::of_set(key).comment(owner));
        }
        for mapped in wanted {
            let pod = Value::address(mapped.pod.ip()).and(Value::port(mapped.pod.port()));
            let set = if mapped.at.is_some() { PORTS_AT } else { PORTS };
            transaction.add_element(&set.into(), &Element::of_map(key(mapped), pod).comment(owner));
        }
        transaction
    }

    pub fn remove(&self, found: &Found) -> Transaction {
        let mut transaction = Transaction::new(&self.table);
        delete(&mut transaction, found);
        transaction
    }

    fn add_rules(&self, transaction: &mut Transaction) {
        let local = FibLookup { end: PacketEnd::Destination, scope: FibScope::Anywhere };
        let destination = Selector::DestinationAddress(self.family);
        let outside = Statement::Outside(destination.clone(), loopback(self.family));
        for (chain, start) in [("prerouting", None), ("output", Some(outside))] {
            for (key, map) in [(self.key_at(), PORTS_AT), (key_anywhere(), PORTS)] {
                let data = MappedNat::AddressAndPort;
                let target = NatTarget::Map { family: self.family, key, map: map.into(), data };
                let mut statements: Vec<Statement> = start.iter().cloned().collect();
                statements.push(Statement::IsLocal(Selector::AddressType(local)));
                statements.push(Statement::DestinationNat(target));
                transaction.add_rule(chain, Rule::new(statements));
            }
        }
        let key = vec![Selector::SourceAddress(self.family), destination];
        let own = Statement::Lookup { key, membership: Membership::In, set: OWN.into() };
        let masquerade = Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() });
        transaction.add_rule("postrouting", Rule::new([own, masquerade]));
    }

    fn sets(&self) -> [Set; 3] {
        let address = match self.family {
            Family::V4 => Datatype::Ipv4Address,
            Family::V6 => Datatype::Ipv6Address,
        };
        let pod = || SetData::Value(Shape::types(&[address, Datatype::Port]));
        [
            Set::map(PORTS, Shape::types(&[Datatype::Protocol, Datatype::Port]), pod()),
            Set::map(PORTS_AT, Shape::types(&[address, Datatype::Protocol, Datatype::Port]), pod()),
            Set::new(OWN, Shape::types(&[address, address])),
        ]
    }

    fn key_at(&self) -> Vec<Selector> {
        let mut key = vec![Selector::DestinationAddress(self.family)];
        key.extend(key_anywhere());
        key
    }
}

fn key_anywhere() -> Vec<Selector> {
    vec![Selector::Protocol, Selector::DestinationPort]
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        Family::V6 => network_of_host(Ipv6Addr::LOCALHOST.into()),
    }
}

fn delete(transaction: &mut Transaction, found: &Found) {
    for (set, element) in &found.0 {
        transaction.delete_element(set, element);
    }
}

fn owner(element: &Element) -> &str {
    element.comment.as_ref().map(|comment| comment.as_str()).unwrap_or_default()
}

/// From the pod to itself: all of one family are of one address.
fn own_key(wanted: &[Mapped]) -> Option<Value> {
    let address = Value::address(wanted.first()?.pod.ip());
    Some(address.and(address))
}

fn key(mapped: &Mapped) -> Value {
    let anywhere = Value::protocol(mapped.protocol).and(Value::port(mapped.port));
    mapped.at.map_or(anywhere, |address| Value::address(address).and(anywhere))
}

/// `None` for elements that are no ports.
fn parse(element: &Element) -> Option<Mapped> {
    let ElementValue::Value(pod) = &element.data else { return None };
    let (pod, pod_port) = address_and_rest(pod.as_bytes(), 4)?;
    let (at, rest) = match element.key.as_bytes().len() {
        8 => (None, element.key.as_bytes()),
        _ => address_and_rest(element.key.as_bytes(), 8).map(|(address, rest)| (Some(address), rest))?,
    };
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    Some(Mapped {
        protocol: known.into_iter().find(|protocol| Some(&protocol.number()) == rest.first())?,
        at,
        port: port(rest.get(4..)?)?,
        pod: SocketAddr::new(pod, port(pod_port)?),
    })
}

/// An address and the `length` bytes after it.
fn address_and_rest(bytes: &[u8], length: usize) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(bytes.len().checked_sub(length)?)?;
    let address = match address.len() {
        4 => <[u8; 4]>::try_from(address).ok()?.into(),
        16 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    Some((address, rest))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}
