//! Destinations as strings of nibbles, and their prefixes: what dispatch trees branch on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dispatch::Tree;
use crate::model::{Destination, Family, FrontendKey, Protocol};

/// A key as a string of nibbles: those of the address, one for the protocol, four for the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// From the left.
    address: u128,
    /// Protocol, then port: five nibbles.
    tail: u32,
}

const TAIL_NIBBLES: u8 = 5;

fn address_nibbles(family: Family) -> u8 {
    family.bits() / 4
}

impl Path {
    const ZERO: Path = Path { address: 0, tail: 0 };

    pub fn of_address(address: IpAddr) -> Path {
        let address = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address),
        };
        Path { address, tail: 0 }
    }

    pub fn of_frontend(key: &FrontendKey) -> Path {
        let address = match key.destination {
            Destination::Address(address) => Path::of_address(address).address,
            Destination::Node => 0,
        };
        Path { address, tail: (key.protocol as u32) << 16 | u32::from(key.port) }
    }

    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from((self.address >> 96) as u32).into(),
            Family::V6 => Ipv6Addr::from(self.address).into(),
        }
    }

    pub fn protocol(&self) -> Protocol {
        match self.tail >> 16 {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => Protocol::Sctp,
        }
    }

    pub fn port(&self) -> u16 {
        self.tail as u16
    }

    pub fn frontend(&self, family: Family, tree: Tree) -> FrontendKey {
        let destination = match tree {
            Tree::NodePort | Tree::NodePortGuard => Destination::Node,
            _ => Destination::Address(self.address(family)),
        };
        FrontendKey { destination, protocol: self.protocol(), port: self.port() }
    }

    fn nibble(&self, family: Family, depth: u8) -> u8 {
        let addresses = address_nibbles(family);
        let nibble = if depth < addresses {
            (self.address >> (124 - 4 * u32::from(depth))) as u8
        } else {
            (self.tail >> (16 - 4 * u32::from(depth - addresses))) as u8
        };
        nibble & 0xf
    }

    pub fn common_depth(&self, other: &Path, family: Family) -> u8 {
        let all = address_nibbles(family) + TAIL_NIBBLES;
        (0..all).find(|&at| self.nibble(family, at) != other.nibble(family, at)).unwrap_or(all)
    }
}

/// All keys that begin with the same nibbles. Ordered so that a prefix stands right before all that are below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: Path,
    depth: u8,
}

impl Prefix {
    pub const EVERYTHING: Prefix = Prefix { first: Path::ZERO, depth: 0 };

    pub fn of(path: Path, depth: u8, family: Family) -> Prefix {
        let (address, tail) = free_bits(depth, family);
        Prefix { first: Path { address: path.address & !address, tail: path.tail & !tail }, depth }
    }

    /// Where the keys without an address are: node ports.
    pub fn nowhere(family: Family) -> Prefix {
        Prefix { depth: address_nibbles(family), ..Prefix::EVERYTHING }
    }

    /// Every prefix of a key, itself included.
    pub fn all_of(path: Path, family: Family) -> impl Iterator<Item = Prefix> {
        (0..=address_nibbles(family) + TAIL_NIBBLES).map(move |depth| Prefix::of(path, depth, family))
    }

    pub fn first(&self) -> Path {
        self.first
    }

    pub fn last(&self, family: Family) -> Path {
        let (address, tail) = free_bits(self.depth, family);
        Path { address: self.first.address | address, tail: self.first.tail | tail }
    }

    /// The greatest that is below this one, or itself.
    pub fn last_below(&self, family: Family) -> Prefix {
        Prefix { first: self.last(family), depth: u8::MAX }
    }

    /// Bits of the address that are fixed.
    pub fn network_bits(&self, family: Family) -> u8 {
        (4 * self.depth).min(family.bits())
    }

    /// `None` where more than one protocol is below.
    pub fn protocol(&self, family: Family) -> Option<Protocol> {
        (self.depth > address_nibbles(family)).then(|| self.first.protocol())
    }

