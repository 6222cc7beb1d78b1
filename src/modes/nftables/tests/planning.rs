//! What is written for a table, and how little for a change.

use super::*;

#[test]
fn the_skeleton_is_as_reviewed() {
    let text = render(&Settings::default(), &table_of(Family::V4, []));
    insta::assert_snapshot!(text);
}

#[test]
fn one_endpoint_for_another_is_one_element_for_another_whatever_the_table() {
    for others in [0, 200] {
        let mut ports = vec![service("web", &[cluster_ip(1)])];
        ports.extend((0..others).map(|at| service(&format!("s{at}"), &[cluster_ip(at + 2)])));
        let (mut bench, mut table) = Bench::with(ports);
        let mut port = service("web", &[cluster_ip(1)]);
        port.cluster = endpoints(&[5, 7]);
        table.set(port);
        assert_eq!(
            bench.sync(&mut table),
            "delete element ip ferrovia cluster-2 { 10.96.0.1 . tcp . 80 . 1 }\n\
             add element ip ferrovia cluster-2 { 10.96.0.1 . tcp . 80 . 1 : 10.244.1.7 . 8080 }\n"
        );
    }
}

#[test]
fn an_endpoint_more_moves_the_frontend_to_another_class() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1)])]);
    let mut port = service("web", &[cluster_ip(1)]);
    port.cluster = endpoints(&[5, 6, 7]);
    table.set(port);
    let text = bench.sync(&mut table);
    assert!(text.contains("delete element ip ferrovia services { 10.96.0.1 . tcp . 80 }\n"), "{text}");
    assert_eq!(
        bench.list("services"),
        ["10.96.0.1 . tcp . 80 comment \"ns/web/TCP\" : goto pick-cluster-random-3"]
    );
    assert_eq!(bench.list("cluster-2"), [] as [&str; 0]);
    assert_eq!(bench.list("cluster-3").len(), 3);
    assert!(bench.mode.wake().is_some());
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.sync(&mut table), "delete element ip ferrovia classes { 0:1 }\n");
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.sync(&mut table), "delete chain ip ferrovia pick-cluster-random-2\n");
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.sync(&mut table), "delete set ip ferrovia cluster-2\n");
    assert_eq!(bench.mode.wake(), None);
    bench.assert_nothing_to_do(&mut table);
}

/// k8s#135639: the kernel is locked for as long as a transaction takes.
#[test]
fn y9_much_is_done_in_parts() {
    let port = |at: u16, lasts: &[u8]| {
        let [high, low] = at.to_be_bytes();
        let port = service(&format!("s{at}"), &[Frontend::ClusterIp([10, 96, high, low].into())]);
        ServicePort { cluster: endpoints(lasts), ..port }
    };
    let all = |lasts: &[u8]| (0..2000).map(|at| port(at, lasts)).collect::<Vec<_>>();
    let (mut bench, mut table) = (Bench::new(Family::V4), table_of(Family::V4, all(&[5, 6, 7])));
    bench.sync(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
    all(&[6, 7, 8]).into_iter().for_each(|port| table.set(port));
    bench.sync(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
    let kernel = bench.kernel.0.borrow();
    let sizes: Vec<_> = kernel.committed.iter().map(|text| text.matches(" element ").count()).collect();
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < work::PART + 10), "{sizes:?}");
    drop(kernel);
    table.set(port(7, &[7, 8, 9]));
    bench.sync(&mut table);
    assert_eq!(bench.kernel.0.borrow().committed.len(), 5, "a change is one transaction");
}

/// The kernel takes the square of a map's size to list it.
#[test]
fn a_map_of_slots_that_is_full_is_followed_by_larger_ones() {
    let (first, later) = (1024 / 2, 8192 / 2);
    let port = |at: u16| {
        let [high, low] = at.to_be_bytes();
        service(&format!("s{at:04}"), &[Frontend::ClusterIp([10, 96, high, low].into())])
    };
    let (mut bench, mut table) = Bench::with((0..first + later + 1).map(port));
    let maps = ["cluster-2", "cluster-2.2", "cluster-2.3"];
    let sizes = |bench: &Bench| maps.map(|map| bench.list(map).len());
    assert_eq!(sizes(&bench), [1024, 8192, 2]);
    let last = "10.96.18.0 . tcp . 80 comment \"ns/s4608/TCP\" : goto pick-cluster-random-2.3";
    assert!(bench.list("services").iter().any(|line| line == last));
    bench.assert_nothing_to_do(&mut table);
    table.remove(&name("s0007"));
    bench.sync(&mut table);
    table.set(port(first + later + 1));
    bench.sync(&mut table);
    assert_eq!(sizes(&bench), [1024, 8192, 2], "room is used again, and nobody moves");
    table.remove(&name("s4608"));
    bench.sync(&mut table);
    bench.sweep(&mut table);
    assert_eq!(sizes(&bench), [1024, 8192, 0]);
    bench.assert_nothing_to_do(&mut table);
}

