//! Answers. Attributes that are not known are passed over; `None` is for what lacks something or makes no sense.

use std::net::IpAddr;

use super::constants::{destination as d, info, service as s, statistics, top};
use super::{METHOD_MASK, METHODS, family_number};
use crate::kernel::ipvs::{
    Connections, Destination, Flags, Service, Statistics, Timeouts, Version, VirtualServer,
};
use crate::kernel::netlink::{Attributes, generic};
use crate::model::{Family, Protocol};

/// One level of attributes.
#[derive(Clone)]
struct Level<'a>(Attributes<'a>);

impl<'a> Level<'a> {
    fn top(payload: &'a [u8]) -> Self {
        Level(Attributes::after(generic::HEADER, payload))
    }

    fn nested(&self, kind: u16) -> Option<Self> {
        self.find(kind).map(|value| Level(Attributes(value)))
    }

    fn find(&self, wanted: u16) -> Option<&'a [u8]> {
        self.0.value(wanted)
    }

    fn array<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.find(kind)?.try_into().ok()
    }

    fn number_16(&self, kind: u16) -> Option<u16> {
        self.array(kind).map(u16::from_ne_bytes)
    }

    fn port(&self, kind: u16) -> Option<u16> {
        self.array(kind).map(u16::from_be_bytes)
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.array(kind).map(u32::from_ne_bytes)
    }

    /// Of either size.
    fn counter(&self, kind: u16) -> Option<u64> {
        self.array(kind).map(u64::from_ne_bytes).or_else(|| self.number(kind).map(u64::from))
    }

    fn family(&self, kind: u16) -> Option<Family> {
        let number = self.number_16(kind)?;
        Family::ALL.into_iter().find(|family| family_number(*family) == number)
    }

    fn address(&self, kind: u16, family: Family) -> Option<IpAddr> {
        let value = self.find(kind)?;
        match family {
            Family::V4 => Some((*value.first_chunk::<4>()?).into()),
            Family::V6 => Some((*value.first_chunk::<16>()?).into()),
        }
    }
}

pub fn parse_service(payload: &[u8]) -> Option<(Service, Statistics)> {
    let attributes = Level::top(payload).nested(top::SERVICE)?;
    let server = parse_server(&attributes)?;
    let [f0, f1, f2, f3, ..] = attributes.array::<8>(s::FLAGS)?;
    let netmask = attributes.array(s::NETMASK)?;
    let service = Service {
        server,
        scheduler: parse_text(attributes.find(s::SCHEDULER)?).into(),
        flags: Flags::from_bits(u32::from_ne_bytes([f0, f1, f2, f3])),
        timeout: attributes.number(s::TIMEOUT)?,
        prefix: parse_netmask(server.family(), netmask),
    };
    Some((service, parse_statistics(&attributes, [s::STATISTICS_64, s::STATISTICS])))
}

fn parse_server(attributes: &Level<'_>) -> Option<VirtualServer> {
    let family = attributes.family(s::FAMILY)?;
    if let Some(mark) = attributes.number(s::MARK) {
        return Some(VirtualServer::Mark { family, mark });
    }
    let number = attributes.number_16(s::PROTOCOL)?;
    let mut protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
    Some(VirtualServer::Address {
        address: attributes.address(s::ADDRESS, family)?,
        protocol: protocols.find(|protocol| u16::from(protocol.number()) == number)?,
        port: attributes.port(s::PORT)?,
    })
}

/// A netmask with holes, which only somebody else can have set, is as long as it has ones.
fn parse_netmask(family: Family, netmask: [u8; 4]) -> u8 {
    match family {
        Family::V4 => u32::from_ne_bytes(netmask).count_ones() as u8,
        Family::V6 => u32::from_ne_bytes(netmask).min(128) as u8,
    }
}

/// Without its closing zero.
fn parse_text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A destination of a virtual server of a family.
pub fn parse_destination(family: Family, payload: &[u8]) -> Option<(Destination, Connections, Statistics)> {
    let attributes = Level::top(payload).nested(top::DESTINATION)?;
    let family = attributes.family(d::FAMILY).unwrap_or(family);
    let method = attributes.number(d::METHOD)? & METHOD_MASK;
    let destination = Destination {
        address: attributes.address(d::ADDRESS, family)?,
        port: attributes.port(d::PORT)?,
        weight: attributes.number(d::WEIGHT)?,
        method: *METHODS.get(method as usize)?,
        upper_threshold: attributes.number(d::UPPER_THRESHOLD)?,
        lower_threshold: attributes.number(d::LOWER_THRESHOLD)?,
    };
    let connections = Connections {
        active: attributes.number(d::ACTIVE)?,
        inactive: attributes.number(d::INACTIVE)?,
        persistent: attributes.number(d::PERSISTENT)?,
    };
    Some((destination, connections, parse_statistics(&attributes, [d::STATISTICS_64, d::STATISTICS])))
}

/// The first of these that is there; nothing counted where none is.
fn parse_statistics(attributes: &Level<'_>, kinds: [u16; 2]) -> Statistics {
    let Some(counters) = kinds.into_iter().find_map(|kind| attributes.nested(kind)) else {
        return Statistics::default();
    };
    let counter = |kind| counters.counter(kind).unwrap_or_default();
    Statistics {
        connections: counter(statistics::CONNECTIONS),
        packets_in: counter(statistics::PACKETS_IN),
        packets_out: counter(statistics::PACKETS_OUT),
        bytes_in: counter(statistics::BYTES_IN),
        bytes_out: counter(statistics::BYTES_OUT),
    }
}

pub fn parse_timeouts(payload: &[u8]) -> Option<Timeouts> {
    let attributes = Level::top(payload);
    Some(Timeouts {
        tcp: attributes.number(top::TIMEOUT_TCP)?,
        tcp_fin: attributes.number(top::TIMEOUT_TCP_FIN)?,
        udp: attributes.number(top::TIMEOUT_UDP)?,
    })
}

pub fn parse_version(payload: &[u8]) -> Option<Version> {
    let attributes = Level::top(payload);
    let [_, major, minor, patch] = attributes.number(info::VERSION)?.to_be_bytes();
    let connection_table_size = attributes.number(info::CONNECTION_TABLE_SIZE)?;
    Some(Version { major, minor, patch, connection_table_size })
}
