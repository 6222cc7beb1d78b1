//! What many small plans make of the kernel is what one plan from scratch makes of it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A ServicePort as a few small numbers, so that sequences meet the same names, addresses and ports.
#[derive(Clone, Debug)]
struct Draw {
    name: u8,
    protocol: u8,
    frontends: u8,
    endpoints: Vec<u8>,
    internal: bool,
    verdict: u8,
    affinity: bool,
    scheduler: usize,
    sources: u8,
}

fn draw() -> impl Strategy<Value = Draw> {
    let flags = (any::<bool>(), any::<bool>());
    (0u8..12, 0u8..3, 0u8..32, vec(0u8..8, 0..4), flags, 0u8..3, 0usize..14, 0u8..3).prop_map(
        |(name, protocol, frontends, endpoints, (internal, affinity), verdict, scheduler, sources)| Draw {
            name,
            protocol,
            frontends,
            endpoints,
            internal,
            verdict,
            affinity,
            scheduler,
            sources,
        },
    )
}

impl Draw {
    fn name(&self) -> ServicePortName {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(self.protocol)];
        name_of(&format!("s{}", self.name), protocol)
    }

    /// On two ports, of which one is a NodePort too, some at the node's addresses.
    fn port(&self, family: Family) -> ServicePort {
        let ip = |v4| in_family(family, v4);
        let index = self.name;
        let mut frontends = vec![Frontend::ClusterIp(ip([10, 96, 0, index]))];
        let all = [
            Frontend::NodePort(80 + u16::from(index)),
            Frontend::ExternalIp(ip([10, 96, 0, 255 - index])),
            Frontend::LoadBalancer(ip([203, 0, 113, index])),
            Frontend::LoadBalancer(ip(NODE)),
            Frontend::ExternalIp(ip([172, 19, 0, 2])),
        ];
        frontends.extend(
            all.into_iter().enumerate().filter(|(at, _)| self.frontends & 1 << at != 0).map(|(_, f)| f),
        );
        let mut port = service_of(self.name(), &frontends);
        // That of the next one's NodePort, so that they meet at the node's addresses.
        port.port = 81 + u16::from(index);
        let locality = |last: u8| if last.is_multiple_of(3) { Locality::Local } else { Locality::Remote };
        let endpoints: std::collections::BTreeSet<_> =
            self.endpoints.iter().map(|last| endpoint_in(family, *last, locality(*last))).collect();
        port.cluster = endpoints.iter().copied().collect();
        port.local = endpoints.into_iter().filter(|at| at.locality == Locality::Local).collect();
        let local = if port.local.is_empty() { Verdict::Drop } else { LOCAL };
        let reject = |verdict| if port.cluster.is_empty() { Verdict::Reject } else { verdict };
        port.internal = reject(if self.internal { local } else { CLUSTER });
        port.external = reject(if self.verdict == 0 { CLUSTER } else { local });
        port.draining = [endpoint_in(family, 9, Locality::Remote)].into();
        if self.affinity {
            port.affinity = Some(crate::model::Affinity { timeout_seconds: 10_800.try_into().unwrap() });
        }
        port.scheduler = Ipvs::<Shared>::SCHEDULERS[self.scheduler];
        let sources = ["10.0.0.0/8", "fd00::/16", "0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap());
        port.load_balancer_sources = match self.sources {
            0 => None,
            1 => Some(sources[..2].into()),
            _ => Some(sources.as_slice().into()),
        };
        port
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<Draw>),
    Remove(Vec<(u8, u8)>),
    /// Adds, removes and adds again before anything is written (k8s, PR#122605).
    Flicker(Draw),
    Node {
        masquerade_all: bool,
        addresses: u8,
    },
    HealthCheck(u8, Option<u16>),
    /// Gives every destination that drains so many connections.
    Connections(u32),
    Wait(u64),
    Observe,
    Restart,
    Fail(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(draw(), 1..4).prop_map(Step::Set),
        3 => vec((0u8..12, 0u8..3), 1..8).prop_map(Step::Remove),
        2 => draw().prop_map(Step::Flicker),
        1 => (any::<bool>(), 0u8..4).prop_map(|(masquerade_all, addresses)| Step::Node { masquerade_all, addresses }),
        1 => (0u8..4, prop::option::of(32_000u16..32_003)).prop_map(|(of, port)| Step::HealthCheck(of, port)),
        2 => (0u32..2).prop_map(Step::Connections),
        3 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Observe),
        1 => Just(Step::Restart),
        1 => (1usize..12).prop_map(Step::Fail),
    ]
}

