//! GC: removes what no valid attachment holds.

use std::collections::HashSet;

use super::attachment::AttachmentKey;
use super::config::Config;
use super::error::CniError;
use super::node::Node;
use super::{del, host_ports};

/// Goes on past what cannot be removed. The runtime sees to it that no ADD is under way.
pub fn gc(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid_attachments else {
        return Err(CniError::Config("cni.dev/valid-attachments is missing".into()));
    };
    let valid: HashSet<AttachmentKey> = valid
        .iter()
        .map(|attachment| AttachmentKey {
            container_id: attachment.container_id.clone(),
            interface: attachment.ifname.clone(),
        })
        .collect();
    let mut node = Node::open(config)?;
    let holders = node.holders()?;
    let stale = holders.iter().filter(|key| !valid.contains(key));
    let mut errors: Vec<CniError> = stale.filter_map(|key| collect(config, &mut node, key).err()).collect();
    errors.extend(host_ports::collect(&mut node.network).err().map(CniError::from));
    match errors.len() {
        0 => Ok(()),
        count => Err(CniError::Incomplete(count, Box::new(errors.swap_remove(0)))),
    }
}

/// Unlike DEL, this says if the record could not be written.
fn collect(config: &Config, node: &mut Node, key: &AttachmentKey) -> Result<(), CniError> {
    let held = node.held_by(key)?;
    del::remove(config, node, key, held)?;
    node.release(key)
}
