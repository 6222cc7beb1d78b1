//! Whose a pod CIDR is.
//!
//! Nodes claim networks. Of claims that overlap, the one of the oldest Node counts, whatever came first over the wire: each
//! node decides alike, and a Node that leaves takes with it only what was its own (k8s#127792).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::nodes::{Presence, Seen};
use crate::model::Family;

/// Who comes before whom: those that are there, then age, then the UID, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seniority {
    presence: Presence,
    created: i64,
    uid: Arc<str>,
    node: Arc<str>,
}

/// Why a claim does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clash {
    /// The owner of what it overlaps.
    pub owner: Arc<str>,
    pub owned: IpNet,
}

#[derive(Debug, Default)]
pub struct Claims {
    /// Networks order so that those within another one come right after it.
    claims: BTreeMap<IpNet, BTreeSet<Seniority>>,
    by_node: BTreeMap<Arc<str>, (Seniority, Box<[IpNet]>)>,
    owners: BTreeMap<IpNet, Arc<str>>,
    clashes: BTreeMap<(IpNet, Arc<str>), Clash>,
}

impl Claims {
    /// Takes in what a Node claims now, nothing if it is gone. Returns the networks whose owner may be another one.
    pub fn set(&mut self, name: &Arc<str>, seen: Option<Seen<'_>>) -> BTreeSet<IpNet> {
        let mut touched = Vec::new();
        if let Some((seniority, networks)) = self.by_node.remove(name) {
            networks.iter().for_each(|network| self.withdraw(*network, &seniority));
            touched.extend(networks);
        }
        if let Some(Seen { peer, presence }) = seen {
            let (uid, node) = (Arc::clone(&peer.uid), Arc::clone(name));
            let seniority = Seniority { presence, created: peer.created, uid, node };
            for network in &peer.pod_cidrs {
                self.claims.entry(*network).or_default().insert(seniority.clone());
            }
            touched.extend(&peer.pod_cidrs);
            self.by_node.insert(Arc::clone(name), (seniority, peer.pod_cidrs.clone()));
        }
        let regions: BTreeSet<IpNet> = touched.into_iter().map(|network| self.outermost(network)).collect();
        regions.into_iter().flat_map(|region| self.settle(region)).collect()
    }

    pub fn owner(&self, network: IpNet) -> Option<&Arc<str>> {
        self.owners.get(&network)
    }

    /// Every network with its owner.
    pub fn owners(&self) -> impl Iterator<Item = (IpNet, &Arc<str>)> {
        self.owners.iter().map(|(network, owner)| (*network, owner))
    }

    pub fn clashes(&self) -> impl Iterator<Item = (IpNet, &Arc<str>, &Clash)> {
        self.clashes.iter().map(|((network, node), clash)| (*network, node, clash))
    }

    fn withdraw(&mut self, network: IpNet, seniority: &Seniority) {
        if let Some(claimants) = self.claims.get_mut(&network) {
            claimants.remove(seniority);
            if claimants.is_empty() {
                self.claims.remove(&network);
            }
        }
    }

    /// The largest claimed network around this one. Claims outside it have nothing to do with claims within.
    fn outermost(&self, network: IpNet) -> IpNet {
        let around = (0..network.prefix_len()).filter_map(|bits| IpNet::new(network.addr(), bits).ok());
        around.map(|around| around.trunc()).find(|around| self.claims.contains_key(around)).unwrap_or(network)
    }

    /// Decides anew about all claims within a network, and returns it all.
    fn settle(&mut self, region: IpNet) -> Vec<IpNet> {
        let everything = (region, Arc::from(""))..;
        let inside = |network: &IpNet| region.contains(network);
        let owned: Vec<IpNet> = within(&self.owners, region).map(|(network, _)| *network).collect();
        let clashed = self.clashes.range(everything).map(|(key, _)| key.clone());
        let clashed: Vec<_> = clashed.take_while(|(network, _)| inside(network)).collect();
        owned.iter().for_each(|network| drop(self.owners.remove(network)));
        clashed.iter().for_each(|key| drop(self.clashes.remove(key)));
        let mut claims: Vec<(Seniority, IpNet)> = within(&self.claims, region)
            .flat_map(|(network, claimants)| claimants.iter().map(|who| (who.clone(), *network)))
            .collect();
        claims.sort_unstable();
        let mut touched: Vec<IpNet> =
            owned.into_iter().chain(clashed.into_iter().map(|(net, _)| net)).collect();
        for (Seniority { node, .. }, network) in claims {
            touched.push(network);
            match self.clash(network, &node) {
                Some(clash) => drop(self.clashes.insert((network, node), clash)),
                None => drop(self.owners.insert(network, node)),
            }
        }
        touched
    }

    /// What a claim overlaps of what others own by now.
    fn clash(&self, network: IpNet, node: &Arc<str>) -> Option<Clash> {
        let around = (0..=network.prefix_len()).filter_map(|bits| IpNet::new(network.addr(), bits).ok());
        let around = around.filter_map(|around| self.owners.get_key_value(&around.trunc()));
        let mut overlapping = around.chain(within(&self.owners, network));
        let (owned, owner) = overlapping.find(|(_, owner)| *owner != node)?;
        Some(Clash { owner: Arc::clone(owner), owned: *owned })
    }
}

/// The entries of networks in a network.
fn within<T>(map: &BTreeMap<IpNet, T>, network: IpNet) -> impl Iterator<Item = (&IpNet, &T)> {
    map.range(network..=last_host(network))
}

/// The last of all networks within a network, as they are ordered.
fn last_host(network: IpNet) -> IpNet {
    let last: IpAddr = network.broadcast();
    IpNet::new(last, Family::of(last).bits()).unwrap_or(network)
}