/// The kernel makes room for as many elements as the map is told to hold: no more than that may be in it, not even while
/// some go and others come.
#[test]
fn a_full_map_of_slots_takes_who_comes_for_who_leaves() {
    let room = 1024 / 2;
    let port = |at: u16, lasts: &[u8]| {
        let [high, low] = at.to_be_bytes();
        let mut port = service(&format!("s{at:04}"), &[Frontend::ClusterIp([10, 96, high, low].into())]);
        port.cluster = endpoints(lasts);
        port
    };
    let (mut bench, mut table) = Bench::with((0..room).map(|at| port(at, &[5, 6])));
    // Endpoints change, and some frontends make way for as many others.
    (0..room / 4).for_each(|at| table.set(port(at, &[7, 8])));
    (room / 4..room / 2).for_each(|at| table.set(port(at, &[5, 6, 7])));
    (room..room + room / 4).for_each(|at| table.set(port(at, &[5, 6])));
    bench.sync(&mut table);
    assert_eq!(["cluster-2", "cluster-2.2"].map(|map| bench.list(map).len()), [1024, 0]);
    bench.assert_nothing_to_do(&mut table);
}

/// k8s, PR#122605.
#[test]
fn y10_a_chain_that_is_needed_again_stays() {
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1)])]);
    for lasts in [&[5, 6, 7][..], &[5, 6], &[5, 6, 7], &[5, 6]] {
        let mut port = service("web", &[cluster_ip(1)]);
        port.cluster = endpoints(lasts);
        table.set(port);
        bench.sync(&mut table);
    }
    bench.sweep(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
}

#[test]
fn round_robin_counts_for_each_service() {
    let port =
        |of: &str, last| ServicePort { scheduler: Scheduler::RoundRobin, ..service(of, &[cluster_ip(last)]) };
    let (bench, _) = Bench::with([port("a", 1), port("b", 2)]);
    assert_eq!(
        bench.list("services"),
        [
            "10.96.0.1 . tcp . 80 comment \"ns/a/TCP\" : goto pick-cluster-rr-2-ns/a/tcp",
            "10.96.0.2 . tcp . 80 comment \"ns/b/TCP\" : goto pick-cluster-rr-2-ns/b/tcp",
        ]
    );
}

/// Else packets would leave in some class of traffic control.
#[test]
fn whoever_enters_a_class_leaves_without_its_number() {
    let external = Verdict::Forward(TrafficPolicy::Local);
    let of = |name, last, scheduler, affinity| {
        let frontends = [cluster_ip(last), Frontend::NodePort(30_000 + u16::from(last))];
        let local = [endpoint_in(Family::V4, 9, Locality::Local)].into();
        ServicePort { scheduler, affinity, external, local, ..service(name, &frontends) }
    };
    let (bench, _) = Bench::with([
        of("a", 1, Scheduler::Random, None),
        of("b", 2, Scheduler::RoundRobin, None),
        of("c", 3, Scheduler::SourceHash, sticky()),
        service("d", &[cluster_ip(4), Frontend::NodePort(30_004)]),
    ]);
    let kernel = bench.kernel.0.borrow();
    let table = &kernel.tables[&table_of_kernel(Family::V4)];
    let first = |chain: &str| table.chains[chain].rules[0].1.to_string();
    let classes = ["classes", "timeouts"].into_iter().flat_map(|map| table.sets[map].elements.values());
    let mut chains = 0;
    for class in classes {
        let ElementValue::Verdict(door::Verdict::Goto(chain)) = &class.data else { continue };
        let rule = first(chain);
        let rule = rule.split_once("goto ").map_or(rule.clone(), |(_, next)| first(next));
        assert!(rule.starts_with("meta priority set none "), "{chain}: {rule}");
        chains += 1;
    }
    assert!(chains >= 10, "{chains}");
}

#[test]
fn weights_are_numbers_of_slots() {
    let mut port = service("web", &[cluster_ip(1)]);
    port.cluster[0].weight = 200;
    port.cluster[1].weight = 100;
    let (bench, _) = Bench::with([port]);
    assert_eq!(
        bench.list("cluster-3"),
        [0, 1, 2].map(|slot| format!(
            "10.96.0.1 . tcp . 80 . {slot} : 10.244.1.{} . 8080",
            if slot < 2 { 5 } else { 6 }
        ))
    );
}

