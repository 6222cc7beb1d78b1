//! Which schedulers a kernel has.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::repair::Refusals;
use super::{Command, IpvsError, Service, VirtualServer};
use crate::kernel::netlink::NetlinkError;
use crate::model::Protocol;

/// In TEST-NET-2 (RFC 5737), where kube-proxy probes too.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0));
/// One that is taken is somebody else's.
const PORTS: RangeInclusive<u16> = 20000..=20015;

pub fn has_scheduler(
    name: &str,
    attempt: &mut dyn FnMut(&[Command]) -> Result<Refusals, NetlinkError>,
) -> Result<bool, IpvsError> {
    try_ports(name, attempt).map_err(|source| IpvsError::Probe { scheduler: name.into(), source })
}

fn try_ports(
    name: &str,
    attempt: &mut dyn FnMut(&[Command]) -> Result<Refusals, NetlinkError>,
) -> Result<bool, NetlinkError> {
    let mut taken = None;
    for port in PORTS {
        let server = VirtualServer::Address { address: ADDRESS, protocol: Protocol::Tcp, port };
        match attempt(&[Command::AddService(Service::new(server, name))])?.pop() {
            None => return delete(server, attempt).map(|()| true),
            Some((_, error)) => match error.refusal() {
                Some(libc::EEXIST) => taken = Some(error),
                // EINVAL is for names that are too long.
                Some(libc::ENOENT | libc::EINVAL) => return Ok(false),
                _ => return Err(error),
            },
        }
    }
    taken.map_or(Ok(false), Err)
}

fn delete(
    server: VirtualServer,
    attempt: &mut dyn FnMut(&[Command]) -> Result<Refusals, NetlinkError>,
) -> Result<(), NetlinkError> {
    match attempt(&[Command::DeleteService(server)])?.pop() {
        Some((_, error)) if error.refusal() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}
