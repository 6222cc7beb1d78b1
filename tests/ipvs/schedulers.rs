//! How each scheduler shares connections out.

use std::collections::{BTreeMap, BTreeSet};

use super::lab::{
    WEB, annotated, at, distribution, options, real_servers, server_of, start, wait_for_weight, web,
};
use crate::common::clients::Echo;
use crate::common::rig::{PATIENCE, Rig, address, eventually, ip};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const FOUR: [&str; 4] = ["10.244.1.5", "10.244.1.6", "10.244.2.5", "10.244.2.6"];
/// A pod of another node that is its own endpoint is that node's affair.
const CLIENTS: [&str; 7] =
    ["10.244.1.5", "10.244.1.6", "10.244.1.7", "10.244.1.8", "10.244.2.7", "10.244.2.8", "172.18.0.100"];
/// Those that Linux 6.1 has; `twos` came with 6.2.
const ALL: [&str; 13] =
    ["rr", "lc", "sh", "wrr", "wlc", "dh", "sed", "nq", "mh", "lblc", "lblcr", "fo", "ovf"];

fn by(scheduler: &str) -> String {
    format!("ferrovia.dev/scheduler: {scheduler}")
}

/// By default `mh` looks at the client's port too.
fn by_address(scheduler: &str) -> String {
    by(scheduler) + ", ferrovia.dev/scheduler-flags: \"\""
}

fn counts<const N: usize>(wanted: [(&str, usize); N]) -> BTreeMap<String, usize> {
    wanted.map(|(server, count)| (server.to_owned(), count)).into()
}

