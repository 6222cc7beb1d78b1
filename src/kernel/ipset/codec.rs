//! The messages that change sets. Numbers are big-endian and flagged as such, except for bytes and line numbers.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Change, Definition, Element, Marks, SetType};
use crate::kernel::netlink::Request;
use crate::model::{Family, Protocol};

/// `NFNL_SUBSYS_IPSET`
const SUBSYSTEM: u16 = 6 << 8;
/// Newer kernels speak 7 as well, which changes nothing here.
const PROTOCOL_VERSION: u8 = 6;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const BIG_ENDIAN: u16 = libc::NLA_F_NET_BYTEORDER as u16;

const CREATE: u16 = 2;
const DESTROY: u16 = 3;
const FLUSH: u16 = 4;
const SWAP: u16 = 6;
const LIST: u16 = 7;
const ADD: u16 = 9;
const DELETE: u16 = 10;
const TYPE: u16 = 13;

/// Attributes of a command.
pub(super) const PROTOCOL: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const TYPE_NAME: u16 = 3;
const OTHER_SET_NAME: u16 = 3;
pub(super) const REVISION: u16 = 4;
pub(super) const FAMILY: u16 = 5;
const FLAGS: u16 = 6;
pub(super) const DATA: u16 = 7;
pub(super) const ELEMENTS: u16 = 8;
const LINE: u16 = 9;
pub(super) const REVISION_MIN: u16 = 10;

/// Attributes of the data of a set or of an element.
pub(super) const IP: u16 = 1;
pub(super) const CIDR: u16 = 3;
pub(super) const PORT: u16 = 4;
pub(super) const PORT_TO: u16 = 5;
pub(super) const TIMEOUT: u16 = 6;
pub(super) const PROTO: u16 = 7;
pub(super) const CADT_FLAGS: u16 = 8;
/// Of a set.
pub(super) const MAX_ELEMENTS: u16 = 19;
pub(super) const NETMASK: u16 = 20;
pub(super) const NUMBER_OF_ELEMENTS: u16 = 24;
pub(super) const REFERENCES: u16 = 25;
/// Of an element.
pub(super) const IP2: u16 = 20;
pub(super) const CIDR2: u16 = 21;
pub(super) const SKBMARK: u16 = 27;

pub(super) const IPV4: u16 = 1;
pub(super) const IPV6: u16 = 2;

/// `IPSET_FLAG_WITH_SKBINFO`
pub(super) const WITH_MARKS: u32 = 1 << 6;
/// `IPSET_FLAG_LIST_HEADER`
const HEADERS_ONLY: u32 = 1 << 2;

/// Without `NLM_F_EXCL`, commands have the `-exist` of `ipset`.
fn command(number: u16) -> Request {
    let mut request = Request::new(SUBSYSTEM | number, 0, &[libc::AF_INET as u8, 0, 0, 0]);
    request.attribute(PROTOCOL, &[PROTOCOL_VERSION]);
    request
}

fn command_for(number: u16, set: &str) -> Request {
    let mut request = command(number);
    request.text(SET_NAME, set);
    request
}

/// Asks which revisions of a type the kernel has.
pub fn revisions(kind: SetType, family: Family) -> Request {
    let mut request = command(TYPE);
    request.text(TYPE_NAME, kind.name()).attribute(FAMILY, &[family_number(kind, family)]);
    request
}

/// `ipset list -terse`
pub fn list_headers() -> Request {
    let mut request = command(LIST);
    request.attribute(FLAGS | BIG_ENDIAN, &HEADERS_ONLY.to_be_bytes());
    request
}

/// `ipset list SET`
pub fn list(set: &str) -> Request {
    command_for(LIST, set)
}

