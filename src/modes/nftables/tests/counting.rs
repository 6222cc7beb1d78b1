//! `--service-counters`: what is written for it, what is read, and that it goes without a trace.

use super::*;
use crate::kernel::nftables::element::Count;
use crate::modes::Traffic;

const COUNTING: Settings = Settings { mark: 0x4000, invalid: InvalidPackets::Drop, counting: Counting::On };

fn with_settings(kernel: Shared, settings: Settings) -> Bench {
    let told = Told::default();
    let mode = Nftables::new(Family::V4, kernel.clone(), Box::new(told.clone()), settings);
    let mut bench = Bench { kernel, mode, told, now: Instant::now() };
    bench.mode.observe().unwrap();
    bench
}

fn everything() -> ServiceTable {
    let mut gone = service("gone", &[cluster_ip(3)]);
    (gone.internal, gone.external, gone.cluster) = (Verdict::Reject, Verdict::Reject, [].into());
    let mut local = service("local", &[cluster_ip(2), Frontend::NodePort(30_081)]);
    (local.internal, local.external) = (Verdict::Drop, Verdict::Drop);
    table_of(Family::V4, [service("web", &[cluster_ip(1), Frontend::NodePort(30_080)]), local, gone])
}

fn counting() -> (Bench, ServiceTable) {
    let (mut bench, mut table) = (with_settings(Shared::default(), COUNTING), everything());
    bench.sync(&mut table);
    (bench, table)
}

fn count(bench: &Bench, set: &str, element: &str, packets: u64) {
    let mut kernel = bench.kernel.0.borrow_mut();
    let table = kernel.table(&table_of_kernel(Family::V4));
    let elements = &mut table.sets.get_mut(set).expect("the set").elements;
    let found = elements.values_mut().find(|found| found.to_string() == element);
    found.unwrap_or_else(|| panic!("{element} is not in {set}")).count =
        Some(Count { packets, bytes: packets * 100 });
}

#[test]
fn frontends_that_lead_somewhere_are_counted() {
    let (mut bench, mut table) = counting();
    for kind in ["connections", "requests", "replies"] {
        assert_eq!(bench.list(&format!("counted-{kind}")), ["10.96.0.1 . tcp . 80"]);
        // The node and its pods have all endpoints.
        assert_eq!(bench.list(&format!("node-counted-{kind}")), ["tcp . 30080", "tcp . 30081"]);
    }
    bench.assert_nothing_to_do(&mut table);
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.sync(&mut table), "", "nothing of it counts as unused");
}

#[test]
fn counts_of_all_frontends_are_those_of_the_service() {
    let (mut bench, table) = counting();
    assert_eq!(bench.mode.traffic(&table).unwrap(), BTreeMap::new());
    count(&bench, "counted-connections", "10.96.0.1 . tcp . 80", 3);
    count(&bench, "node-counted-connections", "tcp . 30080", 1);
    count(&bench, "counted-requests", "10.96.0.1 . tcp . 80", 30);
    count(&bench, "node-counted-replies", "tcp . 30080", 7);
    let web = Traffic { connections: 4, packets_in: 30, bytes_in: 3000, packets_out: 7, bytes_out: 700 };
    assert_eq!(bench.mode.traffic(&table).unwrap(), [(name("web"), web)].into());
}

#[test]
fn an_endpoint_that_changes_keeps_the_counts() {
    let (mut bench, mut table) = counting();
    count(&bench, "counted-requests", "10.96.0.1 . tcp . 80", 30);
    let mut port = service("web", &[cluster_ip(1), Frontend::NodePort(30_080)]);
    port.cluster = endpoints(&[5, 6, 7]);
    table.set(port);
    bench.sync(&mut table);
    assert_eq!(bench.mode.traffic(&table).unwrap()[&name("web")].packets_in, 30);
    let mut bench = with_settings(bench.kernel, COUNTING);
    bench.sync(&mut table);
    assert_eq!(bench.mode.traffic(&table).unwrap()[&name("web")].packets_in, 30, "as does a restart");
}

#[test]
fn without_the_flag_nothing_of_it_is_there_or_stays() {
    let mut table = everything();
    let (bench, _) = counting();
    let mut bench = with_settings(bench.kernel, Settings::default());
    bench.sync(&mut table);
    bench.sweep(&mut table);
    assert_eq!(bench.state(), from_scratch(&table));
    assert!(!bench.state().keys().any(|name| name.contains("count")), "{:?}", bench.state().keys());
    assert!(!bench.mode.counts_traffic());
}

#[test]
fn the_rules_that_count_are_as_reviewed() {
    let text = render(&COUNTING, &table_of(Family::V4, []));
    let lines: Vec<_> = text.lines().filter(|line| line.contains("count")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}