/// Where the connections of each client go.
fn chosen(rig: &Rig) -> BTreeMap<&'static str, String> {
    CLIENTS.map(|client| (client, server_of(rig, client, WEB))).into()
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn rr_takes_turns() {
    let rig = start(&[("web.yaml", &web(&by("rr"), &PODS))], &[]);
    assert_eq!(distribution(&rig, "10.244.1.9", WEB, 40), counts([(PODS[0], 20), (PODS[1], 20)]));
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn lc_sends_new_connections_where_fewer_are_open() {
    let rig = start(&[("web.yaml", &web(&by("lc"), &PODS[..1]))], &[]);
    let mut busy: Vec<_> = (0..6).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    rig.write("web.yaml", &web(&by("lc"), &PODS));
    wait_for_weight(&rig, PODS[1], Some(1));
    let mut others: Vec<_> = (0..6).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    let are_right = others.iter().all(|connection| connection.server.starts_with(PODS[1]));
    assert!(are_right, "{}", rig.evidence());
    busy.iter_mut().chain(&mut others).for_each(Echo::assert_alive);
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn sh_and_mh_give_each_client_one_endpoint() {
    for scheduler in ["sh", "mh"] {
        let rig = start(&[("web.yaml", &web(&by_address(scheduler), &FOUR))], &[]);
        let first = chosen(&rig);
        for _ in 0..5 {
            assert_eq!(chosen(&rig), first, "{scheduler}");
        }
        let used: BTreeSet<_> = first.values().collect();
        assert!(used.len() > 1, "{scheduler}: {first:?}");
    }
}

/// What Maglev hashing is for: clients of the other endpoints stay with them.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn mh_moves_few_clients_when_an_endpoint_leaves() {
    let rig = start(&[("web.yaml", &web(&by_address("mh"), &FOUR))], &[]);
    let before = chosen(&rig);
    rig.write("web.yaml", &web(&by_address("mh"), &FOUR[1..]));
    let is_out = || {
        let real = real_servers(&rig, WEB);
        !real.is_empty() && real.get("10.244.1.5:8080").is_none_or(|real| real.weight == 0)
    };
    assert!(eventually(PATIENCE, is_out), "{}", rig.evidence());
    let after = chosen(&rig);
    assert!(after.values().all(|server| server != FOUR[0]), "{after:?}");
    let moved =
        CLIENTS.iter().filter(|client| before[*client] != FOUR[0] && before[*client] != after[*client]);
    assert!(moved.clone().count() <= 1, "{:?} moved from {before:?} to {after:?}", moved.collect::<Vec<_>>());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn the_port_flags_spread_one_client() {
    for scheduler in ["sh", "mh"] {
        let annotations = format!("{}, ferrovia.dev/scheduler-flags: {scheduler}-port", by(scheduler));
        let rig = start(&[("web.yaml", &web(&annotations, &FOUR))], &[]);
        assert!(options(&rig, WEB).contains(&format!("{scheduler}-port")), "{}", rig.evidence());
        let spread = distribution(&rig, "10.244.1.9", WEB, 60);
        assert!(spread.len() > 1, "{scheduler}: {spread:?}");
    }
}

fn weighted(scheduler: &str) -> String {
    let slice = |name: &str, weight: u8, pod: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: default, name: {name}, \
             labels: {{kubernetes.io/service-name: web}}, annotations: {{ferrovia.dev/weight: \"{weight}\"}}}}\n\
             addressType: IPv4\nports: [{{protocol: TCP, port: 8080}}]\n\
             endpoints: [{{addresses: [{pod}], conditions: {{ready: true}}}}]\n"
        )
    };
    let service = crate::common::rig::service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]");
    annotated(&service, &by(scheduler)) + &slice("heavy", 3, PODS[0]) + &slice("light", 1, PODS[1])
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn wrr_and_wlc_share_by_weight() {
    let rig = start(&[("web.yaml", &weighted("wrr"))], &[]);
    assert_eq!(distribution(&rig, "10.244.1.9", WEB, 40), counts([(PODS[0], 30), (PODS[1], 10)]));
    rig.write("web.yaml", &weighted("wlc"));
    assert!(eventually(PATIENCE, || options(&rig, WEB) == "wlc"), "{}", rig.evidence());
    let mut open: Vec<_> = (0..20).map(|_| Echo::connect(&rig, "10.244.1.7", WEB)).collect();
    let real = real_servers(&rig, WEB);
    let active = |pod: &str| real[&format!("{pod}:8080")].active;
    assert!((14..=16).contains(&active(PODS[0])) && active(PODS[0]) + active(PODS[1]) == 20, "{real:?}");
    open.iter_mut().for_each(Echo::assert_alive);
}

/// One Service for each scheduler. The weight is large, as `ovf` takes it for the most connections at a time.
fn all_schedulers(pods: &[&str]) -> String {
    let one = |(number, scheduler): (usize, &&str)| {
        annotated(&at(scheduler, &format!("10.96.1.{number}"), pods), &by(scheduler))
    };
    let all: String = ALL.iter().enumerate().map(one).collect();
    all.replace("  labels:", "  annotations: {ferrovia.dev/weight: \"50\"}\n  labels:")
}

/// I1: with an endpoint that keeps a connection, new ones go to the others, whatever the scheduler.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_no_scheduler_sends_new_connections_to_a_draining_endpoint() {
    let rig = start(&[("all.yaml", &all_schedulers(&FOUR))], &["--ipvs-scheduler=lc"]);
    let places: Vec<_> = (0..ALL.len()).map(|number| format!("10.96.1.{number}:80")).collect();
    for (scheduler, place) in ALL.iter().zip(&places) {
        assert_eq!(options(&rig, place).split(' ').next(), Some(*scheduler), "{}", rig.evidence());
    }
    let mut held: Vec<_> = CLIENTS
        .iter()
        .flat_map(|client| places.iter().map(|place| Echo::connect(&rig, client, place)))
        .collect();
    rig.write("all.yaml", &all_schedulers(&FOUR[2..]));
    let is_out = || {
        places.iter().all(|place| {
            let real = real_servers(&rig, place);
            !real.is_empty()
                && FOUR[..2]
                    .iter()
                    .all(|pod| real.get(&format!("{pod}:8080")).is_none_or(|real| real.weight == 0))
        })
    };
    assert!(eventually(PATIENCE, is_out), "{}", rig.evidence());
    let mut wrong = Vec::new();
    for (scheduler, place) in ALL.iter().zip(&places) {
        for client in CLIENTS {
            let tcp = ferrovia::model::Protocol::Tcp;
            let seen = rig.lab.probe(ip(client), tcp, address(place), PATIENCE).unwrap();
            let is_right = FOUR[2..].iter().any(|pod| seen.to_string().starts_with(pod));
            if !is_right {
                wrong.push(format!("{scheduler}: {client}: {seen}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", rig.evidence());
    let ended: Vec<_> = held
        .iter_mut()
        .enumerate()
        .filter_map(|(number, connection)| (!connection.is_alive()).then(|| ALL[number % ALL.len()]))
        .collect();
    assert!(ended.iter().all(|scheduler| *scheduler == "dh"), "{ended:?} cut");
}

/// `dh` knows no endpoint that takes no new connections: it would refuse every client of its address.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_dh_does_not_drain() {
    let rig = start(&[("web.yaml", &web(&by("dh"), &PODS))], &[]);
    let connection = Echo::connect(&rig, "10.244.1.9", WEB);
    let left = PODS.into_iter().find(|pod| !connection.server.starts_with(pod)).unwrap();
    rig.write("web.yaml", &web(&by("dh"), &[left]));
    rig.expect_soon(&format!("10.244.1.7 tcp 10.96.0.10:80 -> to {left}:8080"));
    assert!(eventually(PATIENCE, || real_servers(&rig, WEB).len() == 1), "{}", rig.evidence());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a_service_has_its_own_scheduler_beside_the_default() {
    let own = annotated(&at("own", "10.96.0.11", &PODS), &by("sed"));
    let rig = start(&[("web.yaml", &web("", &PODS)), ("own.yaml", &own)], &["--ipvs-scheduler=wlc"]);
    assert_eq!((options(&rig, WEB), options(&rig, "10.96.0.11:80")), ("wlc".into(), "sed".into()));
    rig.write("own.yaml", &at("own", "10.96.0.11", &PODS));
    assert!(eventually(PATIENCE, || options(&rig, "10.96.0.11:80") == "wlc"), "{}", rig.evidence());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a_scheduler_that_the_kernel_lacks_costs_nothing_but_itself() {
    let odd = annotated(&at("odd", "10.96.0.11", &PODS), &by("twos"));
    let rig = start(&[("web.yaml", &web("", &PODS)), ("odd.yaml", &odd)], &["--ipvs-scheduler=lc"]);
    assert_eq!(options(&rig, "10.96.0.11:80"), "lc", "{}", rig.evidence());
    for part in ["default/odd", "this kernel does not have twos", "ip_vs_twos", "lc is used"] {
        assert!(rig.log().contains(part), "{part} is not in\n{}", rig.log());
    }
    rig.expect(
        "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080
         10.244.1.9 tcp 10.96.0.11:80 -> to 10.244.1.5:8080 10.244.2.5:8080",
    );
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn a_default_scheduler_that_the_kernel_lacks_is_replaced() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &["--ipvs-scheduler=twos"]);
    assert_eq!(options(&rig, WEB), "rr", "{}", rig.evidence());
    for part in ["--ipvs-scheduler=twos", "this kernel does not have it", "rr is used"] {
        assert!(rig.log().contains(part), "{part} is not in\n{}", rig.log());
    }
    rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
}