fn act(step: &Step, mut bench: Bench, table: &mut ServiceTable) -> Bench {
    let family = table.family();
    match step {
        Step::Set(draws) => draws.iter().for_each(|draw| table.set_what_is_free(draw.port(family))),
        Step::Remove(names) => {
            for (index, protocol) in names {
                let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(*protocol)];
                table.remove(&name_of(&format!("s{index}"), protocol));
            }
        }
        Step::Flicker(draw) => {
            table.set_what_is_free(draw.port(family));
            table.remove(&draw.name());
            table.set_what_is_free(draw.port(family));
        }
        Step::Node { masquerade_all, addresses } => {
            let mut node = NodePolicy { masquerade_all: *masquerade_all, ..node() };
            let own = [NODE, [172, 19, 0, 2]].map(|v4| in_family(family, v4));
            let gone: Vec<_> =
                (0..2).filter(|index| addresses & 1 << index != 0).map(|index| own[index]).collect();
            node.addresses.retain(|found| !gone.contains(found));
            table.set_node(node);
        }
        Step::HealthCheck(of, port) => {
            let service = ServiceName { namespace: "ns".into(), name: format!("s{of}").into() };
            table.set_health_check(
                service,
                port.map(|node_port| HealthCheck { node_port, local_endpoints: 1 }),
            );
        }
        Step::Connections(active) => {
            for entry in bench.kernel.get().ipvs.entries.values_mut() {
                entry.destinations.values_mut().for_each(|(_, connections)| connections.active = *active);
            }
        }
        Step::Wait(seconds) => bench.wait(*seconds),
        Step::Observe => bench.mode.observe().unwrap(),
        Step::Restart => bench = bench.restart(),
        Step::Fail(call) => {
            let calls = bench.kernel.get().calls;
            bench.kernel.get().fail = Some((calls + call, libc::ENOBUFS));
            if bench.mode.apply(bench.plan(table)).is_err() {
                bench.mode.observe().unwrap();
                table.unsettle();
            } else {
                table.settle();
            }
            bench.kernel.get().fail = None;
        }
    }
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn y3_y10_i6_any_sequence_ends_as_from_scratch(steps in vec(step(), 1..16), v6 in any::<bool>()) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut table = table_of(family, []);
        let mut bench = Bench::new(family);
        for step in &steps {
            bench = act(step, bench, &mut table);
            bench.sync(&mut table);
        }
        packets::assert_as_the_oracle_says(&bench, &table);
        bench.assert_nothing_to_do(&mut table);
        // What an endpoint needs that drains stays as long as that does.
        bench = act(&Step::Connections(0), bench, &mut table);
        bench.wait(60);
        bench.sync(&mut table);
        prop_assert_eq!(bench.kernel.get().state(), from_scratch(&table).kernel.get().state());
    }

    #[test]
    fn i1_drains_end_whatever_happened_before(steps in vec(step(), 1..16)) {
        let mut table = table_of(Family::V4, []);
        let mut bench = Bench::new(Family::V4);
        for step in &steps {
            bench = act(step, bench, &mut table);
            bench.sync(&mut table);
        }
        bench = act(&Step::Connections(0), bench, &mut table);
        bench.wait(60);
        bench.sync(&mut table);
        prop_assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
        prop_assert_eq!(bench.kernel.get().ipvs.saved(), from_scratch(&table).kernel.get().ipvs.saved());
    }
}
