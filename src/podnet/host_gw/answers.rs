//! What others want to know of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::HostGw;
use crate::kernel::routes::{Routes, Way};
use crate::model::Family;
use crate::podnet::{Obstacle, Peer, Problem};

impl<R: Routes> HostGw<R> {
    /// Every network without a direct route, and why.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let clashes = self.claims.clashes().map(|(network, node, clash)| {
            let obstacle = Obstacle::Clash(clash.clone());
            Problem { node: Arc::clone(node), network, obstacle }
        });
        let obstacles = self.obstacles.iter().filter_map(|(network, obstacle)| {
            let node = Arc::clone(self.claims.owner(*network)?);
            Some(Problem { node, network: *network, obstacle: obstacle.clone() })
        });
        clashes.chain(obstacles).collect()
    }

    pub fn node_name(&self) -> &Arc<str> {
        &self.node_name
    }

    pub fn this_node(&self) -> Option<&Peer> {
        self.nodes.get(&self.node_name).map(|seen| seen.peer)
    }

    /// Networks of this node's own pods.
    pub fn own_networks(&self) -> Vec<IpNet> {
        let networks = self.this_node().map_or(&[][..], |node| &node.pod_cidrs);
        let is_own = |network: &IpNet| self.claims.owner(*network) == Some(&self.node_name);
        networks.iter().copied().filter(is_own).collect()
    }

    /// All of the cluster that sees pods' own addresses: other nodes' pods, and the nodes that can be reached directly.
    pub fn inside(&self) -> Vec<IpNet> {
        let pods = self.claims.owners().map(|(network, _)| network);
        let on_link = |address: &IpAddr| matches!(self.ways.get(address), Some(Way::OnLink(_)));
        let own = self.this_node().map_or(&[][..], |node| &node.addresses);
        let nodes = self.nodes.iter().flat_map(|peer| peer.addresses.iter().copied()).filter(on_link);
        pods.chain(nodes.chain(own.iter().copied()).map(IpNet::from)).collect()
    }

    pub fn routes(&self, family: Family) -> usize {
        self.held.iter().filter(|(network, routes)| family.contains(network) && !routes.is_empty()).count()
    }

    pub fn node_count(&self) -> usize {
        self.nodes.iter().count()
    }
}
