//! The messages of ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Numbers in netfilter messages are big-endian, except for the masks of a filter.

use std::net::{IpAddr, SocketAddr};

use super::{Flow, Tuple};
use crate::kernel::netlink::{Attributes, Request};
use crate::model::{Family, Protocol};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `struct nfgenmsg`.
const FIXED: usize = 4;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;

const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

const FILTER_ORIGINAL: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM`: of the given tuple, compare the protocol.
const FILTER_BY_PROTOCOL: u32 = 1 << 3;

/// `conntrack -L -f FAMILY -p PROTOCOL`, filtered by the kernel from 5.8 on.
pub fn list(family: Family, protocol: Protocol) -> Request {
    let mut request = Request::new(SUBSYSTEM | GET, 0, &fixed(family));
    request.nested(TUPLE_ORIGINAL | NESTED, |tuple| {
        tuple.nested(TUPLE_PROTOCOL | NESTED, |layer4| {
            layer4.attribute(PROTOCOL_NUMBER, &[protocol.number()]);
        });
    });
    request.nested(FILTER | NESTED, |filter| {
        filter.attribute(FILTER_ORIGINAL, &FILTER_BY_PROTOCOL.to_ne_bytes());
    });
    request
}

/// `conntrack -D -p PROTOCOL -s SOURCE -d DESTINATION --sport PORT --dport PORT -w ZONE`, and only the entry with this id.
pub fn delete(flow: &Flow) -> Request {
    let family = Family::of(flow.original.source.ip());
    let mut request = Request::new(SUBSYSTEM | DELETE, 0, &fixed(family));
    request.nested(TUPLE_ORIGINAL | NESTED, |tuple| write_tuple(tuple, &flow.original, flow.protocol));
    if flow.zone != 0 {
        request.attribute(ZONE, &flow.zone.to_be_bytes());
    }
    request.attribute(ID, &flow.id);
    request
}

fn fixed(family: Family) -> [u8; FIXED] {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    [number as u8, 0, 0, 0]
}

fn write_tuple(request: &mut Request, tuple: &Tuple, protocol: Protocol) {
    let Tuple { source, destination } = tuple;
    request.nested(TUPLE_IP | NESTED, |layer3| {
        write_address(layer3, [IPV4_SOURCE, IPV6_SOURCE], source.ip());
        write_address(layer3, [IPV4_DESTINATION, IPV6_DESTINATION], destination.ip());
    });
    request.nested(TUPLE_PROTOCOL | NESTED, |layer4| {
        layer4
            .attribute(PROTOCOL_NUMBER, &[protocol.number()])
            .attribute(PROTOCOL_SOURCE_PORT, &source.port().to_be_bytes())
            .attribute(PROTOCOL_DESTINATION_PORT, &destination.port().to_be_bytes());
    });
}

fn write_address(request: &mut Request, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => request.attribute(v4, &address.octets()),
        IpAddr::V6(address) => request.attribute(v6, &address.octets()),
    };
}

/// The flow in the payload of a message; `None` for protocols without ports and for what makes no sense.
pub fn parse_flow(payload: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut zone, mut id) = (None, None, 0, None);
    for (kind, value) in Attributes::after(FIXED, payload) {
        match kind {
            TUPLE_ORIGINAL => original = parse_tuple(value),
            TUPLE_REPLY => reply = parse_tuple(value),
            ZONE => zone = u16::from_be_bytes(value.try_into().ok()?),
            ID => id = Some(value.try_into().ok()?),
            _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    Some(Flow { protocol, original, reply, zone, id: id? })
}

fn parse_tuple(value: &[u8]) -> Option<(Protocol, Tuple)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for (layer, content) in Attributes(value) {
        for (kind, value) in Attributes(content) {
            match (layer, kind) {
                (TUPLE_IP, IPV4_SOURCE | IPV6_SOURCE) => source = parse_address(value),
                (TUPLE_IP, IPV4_DESTINATION | IPV6_DESTINATION) => destination = parse_address(value),
                (TUPLE_PROTOCOL, PROTOCOL_NUMBER) => protocol = parse_protocol(value),
                (TUPLE_PROTOCOL, PROTOCOL_SOURCE_PORT) => source_port = parse_port(value),
                (TUPLE_PROTOCOL, PROTOCOL_DESTINATION_PORT) => destination_port = parse_port(value),
                _ => {}
            }
        }
    }
    let source = SocketAddr::new(source?, source_port?);
    let destination = SocketAddr::new(destination?, destination_port?);
    Some((protocol?, Tuple { source, destination }))
}

fn parse_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(<[u8; 4]>::try_from(value).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(value).ok()?.into()),
        _ => None,
    }
}

fn parse_port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn parse_protocol(value: &[u8]) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| value == [protocol.number()])
}