pub fn create(definition: &Definition, revision: u8) -> Request {
    let Definition { name, kind, family, max_elements, marks } = definition;
    let mut request = command_for(CREATE, name);
    request
        .text(TYPE_NAME, kind.name())
        .attribute(REVISION, &[revision])
        .attribute(FAMILY, &[family_number(*kind, *family)])
        .nested(DATA | NESTED, |data| {
            match kind {
                SetType::BitmapPort => data
                    .attribute(PORT | BIG_ENDIAN, &u16::MIN.to_be_bytes())
                    .attribute(PORT_TO | BIG_ENDIAN, &u16::MAX.to_be_bytes()),
                _ => data.attribute(MAX_ELEMENTS | BIG_ENDIAN, &max_elements.to_be_bytes()),
            };
            if *marks == Marks::With {
                data.attribute(CADT_FLAGS | BIG_ENDIAN, &WITH_MARKS.to_be_bytes());
            }
        });
    request
}

pub fn destroy(set: &str) -> Request {
    command_for(DESTROY, set)
}

pub fn flush(set: &str) -> Request {
    command_for(FLUSH, set)
}

pub fn swap(one: &str, other: &str) -> Request {
    let mut request = command_for(SWAP, one);
    request.text(OTHER_SET_NAME, other);
    request
}

/// One message for changes with the same verb to the same set. The kernel stops at the first that it refuses.
pub fn change(changes: &[Change]) -> Option<Request> {
    let first = changes.first()?;
    let number = match first {
        Change::Add { .. } => ADD,
        Change::Remove { .. } => DELETE,
    };
    let mut request = command_for(number, first.set());
    // A message with many elements must have a line number. None of them has, so the kernel answers in the usual form.
    request.attribute(LINE, &0u32.to_ne_bytes()).nested(ELEMENTS | NESTED, |elements| {
        for change in changes {
            elements.nested(DATA | NESTED, |data| write_change(data, change));
        }
    });
    Some(request)
}

fn write_change(data: &mut Request, change: &Change) {
    write_element(data, change.element());
    if let Change::Add { member, .. } = change
        && let Some(mark) = member.mark
    {
        let mark_and_mask = u64::from(mark) << 32 | u64::from(u32::MAX);
        data.attribute(SKBMARK | BIG_ENDIAN, &mark_and_mask.to_be_bytes());
    }
}

fn write_element(data: &mut Request, element: &Element) {
    match element {
        Element::Ip(address) => write_address(data, IP, *address),
        Element::IpPort(address, protocol, port) => {
            write_address(data, IP, *address);
            write_port(data, *protocol, *port);
        }
        Element::IpPortNet(address, protocol, port, network) => {
            write_address(data, IP, *address);
            write_port(data, *protocol, *port);
            write_network(data, [IP2, CIDR2], network);
        }
        Element::NetNet(one, other) => {
            write_network(data, [IP, CIDR], one);
            write_network(data, [IP2, CIDR2], other);
        }
        Element::Port(port) => {
            data.attribute(PORT | BIG_ENDIAN, &port.to_be_bytes());
        }
    }
}

fn write_address(data: &mut Request, kind: u16, address: IpAddr) {
    data.nested(kind | NESTED, |nested| {
        match address {
            IpAddr::V4(address) => nested.attribute(IPV4 | BIG_ENDIAN, &address.octets()),
            IpAddr::V6(address) => nested.attribute(IPV6 | BIG_ENDIAN, &address.octets()),
        };
    });
}

fn write_network(data: &mut Request, [address, prefix]: [u16; 2], network: &IpNet) {
    write_address(data, address, network.network());
    data.attribute(prefix, &[network.prefix_len()]);
}

fn write_port(data: &mut Request, protocol: Protocol, port: u16) {
    data.attribute(PORT | BIG_ENDIAN, &port.to_be_bytes()).attribute(PROTO, &[protocol.number()]);
}

/// Ports have no family, so that a set of them is good for the rules of both.
fn family_number(kind: SetType, family: Family) -> u8 {
    let number = match (kind, family) {
        (SetType::BitmapPort, _) => libc::AF_UNSPEC,
        (_, Family::V4) => libc::AF_INET,
        (_, Family::V6) => libc::AF_INET6,
    };
    number as u8
}
