//! DEL: takes away what ADD gave, as far as it is there.

use std::net::IpAddr;

use super::attachment::AttachmentKey;
use super::config::Config;
use super::error::CniError;
use super::node::{self, Node};
use super::parameters::Parameters;
use super::result::CniResult;
use super::{host_ports, link};

pub fn del(config: &Config, parameters: &Parameters) -> Result<(), CniError> {
    let mut node = Node::open(config)?;
    let key = node::key(parameters);
    remove(config, &mut node, &key, told(config, &key))
}

/// Removes an attachment, its address last: nobody else gets it while anything leads there.
///
/// A record that cannot be written, as on a disk that is read-only, is no reason to keep the pod from ending: without an
/// interface it is taken back when addresses run short, by GC, or after a boot.
pub fn remove(
    config: &Config,
    node: &mut Node,
    key: &AttachmentKey,
    told: Vec<IpAddr>,
) -> Result<(), CniError> {
    let node_end = key.node_end(&config.name);
    link::disconnect(&mut node.network, &node_end)?;
    let held = node::note(node.held_by(key)).filter(|held| !held.is_empty());
    host_ports::close(&node_end, &held.unwrap_or(told), &config.runtime_config.port_mappings)?;
    node::note(node.release(key));
    Ok(())
}

/// The addresses by which the runtime remembers the attachment.
fn told(config: &Config, key: &AttachmentKey) -> Vec<IpAddr> {
    let Some(Ok(result)) = config.prev_result.as_ref().map(CniResult::parse) else { return Vec::new() };
    let Some((place, _)) = result.pod_interface(&key.interface) else { return Vec::new() };
    let of_interface = result.ips.iter().filter(|ip| ip.interface == Some(place));
    of_interface.map(|ip| ip.address.addr()).collect()
}
