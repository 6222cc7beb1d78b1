//! Keys of elements, from frontends and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::{Keying, SlotMap};
use super::slots::Target;
use crate::kernel::nftables::element::ElementValue;
use crate::kernel::nftables::{Element, Value};
use crate::model::{Destination, Family, FrontendKey, Protocol};

/// `10.96.0.10 . tcp . 80`, or `tcp . 30080`
pub fn value(place: &FrontendKey) -> Value {
    let (protocol, port) = (Value::protocol(place.protocol), Value::port(place.port));
    match place.destination {
        Destination::Address(address) => Value::address(address).and(protocol).and(port),
        Destination::Node => protocol.and(port),
    }
}

/// `10.96.0.10 . tcp . 80 . 2 : 10.244.1.5 . 8080`
pub fn slot(place: &FrontendKey, slot: usize, target: &Target) -> Element {
    let endpoint = Value::address(target.0).and(Value::port(target.1));
    Element::of_map(value(place).and(Value::integer(slot as u32)), endpoint)
}

/// What deletes an element.
pub fn alone(element: &Element) -> Element {
    Element { last: element.last, ..Element::of_set(element.key) }
}

/// The inverse of [`slot`].
pub fn parse_slot(map: SlotMap, family: Family, element: &Element) -> Option<(FrontendKey, usize, Target)> {
    let mut key = Key::new(family, element.key.as_bytes());
    let place = key.place(map.keying)?;
    let number = key.number()?;
    (number < map.slots).then_some((place, number as usize, target(family, element)?))
}

/// The endpoint that an element leads to.
pub fn target(family: Family, element: &Element) -> Option<Target> {
    let ElementValue::Value(data) = &element.data else { return None };
    let mut key = Key::new(family, data.as_bytes());
    Some((key.address()?, key.port()?))
}

/// The frontend that a remembered client used, by an address also if it is a NodePort.
pub fn of_client(family: Family, element: &Element) -> Option<FrontendKey> {
    let mut key = Key::new(family, element.key.as_bytes());
    key.address()?;
    key.place(Keying::Address)
}

/// Reads a key from its beginning. Each field fills registers of 4 bytes.
pub struct Key<'a> {
    family: Family,
    rest: &'a [u8],
}

impl<'a> Key<'a> {
    pub fn new(family: Family, bytes: &'a [u8]) -> Self {
        Key { family, rest: bytes }
    }

    pub fn place(&mut self, keying: Keying) -> Option<FrontendKey> {
        let destination = match keying {
            Keying::Node => Destination::Node,
            Keying::Address => Destination::Address(self.address()?),
        };
        let [number, ..] = self.register()?;
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = protocols.into_iter().find(|protocol| protocol.number() == number)?;
        Some(FrontendKey { destination, protocol, port: self.port()? })
    }

    pub fn address(&mut self) -> Option<IpAddr> {
        match self.family {
            Family::V4 => Some(Ipv4Addr::from(self.register()?).into()),
            Family::V6 => {
                let (octets, rest) = self.rest.split_first_chunk::<16>()?;
                self.rest = rest;
                Some(Ipv6Addr::from(*octets).into())
            }
        }
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.register()?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn number(&mut self) -> Option<u32> {
        self.register().map(u32::from_ne_bytes)
    }

    fn register(&mut self) -> Option<[u8; 4]> {
        let (register, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(*register)
    }
}
