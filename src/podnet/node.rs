//! What a pod network has to know of a Node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::Family;
use crate::sync::objects::Node;

/// A Node, this one or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: Arc<str>,
    /// Another one under the same name is another Node.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// Of type InternalIP, as the Node lists them.
    pub addresses: Box<[IpAddr]>,
    /// Networks of its pods, sorted, none twice.
    pub pod_cidrs: Box<[IpNet]>,
}

impl Peer {
    pub fn addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    }
}

impl From<&Node> for Peer {
    fn from(node: &Node) -> Self {
        let mut pod_cidrs: Vec<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).collect();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        Peer {
            name: Arc::clone(&node.name),
            uid: Arc::clone(&node.uid),
            created: node.created,
            addresses: node.internal_addresses.clone(),
            pod_cidrs: pod_cidrs.into(),
        }
    }
}
