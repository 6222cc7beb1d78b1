//! What many small plans make of the kernel is what one plan from scratch makes of it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A ServicePort as a few small numbers, so that sequences meet the same names, addresses and ports.
#[derive(Clone, Debug)]
struct Draw {
    name: u8,
    frontends: u8,
    endpoints: Vec<u8>,
    internal_local: bool,
    external_local: bool,
    sticky: bool,
    scheduler: usize,
    sources: u8,
}

fn draw() -> impl Strategy<Value = Draw> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (0u8..8, 0u8..32, vec(0u8..6, 0..5), flags, 0usize..3, 0u8..3).prop_map(
        |(name, frontends, endpoints, (internal_local, external_local, sticky), scheduler, sources)| Draw {
            name,
            frontends,
            endpoints,
            internal_local,
            external_local,
            sticky,
            scheduler,
            sources,
        },
    )
}

impl Draw {
    fn port(&self, family: Family) -> ServicePort {
        let ip = |v4| in_family(family, v4);
        let index = self.name;
        let all = [
            Frontend::NodePort(30_000 + u16::from(index)),
            Frontend::ExternalIp(ip([192, 0, 2, index])),
            Frontend::LoadBalancer(ip([203, 0, 113, index])),
            Frontend::LoadBalancer(ip(NODE)),
            Frontend::ClusterIp(ip([10, 96, 0, index])),
        ];
        let chosen = all.into_iter().enumerate().filter(|(at, _)| self.frontends & 1 << at != 0);
        let frontends: Vec<_> = chosen.map(|(_, frontend)| frontend).collect();
        let mut port = service_of(name(&format!("s{index}")), &frontends);
        port.port = 80 + u16::from(index);
        let locality = |last: u8| if last.is_multiple_of(3) { Locality::Local } else { Locality::Remote };
        let found: BTreeSet<_> =
            self.endpoints.iter().map(|last| endpoint_in(family, *last, locality(*last))).collect();
        port.cluster = found.iter().copied().collect();
        port.local = found.into_iter().filter(|at| at.locality == Locality::Local).collect();
        let local = if port.local.is_empty() { Verdict::Drop } else { LOCAL };
        let verdict = |is_local| match (port.cluster.is_empty(), is_local) {
            (true, _) => Verdict::Reject,
            (false, true) => local,
            (false, false) => CLUSTER,
        };
        (port.internal, port.external) = (verdict(self.internal_local), verdict(self.external_local));
        port.affinity = if self.sticky { sticky() } else { None };
        port.scheduler = Nftables::<Shared>::SCHEDULERS[self.scheduler];
        let sources = ["10.0.0.0/8", "fd00::/16", "10.1.0.0/16", "0.0.0.0/0", "::/0"];
        let sources = sources.map(|net| net.parse().unwrap());
        port.load_balancer_sources = match self.sources {
            0 => None,
            1 => Some(sources[..3].into()),
            _ => Some(sources.as_slice().into()),
        };
        port
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<Draw>),
    Remove(Vec<u8>),
    /// Adds, removes and adds again before anything is written (k8s, PR#122605).
    Flicker(Draw),
    MasqueradeAll(bool),
    Wait(u64),
    Observe,
    Restart,
    Lose,
    /// Somebody else takes everything out of a set.
    Flush(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(draw(), 1..4).prop_map(Step::Set),
        3 => vec(0u8..8, 1..6).prop_map(Step::Remove),
        2 => draw().prop_map(Step::Flicker),
        1 => any::<bool>().prop_map(Step::MasqueradeAll),
        3 => (0u64..1500).prop_map(Step::Wait),
        1 => Just(Step::Observe),
        1 => Just(Step::Restart),
        1 => Just(Step::Lose),
        1 => (0usize..40).prop_map(Step::Flush),
    ]
}

fn act(step: &Step, mut bench: Bench, table: &mut ServiceTable) -> Bench {
    let family = table.family();
    match step {
        Step::Set(draws) => draws.iter().for_each(|draw| table.set_what_is_free(draw.port(family))),
        Step::Remove(names) => names.iter().for_each(|of| table.remove(&name(&format!("s{of}")))),
        Step::Flicker(draw) => {
            table.set_what_is_free(draw.port(family));
            table.remove(&name(&format!("s{}", draw.name)));
            table.set_what_is_free(draw.port(family));
        }
        Step::MasqueradeAll(masquerade_all) => {
            table.set_node(NodePolicy { masquerade_all: *masquerade_all, ..node() });
        }
        Step::Wait(milliseconds) => bench.wait(Duration::from_millis(*milliseconds)),
        Step::Observe => bench.mode.observe().unwrap(),
        Step::Restart => bench = bench.restart(),
        Step::Lose => {
            bench.kernel.0.borrow_mut().losses = 1;
            if bench.mode.apply(bench.plan(table)).is_ok() {
                table.settle();
            }
            bench.mode.observe().unwrap();
        }
        Step::Flush(at) => {
            let name =
                bench.kernel.0.borrow().tables.values().flat_map(|table| table.sets.keys()).nth(*at).cloned();
            if let Some(name) = name {
                bench.meddle(|others| {
                    others.flush_set(&name);
                });
            }
            bench.mode.observe().unwrap();
        }
    }
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn y3_y10_any_history_ends_as_from_scratch(steps in vec(step(), 1..16), v6 in any::<bool>()) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut table = table_of(family, []);
        let mut bench = Bench::new(family);
        for step in &steps {
            bench = act(step, bench, &mut table);
            bench.sync(&mut table);
        }
        bench.sweep(&mut table);
        prop_assert_eq!(bench.state(), from_scratch(&table));
        bench.assert_nothing_to_do(&mut table);
    }
}