    /// `None` where every port is below.
    pub fn ports(&self, family: Family) -> Option<(u16, u16)> {
        (self.depth > address_nibbles(family) + 1).then(|| (self.first.port(), self.last(family).port()))
    }

    pub fn child(&self, nibble: u8, family: Family) -> Prefix {
        let mut first = self.first;
        let addresses = address_nibbles(family);
        if self.depth < addresses {
            first.address |= u128::from(nibble) << (124 - 4 * u32::from(self.depth));
        } else {
            first.tail |= u32::from(nibble) << (16 - 4 * u32::from(self.depth - addresses));
        }
        Prefix { first, depth: self.depth + 1 }
    }

    /// For the chain's name: hex, with a letter for the protocol.
    pub fn digits(&self, family: Family, tree: Tree) -> String {
        let addresses = address_nibbles(family);
        let (from, to) = match tree {
            Tree::NodePort | Tree::NodePortGuard => (addresses, self.depth),
            Tree::Hairpin => (0, self.depth.min(addresses)),
            _ => (0, self.depth),
        };
        (from..to)
            .filter_map(|at| match self.first.nibble(family, at) {
                protocol if at == addresses => Some(['t', 'u', 's'][usize::from(protocol.min(2))]),
                nibble => char::from_digit(nibble.into(), 16),
            })
            .collect()
    }
}

/// The bits that a prefix of this depth leaves open, of the address and of the tail.
fn free_bits(depth: u8, family: Family) -> (u128, u32) {
    let addresses = address_nibbles(family);
    let whole = !0u128 << (128 - u32::from(family.bits()));
    let fixed = 4 * u32::from(depth.min(addresses));
    let address = whole & u128::MAX.checked_shr(fixed).unwrap_or(0);
    let tail_fixed = 4 * u32::from(depth.saturating_sub(addresses).min(TAIL_NIBBLES));
    (address, 0xf_ffff >> tail_fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, depth: u8) -> Prefix {
        let address: IpAddr = address.parse().unwrap();
        Prefix::of(Path::of_address(address), depth, Family::of(address))
    }

    #[test]
    fn a_prefix_holds_all_that_begins_like_it() {
        let network = prefix("10.96.7.1", 6);
        assert_eq!(network.first().address(Family::V4), IpAddr::from([10, 96, 7, 0]));
        assert_eq!(network.last(Family::V4).address(Family::V4), IpAddr::from([10, 96, 7, 255]));
        assert_eq!(network.last(Family::V4).port(), 0xffff);
        assert_eq!(network.network_bits(Family::V4), 24);
        assert_eq!(network.digits(Family::V4, Tree::ClusterIp), "0a6007");
    }

    #[test]
    fn below_the_address_come_protocol_and_ports() {
        let key = FrontendKey {
            destination: Destination::Address(IpAddr::from([10, 96, 0, 1])),
            protocol: Protocol::Udp,
            port: 0x1234,
        };
        let prefix = Prefix::of(Path::of_frontend(&key), 11, Family::V4);
        assert_eq!(prefix.protocol(Family::V4), Some(Protocol::Udp));
        assert_eq!(prefix.ports(Family::V4), Some((0x1200, 0x12ff)));
        assert_eq!(prefix.digits(Family::V4, Tree::ClusterIp), "0a600001u12");
        assert_eq!(Prefix::of(Path::of_frontend(&key), 9, Family::V4).ports(Family::V4), None);
    }

    #[test]
    fn what_is_below_a_prefix_stands_right_after_it() {
        let outer = prefix("fd00:96::", 28);
        let inner = prefix("fd00:96::7", 31);
        assert!(outer < inner && inner <= outer.last_below(Family::V6));
        assert!(prefix("fd00:97::", 8) > outer.last_below(Family::V6));
        assert!(prefix("fd00:96::", 27) < outer);
    }
}
