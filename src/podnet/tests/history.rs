//! Whatever happened before, what counts is what is there.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Apply {
        name: u8,
        created: u8,
        address: u8,
        networks: Vec<u8>,
    },
    Delete(u8),
    /// All that is there, in a new list.
    Relist,
    /// A list that breaks off.
    Begin,
    Wait,
    /// Somebody removes a route, or changes where it leads.
    Remove(u8),
    Divert(u8),
    Fail,
    Sync,
}

/// Some of them within others.
const NETWORKS: [&str; 6] = [
    "10.244.0.0/16",
    "10.244.2.0/24",
    "10.244.3.0/24",
    "10.244.3.128/25",
    "10.245.0.0/24",
    "fd00:244:2::/64",
];
/// The last is behind a router.
const ADDRESSES: [&str; 4] = ["172.18.0.2", "172.18.0.3", "172.18.0.4", "192.0.2.9"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let apply = (0..5u8, 0..4u8, 0..4u8, prop::collection::vec(0..6u8, 0..3));
    let apply =
        apply.prop_map(|(name, created, address, networks)| Step::Apply { name, created, address, networks });
    prop::collection::vec(
        prop_oneof![
            6 => apply,
            3 => (0..5u8).prop_map(Step::Delete),
            1 => Just(Step::Relist),
            1 => Just(Step::Begin),
            2 => Just(Step::Wait),
            1 => (0..6u8).prop_map(Step::Remove),
            1 => (0..6u8).prop_map(Step::Divert),
            1 => Just(Step::Fail),
            4 => Just(Step::Sync),
        ],
        1..40,
    )
}

#[derive(Default)]
struct World {
    nodes: BTreeMap<u8, Node>,
}

impl World {
    fn list(&self) -> Vec<Event> {
        list(std::iter::once(this_node()).chain(self.nodes.values().cloned()))
    }

    fn step(&mut self, step: &Step, bench: &mut Bench) {
        match step {
            Step::Apply { name, created, address, networks } => {
                let networks: Vec<&str> = networks.iter().map(|index| NETWORKS[*index as usize]).collect();
                let addresses = [ADDRESSES[*address as usize], "fd00:18::2"];
                let node = node(&format!("n{name}"), (*created).into(), &addresses, &networks);
                self.nodes.insert(*name, node.clone());
                bench.handle([applied(node)]);
            }
            Step::Delete(name) => {
                self.nodes.remove(name);
                bench.handle([deleted(&format!("n{name}"))]);
            }
            Step::Relist => bench.handle(self.list()),
            Step::Begin => bench.handle([Event::ListStarted(Kind::Node)]),
            Step::Wait => bench.now += LINGER,
            Step::Remove(index) => disturb(bench, *index, None),
            Step::Divert(index) => disturb(bench, *index, Some("172.18.0.99")),
            Step::Fail => bench.door().failures = 1,
            Step::Sync => drop(bench.host_gw.sync(bench.now)),
        }
    }
}

fn disturb(bench: &mut Bench, index: u8, gateway: Option<&str>) {
    let network: IpNet = NETWORKS[index as usize].parse().unwrap();
    let Some(before) = bench.door().ours.remove(&network) else { return };
    if let Some(gateway) = gateway.filter(|_| before.gateway.is_ipv4()) {
        bench.door().ours.insert(network, Route { gateway: gateway.parse().unwrap(), ..before });
    }
    bench.host_gw.notice(Notice::OwnRoute(network));
}

/// As the loop does.
fn settle(bench: &mut Bench) {
    bench.now += LINGER;
    bench.door().failures = 0;
    for _ in 0..5 {
        bench.sync();
        if !bench.host_gw.is_due(bench.now) {
            return;
        }
    }
    panic!("it never comes to rest");
}

proptest! {
    #[test]
    fn any_history_ends_as_from_scratch(history in steps()) {
        let (mut world, mut bench) = (World::default(), Bench::new());
        bench.handle(world.list());
        for step in &history {
            world.step(step, &mut bench);
        }
        bench.handle(world.list());
        settle(&mut bench);
        let mut fresh = Bench::new();
        fresh.handle(world.list());
        settle(&mut fresh);
        prop_assert_eq!(&bench.door().ours, &fresh.door().ours);
        prop_assert_eq!(bench.problems(), fresh.problems());
        prop_assert_eq!(bench.host_gw.own_networks(), fresh.host_gw.own_networks());
        let (mut inside, mut of_fresh) = (bench.host_gw.inside(), fresh.host_gw.inside());
        inside.sort_unstable();
        of_fresh.sort_unstable();
        prop_assert_eq!(inside, of_fresh);
        let held = bench.door().list(crate::model::Family::V4).unwrap().len();
        prop_assert_eq!(held, bench.host_gw.routes(crate::model::Family::V4));
    }
}
