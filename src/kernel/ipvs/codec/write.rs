//! Requests.

use std::net::{IpAddr, SocketAddr};

use super::constants::{self, destination as d, service as s, top};
use super::{ADDRESS, METHODS, family_number};
use crate::kernel::ipvs::command::ipv4_mask;
use crate::kernel::ipvs::{Command, Destination, Service, Timeouts, VirtualServer};
use crate::kernel::netlink::Request;
use crate::kernel::netlink::generic;
use crate::model::Family;

const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// Every flag is set to what is given: also those that are to go.
const ALL_FLAGS: u32 = u32::MAX;

/// The message that does what the `Display` of the command says.
pub fn command(family: generic::Family, command: &Command) -> Request {
    use constants::command::*;
    match command {
        Command::AddService(service) => full_service(family, NEW_SERVICE, service),
        Command::SetService(service) => full_service(family, SET_SERVICE, service),
        Command::DeleteService(server) => of_server(family, DELETE_SERVICE, server),
        Command::AddDestination(server, to) => full_destination(family, NEW_DESTINATION, server, to),
        Command::SetDestination(server, to) => full_destination(family, SET_DESTINATION, server, to),
        Command::DeleteDestination(server, at) => delete_destination(family, server, *at),
    }
}

/// `ipvsadm -Ln`
pub fn list_services(family: generic::Family) -> Request {
    family.request(constants::command::GET_SERVICE)
}

/// `ipvsadm -Ln -t ADDRESS:PORT`
pub fn list_destinations(family: generic::Family, server: &VirtualServer) -> Request {
    of_server(family, constants::command::GET_DESTINATION, server)
}

/// `ipvsadm -Ln --timeout`
pub fn timeouts(family: generic::Family) -> Request {
    family.request(constants::command::GET_CONFIG)
}

/// `ipvsadm --set TCP TCP_FIN UDP`
pub fn set_timeouts(family: generic::Family, timeouts: Timeouts) -> Request {
    let mut request = family.request(constants::command::SET_CONFIG);
    request
        .attribute(top::TIMEOUT_TCP, &timeouts.tcp.to_ne_bytes())
        .attribute(top::TIMEOUT_TCP_FIN, &timeouts.tcp_fin.to_ne_bytes())
        .attribute(top::TIMEOUT_UDP, &timeouts.udp.to_ne_bytes());
    request
}

/// The first line of `ipvsadm -Ln`.
pub fn version(family: generic::Family) -> Request {
    family.request(constants::command::GET_INFO)
}

fn of_server(family: generic::Family, command: u8, server: &VirtualServer) -> Request {
    let mut request = family.request(command);
    request.nested(top::SERVICE | NESTED, |request| write_server(request, server));
    request
}

fn full_service(family: generic::Family, command: u8, service: &Service) -> Request {
    let flags = [service.flags.bits().to_ne_bytes(), ALL_FLAGS.to_ne_bytes()].concat();
    let mut request = family.request(command);
    request.nested(top::SERVICE | NESTED, |request| {
        write_server(request, &service.server);
        request
            .text(s::SCHEDULER, &service.scheduler)
            .attribute(s::FLAGS, &flags)
            .attribute(s::TIMEOUT, &service.timeout.to_ne_bytes())
            .attribute(s::NETMASK, &netmask(service));
    });
    request
}

/// An IPv4 netmask is one, an IPv6 netmask is a prefix length.
fn netmask(service: &Service) -> [u8; 4] {
    match service.server.family() {
        Family::V4 => ipv4_mask(service.prefix).to_be_bytes(),
        Family::V6 => u32::from(service.prefix).to_ne_bytes(),
    }
}

fn write_server(request: &mut Request, server: &VirtualServer) {
    request.attribute(s::FAMILY, &family_number(server.family()).to_ne_bytes());
    match *server {
        VirtualServer::Address { address, protocol, port } => {
            request
                .attribute(s::PROTOCOL, &u16::from(protocol.number()).to_ne_bytes())
                .attribute(s::ADDRESS, &padded(address))
                .attribute(s::PORT, &port.to_be_bytes());
        }
        VirtualServer::Mark { mark, .. } => {
            request.attribute(s::MARK, &mark.to_ne_bytes());
        }
    }
}

fn full_destination(
    family: generic::Family,
    command: u8,
    server: &VirtualServer,
    to: &Destination,
) -> Request {
    let method = METHODS.iter().position(|method| *method == to.method).unwrap_or_default() as u32;
    let mut request = of_server(family, command, server);
    request.nested(top::DESTINATION | NESTED, |request| {
        write_at(request, to.at());
        request
            .attribute(d::METHOD, &method.to_ne_bytes())
            .attribute(d::WEIGHT, &to.weight.to_ne_bytes())
            .attribute(d::UPPER_THRESHOLD, &to.upper_threshold.to_ne_bytes())
            .attribute(d::LOWER_THRESHOLD, &to.lower_threshold.to_ne_bytes());
    });
    request
}

fn delete_destination(family: generic::Family, server: &VirtualServer, at: SocketAddr) -> Request {
    let mut request = of_server(family, constants::command::DELETE_DESTINATION, server);
    request.nested(top::DESTINATION | NESTED, |request| write_at(request, at));
    request
}

fn write_at(request: &mut Request, at: SocketAddr) {
    request
        .attribute(d::FAMILY, &family_number(Family::of(at.ip())).to_ne_bytes())
        .attribute(d::ADDRESS, &padded(at.ip()))
        .attribute(d::PORT, &at.port().to_be_bytes());
}

fn padded(address: IpAddr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    bytes
}
