//! What the sets and virtual servers make of a packet, told by the rules of `base.rs` in their order, is what the oracle
//! says of it.

use super::*;
use crate::kernel::ipset::Element;
use crate::model::route::{Outcome, Packet, Source, Target, route};
use names::Set;

/// A packet on its way through one kernel.
struct Way<'a> {
    bench: &'a Bench,
    node: &'a NodePolicy,
    packet: Packet<'a>,
}

impl Way<'_> {
    fn key(&self) -> Element {
        Element::IpPort(self.packet.destination, self.packet.protocol, self.packet.port)
    }

    fn find(&self, set: Set, element: Element) -> Option<Option<u32>> {
        let kernel = self.bench.kernel.get();
        kernel.sets.sets[set.name(self.bench.mode.family)].members.get(&element).copied()
    }

    fn is_in(&self, set: Set) -> bool {
        self.find(set, self.key()).is_some()
    }

    fn is_in_ranges(&self) -> bool {
        let kernel = self.bench.kernel.get();
        let ranges = &kernel.sets.sets[Set::SourceRanges.name(self.bench.mode.family)].members;
        ranges.keys().any(|range| match *range {
            Element::IpPortNet(address, protocol, port, network) => {
                Element::IpPort(address, protocol, port) == self.key()
                    && network.contains(&self.packet.source)
            }
            _ => false,
        })
    }

    fn is_own(&self) -> bool {
        self.packet.source.is_loopback() || self.node.addresses.contains(&self.packet.source)
    }

    fn is_of_pod(&self) -> bool {
        self.node.local_traffic.is_local(self.packet.source, self.packet.interface)
    }

    /// FERRO-ADMISSION: `None` drops, else the mark.
    fn admission(&self) -> Option<Option<u32>> {
        if self.is_in(Set::Guarded) && !self.is_in_ranges() {
            return None;
        }
        let inside = self.is_own() || self.is_of_pod();
        let mark = self.find(Set::ShortCircuit, self.key()).flatten().filter(|_| inside);
        (!self.is_in(Set::Drop) || mark.is_some()).then_some(mark)
    }

    /// FERRO-SERVICES
    fn is_masqueraded(&self) -> bool {
        let off_cluster = self.node.local_traffic.detects(self.bench.mode.family) && !self.is_of_pod();
        self.is_in(Set::Masquerade)
            || self.is_in(Set::ClusterIps) && (self.node.masquerade_all || off_cluster)
    }

    /// FERRO-FILTER, for what has a virtual server's address still.
    fn filter(&self) -> Option<Outcome> {
        let is_virtual = self.find(Set::VirtualIps, Element::Ip(self.packet.destination)).is_some();
        let refused = !self.is_in(Set::Served) && (is_virtual || self.is_in(Set::Reject));
        refused.then_some(Outcome::Reject)
    }

    fn outcome(&self) -> Outcome {
        let Some(mark) = self.admission() else { return Outcome::Drop };
        let family = self.bench.mode.family;
        let Packet { destination: address, protocol, port, .. } = self.packet;
        let server = match mark {
            Some(mark) => VirtualServer::Mark { family, mark },
            None => VirtualServer::Address { address, protocol, port },
        };
        if let Some(refused) = self.filter().filter(|_| mark.is_none()) {
            return refused;
        }
        let masqueraded = self.is_masqueraded() || mark.is_some() && self.is_own();
        let kernel = self.bench.kernel.get();
        let Some(entry) = kernel.ipvs.entries.get(&server) else { return Outcome::Untouched };
        let serving = entry.destinations.values().filter(|(to, _)| to.weight != 0);
        let targets: Vec<_> = serving.map(|(to, _)| (to.at(), masqueraded)).collect();
        drop(kernel);
        let mut targets: Vec<_> =
            targets.into_iter().map(|(to, masqueraded)| self.target(to, masqueraded)).collect();
        targets.sort();
        Outcome::Forward(targets)
    }

    fn target(&self, endpoint: SocketAddr, masqueraded: bool) -> Target {
        let hairpin = endpoint.ip() == self.packet.source
            && self.find(Set::Hairpin, render::of_hairpin(endpoint.ip())).is_some();
        let source = if masqueraded || hairpin { Source::Masqueraded } else { Source::Kept };
        Target { source, endpoint }
    }
}

/// From outside, from pods here and elsewhere and from the node itself, to every frontend and beside them.
pub fn assert_as_the_oracle_says(bench: &Bench, table: &ServiceTable) {
    let family = table.family();
    let sources = [[198, 51, 100, 7], [10, 0, 0, 9], [10, 244, 1, 5], [10, 244, 1, 99], NODE];
    let mut keys: Vec<_> = table.ports().flat_map(|port| render::Key::all_of(port, table)).collect();
    let beside: Vec<_> = keys.iter().map(|key| render::Key { port: 9, ..*key }).collect();
    keys.extend(beside);
    for key in keys {
        for source in sources.map(|source| in_family(family, source)) {
            let packet = Packet {
                source,
                interface: None,
                protocol: key.protocol,
                destination: key.address,
                port: key.port,
            };
            let outcome = Way { bench, node: table.node(), packet }.outcome();
            let mut wanted = route(table, &packet);
            // Nothing is to be had at a virtual address but what is served.
            if wanted == Outcome::Unused {
                wanted = Outcome::Reject;
            }
            assert_eq!(outcome, wanted, "{packet:?}");
        }
    }
}

#[test]
fn everything_goes_as_the_oracle_says() {
    for family in Family::ALL {
        let mut table = everything(family);
        for masquerade_all in [false, true] {
            table.set_node(NodePolicy { masquerade_all, ..node() });
            let mut bench = Bench::new(family);
            bench.sync(&mut table);
            assert_as_the_oracle_says(&bench, &table);
        }
        table.set_node(NodePolicy { local_traffic: LocalTraffic::Undetected, ..node() });
        let mut bench = Bench::new(family);
        bench.sync(&mut table);
        assert_as_the_oracle_says(&bench, &table);
    }
}

/// A ClusterIP may be another Service's external IP, on another port.
#[test]
fn an_external_ip_at_a_cluster_ip_keeps_its_own_policy() {
    let mut outside = service("outside", &[Frontend::ExternalIp(address("10.96.0.1"))]);
    (outside.port, outside.external) = (443, LOCAL);
    outside.local = [endpoint_in(Family::V4, 7, Locality::Local)].into();
    let (bench, table) = Bench::with([service("inside", &[cluster_ip(1)]), outside]);
    assert_as_the_oracle_says(&bench, &table);
}
