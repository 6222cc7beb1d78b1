//! The messages that tell of sets. What is cut off or makes no sense is no set and no element.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::codec::{
    CADT_FLAGS, CIDR, CIDR2, DATA, ELEMENTS, FAMILY, IP, IP2, IPV4, IPV6, MAX_ELEMENTS, NETMASK,
    NUMBER_OF_ELEMENTS, PORT, PORT_TO, PROTO, REFERENCES, REVISION, REVISION_MIN, SET_NAME, SKBMARK, TIMEOUT,
    TYPE_NAME, WITH_MARKS,
};
use super::{Definition, Element, Header, Marks, Member, SetType};
use crate::kernel::netlink::Attributes;
use crate::model::{Family, Protocol};

/// `struct nfgenmsg`.
const FIXED: usize = 4;

/// The revisions of a type that the kernel has.
pub fn revisions(payload: &[u8]) -> Option<RangeInclusive<u8>> {
    Some(byte(find(payload, REVISION_MIN)?)?..=byte(find(payload, REVISION)?)?)
}

/// The type of the set that a message begins to list. A long list goes on in messages without it.
pub fn kind(payload: &[u8]) -> Option<SetType> {
    SetType::of_name(text(find(payload, TYPE_NAME)?)?)
}

pub fn header(payload: &[u8]) -> Option<Header> {
    let name = text(find(payload, SET_NAME)?)?;
    let options = Options::of(find(payload, DATA)?);
    let family = byte(find(payload, FAMILY)?)?;
    Some(Header {
        name: name.into(),
        definition: kind(payload).and_then(|kind| options.definition(name, kind, family)),
        elements: options.elements,
        references: options.references,
    })
}

/// What a set was created with, and how it is.
#[derive(Default)]
struct Options {
    max_elements: u32,
    flags: u32,
    ports: [Option<u16>; 2],
    /// A timeout or a netmask, which is not used here.
    has_others: bool,
    elements: u32,
    references: u32,
}

impl Options {
    fn of(data: &[u8]) -> Options {
        let mut options = Options::default();
        for (kind, value) in Attributes(data) {
            match kind {
                MAX_ELEMENTS => options.max_elements = number(value).unwrap_or_default(),
                CADT_FLAGS => options.flags = number(value).unwrap_or_default(),
                PORT => options.ports[0] = port(value),
                PORT_TO => options.ports[1] = port(value),
                NUMBER_OF_ELEMENTS => options.elements = number(value).unwrap_or_default(),
                REFERENCES => options.references = number(value).unwrap_or_default(),
                TIMEOUT | NETMASK => options.has_others = true,
                _ => {}
            }
        }
        options
    }

    fn definition(&self, name: &str, kind: SetType, family: u8) -> Option<Definition> {
        if self.has_others || self.flags & !WITH_MARKS != 0 {
            return None;
        }
        let (family, max_elements) = match (kind, i32::from(family)) {
            (SetType::BitmapPort, libc::AF_UNSPEC) if self.ports == [Some(0), Some(u16::MAX)] => {
                (Family::V4, 1 << 16)
            }
            (SetType::BitmapPort, _) => return None,
            (_, libc::AF_INET) => (Family::V4, self.max_elements),
            (_, libc::AF_INET6) => (Family::V6, self.max_elements),
            _ => return None,
        };
        let marks = if self.flags & WITH_MARKS == 0 { Marks::Without } else { Marks::With };
        Some(Definition { name: name.into(), kind, family, max_elements, marks })
    }
}

/// The members in a message that lists a set of this type.
pub fn members(kind: SetType, payload: &[u8]) -> impl Iterator<Item = Member> {
    let elements = find(payload, ELEMENTS).unwrap_or_default();
    Attributes(elements).filter_map(move |(_, data)| member(kind, data))
}

fn member(kind: SetType, data: &[u8]) -> Option<Member> {
    let (mut one, mut other, mut prefix, mut other_prefix) = (None, None, None, None);
    let (mut protocol, mut the_port, mut mark) = (None, None, None);
    for (kind, value) in Attributes(data) {
        match kind {
            IP => one = address(value),
            IP2 => other = address(value),
            CIDR => prefix = byte(value),
            CIDR2 => other_prefix = byte(value),
            PORT => the_port = port(value),
            PROTO => protocol = self::protocol(value),
            SKBMARK => mark = self::mark(value),
            _ => {}
        }
    }
    let element = match kind {
        SetType::HashIp => Element::Ip(one?),
        SetType::HashIpPort => Element::IpPort(one?, protocol?, the_port?),
        SetType::HashIpPortNet => {
            Element::IpPortNet(one?, protocol?, the_port?, network(other?, other_prefix)?)
        }
        SetType::HashNetNet => Element::NetNet(network(one?, prefix)?, network(other?, other_prefix)?),
        SetType::BitmapPort => Element::Port(the_port?),
    };
    Some(Member { element, mark })
}

fn find(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::after(FIXED, payload).value(wanted)
}

fn byte(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value.strip_suffix(&[0])?).ok()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn protocol(value: &[u8]) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| value == [protocol.number()])
}

/// The mark without its mask, which is all ones or, where there is no mark, all zeros.
fn mark(value: &[u8]) -> Option<u32> {
    let [mark, mask] = [number(value.get(..4)?)?, number(value.get(4..)?)?];
    (mask != 0).then_some(mark)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let (kind, value) = Attributes(value).next()?;
    match kind {
        IPV4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        IPV6 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

/// Without a prefix length, the network of one host.
fn network(address: IpAddr, prefix: Option<u8>) -> Option<IpNet> {
    IpNet::new(address, prefix.unwrap_or(Family::of(address).bits())).ok()
}