#[test]
fn l1_a_long_name_is_cut_in_its_comment_alone() {
    let mut port = service("web", &[cluster_ip(1)]);
    port.name.namespace = "n".repeat(63).into();
    port.name.service = "s".repeat(63).into();
    port.name.port = "p".repeat(63).into();
    port.scheduler = Scheduler::RoundRobin;
    let (bench, _) = Bench::with([port]);
    let comment = bench.list("services")[0].split('"').nth(1).unwrap().to_owned();
    assert_eq!(comment.len(), 128);
    let kernel = bench.kernel.0.borrow();
    let longest = kernel.tables.values().flat_map(|table| table.chains.keys()).map(|name| name.len()).max();
    assert!(longest < Some(256), "{longest:?}");
}

#[test]
fn source_ranges_do_not_overlap() {
    let ranges = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect());
    let mut port = service("web", &[Frontend::LoadBalancer([203, 0, 113, 1].into())]);
    port.load_balancer_sources =
        ranges(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "fd00::/8"]);
    let (mut bench, mut table) = Bench::with([port.clone()]);
    assert_eq!(
        bench.list("source-ranges"),
        ["203.0.113.1 . tcp . 80 . 10.0.0.0/8", "203.0.113.1 . tcp . 80 . 192.0.2.0/24"]
    );
    port.load_balancer_sources = ranges(&["0.0.0.0/0"]);
    table.set(port);
    bench.sync(&mut table);
    assert_eq!(bench.list("guarded"), [] as [&str; 0], "everybody is admitted");
    assert_eq!(bench.list("source-ranges"), [] as [&str; 0]);
}

#[test]
fn networks_of_services_are_those_of_the_family_and_follow() {
    let with = |networks: &[&str]| NodePolicy {
        service_networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ..node()
    };
    let (mut bench, mut table) = Bench::with([service("web", &[cluster_ip(1)])]);
    assert_eq!(bench.list("service-cidrs"), [] as [&str; 0]);
    table.set_node(with(&["10.96.0.0/16", "10.98.0.0/16", "fd00:96::/112"]));
    bench.sync(&mut table);
    assert_eq!(bench.list("service-cidrs"), ["10.96.0.0/16", "10.98.0.0/16"]);
    bench.assert_nothing_to_do(&mut table);
    table.set_node(with(&["10.96.0.0/12"]));
    assert_eq!(
        bench.sync(&mut table),
        "delete element ip ferrovia service-cidrs { 10.96.0.0/16 }\n\
         delete element ip ferrovia service-cidrs { 10.98.0.0/16 }\n\
         add element ip ferrovia service-cidrs { 10.96.0.0/12 }\n"
    );
    bench.meddle(|others| {
        let between = |first: [u8; 4], last: [u8; 4]| {
            Element::interval(Value::address(first.into()), Value::address(last.into()))
        };
        others.add_element(&"service-cidrs".into(), &between([10, 1, 0, 3], [10, 1, 0, 9]));
        others.add_element(&"service-cidrs".into(), &between([10, 2, 0, 0], [10, 2, 0, 255]));
    });
    bench.observe_and_sync(&mut table);
    assert_eq!(bench.list("service-cidrs"), ["10.96.0.0/12"]);
    assert_eq!(bench.state(), from_scratch(&table));
}

#[test]
fn only_clients_of_an_endpoint_that_left_are_forgotten() {
    let mut port = service("web", &[cluster_ip(1), Frontend::NodePort(30080)]);
    port.affinity = sticky();
    let (mut bench, mut table) = Bench::with([port.clone()]);
    let client = |client: u8, place: [u8; 4], port: u16, last: u8| {
        let source = Value::address([10, 244, 2, client].into());
        let place = Value::address(place.into()).and(Value::protocol(Protocol::Tcp)).and(Value::port(port));
        let target = Value::address([10, 244, 1, last].into()).and(Value::port(8080));
        Element::of_map(source.and(place), target)
    };
    bench.meddle(|others| {
        let all = [(1, 5), (2, 6)]
            .into_iter()
            .flat_map(|(of, last)| [client(of, [10, 96, 0, 1], 80, last), client(of, NODE, 30080, last)]);
        all.for_each(|element| {
            others.add_element(&"affinity".into(), &element);
        });
    });
    port.cluster = endpoints(&[5, 7]);
    table.set(port);
    let text = bench.sync(&mut table);
    assert!(text.ends_with("# then forget the clients of node:30080/TCP whose endpoint left\n"), "{text}");
    let left: Vec<_> = bench.list("affinity");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|client| client.starts_with("10.244.2.1 ")), "{left:?}");
    bench = bench.restart();
    bench.sync(&mut table);
    assert_eq!(bench.list("affinity").len(), 2, "a restart forgets nobody");
}
