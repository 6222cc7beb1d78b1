//! Endpoints that left while they had connections.

use super::*;
use names::Set;

const HTTP: &str = "10.96.0.1:80";
const FIRST: &str = "10.244.1.5:8080";

fn web(endpoints: impl IntoIterator<Item = u8>) -> ServicePort {
    with_endpoints(service("web", &[cluster_ip(1)]), endpoints)
}

fn with_endpoints(port: ServicePort, endpoints: impl IntoIterator<Item = u8>) -> ServicePort {
    let cluster: Box<[Endpoint]> = endpoints.into_iter().map(endpoint).collect();
    let verdict = if cluster.is_empty() { Verdict::Reject } else { CLUSTER };
    ServicePort { cluster, internal: verdict, external: verdict, ..port }
}

/// One of two endpoints has left, with three connections.
fn leaving(settings: Settings) -> (Bench, ServiceTable) {
    let (mut bench, mut table) =
        (Bench::on(Shared::new(Family::V4), settings), table_of(Family::V4, [web([5, 6])]));
    bench.sync(&mut table);
    bench.connect(at(HTTP), to(FIRST), 3);
    table.set(web([6]));
    assert_eq!(bench.sync(&mut table), "ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 0\n");
    (bench, table)
}

#[test]
fn i1_an_endpoint_that_left_keeps_its_connections_and_goes_with_the_last() {
    let (mut bench, mut table) = leaving(Settings::default());
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (1, Some(bench.now + Duration::from_secs(1))));
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        bench.wait(seconds);
        assert_eq!(bench.mode.wake(), Some(bench.now), "no look comes late");
        assert_eq!(bench.sync(&mut table), "");
    }
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.assert_nothing_to_do(&mut table);
    bench.wait(30);
    assert_eq!(bench.sync(&mut table), "ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.5:8080\n");
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn i1_one_without_connections_goes_a_second_later() {
    let (mut bench, mut table) = leaving(Settings::default());
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.wait(1);
    assert!(bench.sync(&mut table).contains("-d "));
    assert_as_from_scratch(&bench, &table);
}

