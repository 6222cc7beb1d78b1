//! What many small plans make of the kernel is what one plan from scratch makes of it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::kernel::iptables::Table;
use crate::model::{Affinity, LocalTraffic, NodePolicy};

/// A ServicePort as a few small numbers, so that sequences meet the same names and neighbouring addresses.
#[derive(Clone, Debug)]
struct Draw {
    name: u16,
    block: u32,
    cluster: u32,
    local: bool,
    external: u8,
    verdict: u8,
    affinity: bool,
    scheduler: usize,
    sources: bool,
}

fn draw() -> impl Strategy<Value = Draw> {
    let size = prop_oneof![30 => 0u32..4, 6 => 30u32..80, 1 => Just(600u32)];
    let flags = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (0u16..120, 0u32..3, size, flags, 0u8..4, 0u8..3, 0usize..3).prop_map(
        |(name, block, cluster, (local, affinity, sources), external, verdict, scheduler)| Draw {
            name,
            block,
            cluster,
            local,
            external,
            verdict,
            affinity,
            scheduler,
            sources,
        },
    )
}

impl Draw {
    fn port(&self, family: Family) -> ServicePort {
        let index = u32::from(self.name);
        // Close together, far apart, and all on one address.
        let ip = match self.block {
            0 => 0x0a60_0000 + index,
            1 => 0x0a60_0000 + index * 0x0101,
            _ => 0x0a70_0001,
        };
        let at = |base: u32| in_family(family, IpAddr::from((base + index).to_be_bytes()));
        let mut frontends = vec![Frontend::ClusterIp(in_family(family, IpAddr::from(ip.to_be_bytes())))];
        if self.external & 1 != 0 {
            frontends.push(Frontend::NodePort(30_000 + self.name * 7));
        }
        if self.external & 2 != 0 {
            frontends.push(Frontend::ExternalIp(at(0xc000_0200)));
            frontends.push(Frontend::LoadBalancer(at(0xcb00_7100)));
        }
        let mut port = service(&format!("s{index}"), &frontends);
        port.port = 80 + self.name;
        port.cluster = endpoints_in(family, self.cluster);
        port.local = if self.local { endpoints_in(family, 1) } else { [].into() };
        port.internal = match (self.cluster, self.local) {
            (0, _) => Verdict::Reject,
            (_, true) => Verdict::Forward(TrafficPolicy::Local),
            (_, false) => Verdict::Forward(TrafficPolicy::Cluster),
        };
        port.external = match (self.cluster, self.local, self.verdict) {
            (0, ..) => Verdict::Reject,
            (_, _, 0) => Verdict::Forward(TrafficPolicy::Cluster),
            (_, true, _) => Verdict::Forward(TrafficPolicy::Local),
            (_, false, _) => Verdict::Drop,
        };
        if self.affinity {
            port.affinity = Some(Affinity { timeout_seconds: 10_800.try_into().unwrap() });
        }
        port.scheduler = Iptables::<Fake>::SCHEDULERS[self.scheduler];
        port.load_balancer_sources = self.sources.then(|| Arc::from(["10.0.0.0/8".parse().unwrap()]));
        port
    }
}

/// The same bits, the first and the last of an IPv6 address.
fn in_family(family: Family, address: IpAddr) -> IpAddr {
    match (family, address) {
        (Family::V6, IpAddr::V4(address)) => {
            let bits = u128::from(u32::from(address));
            IpAddr::from((0xfd00_0096 << 96 | bits << 40 | bits & 0xff).to_be_bytes())
        }
        _ => address,
    }
}

fn endpoints_in(family: Family, n: u32) -> Box<[Endpoint]> {
    let of_family =
        |endpoint: &Endpoint| Endpoint { address: in_family(family, endpoint.address), ..*endpoint };
    endpoints(n).iter().map(of_family).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<Draw>),
    Remove(Vec<u16>),
    Node(bool),
    Observe,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(draw(), 1..4).prop_map(Step::Set),
        3 => vec(draw(), 20..70).prop_map(Step::Set),
        3 => vec(0u16..120, 1..60).prop_map(Step::Remove),
        1 => any::<bool>().prop_map(Step::Node),
        1 => Just(Step::Observe),
    ]
}

fn node(masquerade_all: bool) -> NodePolicy {
    let pods = ["10.244.0.0/16", "fd00:244::/48"].map(|network| network.parse().unwrap());
    let local_traffic = LocalTraffic::Sources(pods.into());
    NodePolicy { masquerade_all, local_traffic, ..NodePolicy::default() }
}

fn act(step: &Step, mode: &mut Iptables<Fake>, table: &mut ServiceTable) {
    match step {
        Step::Set(draws) => draws.iter().for_each(|draw| table.set(draw.port(table.family()))),
        Step::Remove(names) => {
            names.iter().for_each(|index| table.remove(&name(&format!("s{index}"))));
        }
        Step::Node(masquerade_all) => table.set_node(node(*masquerade_all)),
        Step::Observe => mode.observe().unwrap(),
    }
}

fn from_scratch(table: &ServiceTable) -> Iptables<Fake> {
    let mut fresh = ServiceTable::new(table.family());
    fresh.set_node(table.node().clone());
    table.ports().for_each(|port| fresh.set((**port).clone()));
    let mut mode = mode(table.family());
    sync(&mut mode, &mut fresh);
    mode
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn y3_y10_any_sequence_ends_as_from_scratch(steps in vec(step(), 1..12), v6 in any::<bool>()) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut table = ServiceTable::new(family);
        let mut mode = mode(family);
        mode.observe().unwrap();
        for step in &steps {
            act(step, &mut mode, &mut table);
            sync(&mut mode, &mut table);
        }
        let fresh = from_scratch(&table);
        for table in Table::ALL {
            prop_assert_eq!(&mode.rules.door.tables[&table], &fresh.rules.door.tables[&table]);
        }
        assert_nothing_to_do(&mut mode, &mut table);
    }
}