/// At most three at a time, as issue #3 asks.
#[test]
fn one_endpoint_in_the_place_of_another_on_this_node_is_three_messages() {
    let here = |last| {
        let cluster = [endpoint_in(Family::V4, last, Locality::Local)].into();
        ServicePort { cluster, ..web([last]) }
    };
    let mut table = table_of(Family::V4, [here(5)]);
    let mut bench = Bench::new(Family::V4);
    bench.sync(&mut table);
    table.set(here(6));
    assert_eq!(
        bench.sync(&mut table),
        "ipset add FERRO-4-HAIRPIN 10.244.1.6,10.244.1.6\n\
         ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.6:8080 -m -w 1\n\
         ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 0\n"
    );
    bench = bench.restart();
    assert_eq!(bench.observe_and_sync(&mut table), "", "it drains still");
    bench.wait(1);
    assert_eq!(
        bench.sync(&mut table),
        "ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.5:8080\nipset del FERRO-4-HAIRPIN 10.244.1.5,10.244.1.5\n"
    );
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn i1_connections_that_are_closing_count() {
    let (mut bench, mut table) = leaving(Settings::default());
    let closing = Connections { inactive: 1, ..Connections::default() };
    bench.kernel.get().ipvs.connect(&at(HTTP), to(FIRST), closing);
    bench.wait(1);
    assert_eq!(bench.sync(&mut table), "");
    let kept = Connections { persistent: 1, ..Connections::default() };
    bench.kernel.get().ipvs.connect(&at(HTTP), to(FIRST), kept);
    bench.wait(2);
    assert!(bench.sync(&mut table).contains("-d "));
}

#[test]
fn i3_one_that_comes_back_gets_its_weight_back() {
    let (mut bench, mut table) = leaving(Settings::default());
    table.set(web([5, 6]));
    assert_eq!(bench.sync(&mut table), "ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1\n");
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
    table.set(web([6]));
    bench.wait(100);
    bench.sync(&mut table);
    assert_eq!(bench.mode.wake(), Some(bench.now + Duration::from_secs(1)), "it drains anew");
}

#[test]
fn i3_one_that_comes_back_with_its_last_connection_stays() {
    let (mut bench, mut table) = leaving(Settings::default());
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.wait(1);
    bench.mode.refresh(bench.now).unwrap();
    table.set(web([5, 6]));
    assert_eq!(bench.sync(&mut table), "ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1\n");
    bench.assert_nothing_to_do(&mut table);
}

#[test]
fn i3_a_weight_of_0_that_an_earlier_process_left_on_a_ready_endpoint_is_put_right() {
    let (bench, mut table) = leaving(Settings::default());
    let mut bench = bench.restart();
    table.set(web([5, 6]));
    assert_eq!(bench.observe_and_sync(&mut table), "ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1\n");
}

#[test]
fn i1_what_an_earlier_process_drained_goes_on_draining() {
    let (bench, mut table) = leaving(Settings::default());
    let mut bench = bench.restart();
    assert_eq!(bench.sync(&mut table), "");
    assert_eq!(bench.mode.draining(), 1);
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.wait(1);
    assert!(bench.sync(&mut table).contains("-d "));
}

#[test]
fn a_limit_ends_what_would_never_end() {
    let limit = Some(Duration::from_secs(5));
    let (mut bench, mut table) = leaving(Settings { drain_timeout: limit, ..Settings::default() });
    for seconds in [1, 2] {
        bench.wait(seconds);
        assert_eq!(bench.sync(&mut table), "");
    }
    bench.wait(2);
    assert_eq!(bench.mode.wake(), Some(bench.now));
    assert_eq!(bench.sync(&mut table), "ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.5:8080\n");
    assert_eq!(bench.mode.wake(), None);
}

#[test]
fn a_limit_of_nothing_cuts_at_the_next_look() {
    let limit = Some(Duration::ZERO);
    let (mut bench, mut table) = leaving(Settings { drain_timeout: limit, ..Settings::default() });
    assert_eq!(bench.mode.wake(), Some(bench.now));
    assert!(bench.sync(&mut table).contains("-d "));
}

/// k8s#19029: a client that goes on sending datagrams to a dead endpoint never stops.
#[test]
fn c1_udp_goes_at_once_unless_the_endpoint_still_serves() {
    let dns = |ready: &[u8], draining: &[u8]| {
        let port = service_of(name_of("dns", Protocol::Udp), &[cluster_ip(1)]);
        let draining = draining.iter().copied().map(endpoint).collect();
        ServicePort { draining, ..with_endpoints(port, ready.iter().copied()) }
    };
    let (mut bench, mut table) = Bench::with([dns(&[5, 6, 7], &[])]);
    let server = VirtualServer::new(Protocol::Udp, to("10.96.0.1:80"));
    bench.connect(server, to(FIRST), 1);
    bench.connect(server, to("10.244.1.7:8080"), 1);
    table.set(dns(&[6], &[7]));
    bench.sync(&mut table);
    assert_eq!(bench.weights(server), Some(BTreeMap::from([(6, 1), (7, 0)])));
    assert_eq!(bench.mode.draining(), 1);
    table.set(dns(&[6], &[]));
    bench.sync(&mut table);
    assert_eq!(bench.weights(server), Some(BTreeMap::from([(6, 1)])));
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
}

#[test]
fn i1_the_last_endpoint_leaves_and_its_connections_stay_while_new_ones_are_refused() {
    let (mut bench, mut table) = Bench::with([web([5])]);
    bench.connect(at(HTTP), to(FIRST), 1);
    table.set(web([]));
    let text = bench.sync(&mut table);
    let (served, weight) = (text.find("del FERRO-4-SERVED").unwrap(), text.find("-w 0").unwrap());
    assert!(served < weight, "first refused, then drained: {text}");
    assert_eq!(bench.weights(at(HTTP)), Some(BTreeMap::from([(5, 0)])));
    packets::assert_as_the_oracle_says(&bench, &table);
    bench.assert_nothing_to_do(&mut table);
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.wait(1);
    assert_eq!(bench.sync(&mut table), "ipvsadm -D -t 10.96.0.1:80\n");
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn a_deleted_service_takes_its_virtual_server_with_it() {
    let (mut bench, mut table) = leaving(Settings::default());
    table.remove(&name("web"));
    bench.sync(&mut table);
    assert_eq!((bench.weights(at(HTTP)), bench.mode.draining(), bench.mode.wake()), (None, 0, None));
    assert_as_from_scratch(&bench, &table);
}

#[test]
fn a_kernel_that_does_not_answer_loses_no_drain_and_is_not_asked_without_pause() {
    let (mut bench, mut table) = leaving(Settings::default());
    bench.wait(1);
    bench.kernel.get().ipvs.fail_next = Some(libc::ENOBUFS);
    let error = bench.mode.refresh(bench.now).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (1, Some(bench.now + Duration::from_secs(2))));
    bench.connect(at(HTTP), to(FIRST), 0);
    bench.wait(2);
    assert!(bench.sync(&mut table).contains("-d "));
}

#[test]
fn one_that_somebody_else_removed_drains_no_more() {
    let (mut bench, mut table) = leaving(Settings::default());
    bench.kernel.get().ipvs.entries.get_mut(&at(HTTP)).unwrap().destinations.remove(&to(FIRST));
    assert_eq!(bench.mode.drift().unwrap(), Drift::Suspected);
    assert_eq!(bench.observe_and_sync(&mut table), "");
    assert_eq!((bench.mode.draining(), bench.mode.wake()), (0, None));
}

/// The short-circuit has a virtual server of its own, whose connections are worth as much.
#[test]
fn i1_connections_of_a_short_circuit_stay_when_it_ends() {
    let outside = Frontend::ExternalIp(address("192.0.2.1"));
    let port = |external, endpoints: &[u8]| {
        let cluster = endpoints.iter().copied().map(endpoint).collect();
        ServicePort { external, cluster, internal: external, ..service("web", &[cluster_ip(1), outside]) }
    };
    for (after, endpoints) in [(Verdict::Reject, [].as_slice()), (CLUSTER, &[5])] {
        let (mut bench, mut table) = Bench::with([port(Verdict::Drop, &[5])]);
        let mark = bench.mode.held.marks.of(&name("web")).unwrap();
        let server = VirtualServer::Mark { family: Family::V4, mark };
        bench.connect(server, to(FIRST), 1);
        table.set(port(after, endpoints));
        bench.sync(&mut table);
        assert_eq!(bench.weights(server), Some(BTreeMap::from([(5, 0)])));
        assert_eq!(bench.list(Set::ShortCircuit), Vec::<String>::new());
        bench.assert_nothing_to_do(&mut table);
        assert_eq!(bench.mode.held.marks.of(&name("web")), Some(mark));
        bench.connect(server, to(FIRST), 0);
        bench.wait(1);
        assert!(bench.sync(&mut table).contains(&format!("-D {server}")));
        assert_eq!(bench.mode.held.marks.of(&name("web")), None);
        bench.assert_nothing_to_do(&mut table);
        assert_as_from_scratch(&bench, &table);
    }
}
