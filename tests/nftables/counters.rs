//! `--service-counters` with real packets.

use ferrovia::lab::proxy::get;

use super::*;
use crate::common::rig::{SOON, address};

/// The value of a series of `default/web`.
fn of_web(rig: &Rig, metric: &str, direction: Option<&str>) -> u64 {
    let (_, text) = get(&rig.lab, address("127.0.0.1:10249"), "/metrics").unwrap();
    let direction = direction.map(|direction| format!("direction=\"{direction}\",")).unwrap_or_default();
    let begin = format!(
        "ferrovia_service_{metric}_total{{{direction}ip_family=\"IPv4\",namespace=\"default\",port=\"\",\
         protocol=\"TCP\",service=\"web\"}} "
    );
    text.lines().find_map(|line| line.strip_prefix(&begin)).map_or(0, |value| value.parse().unwrap())
}

fn counting() -> Rig {
    let web = web("type: NodePort", &PODS);
    let rig = Rig::without_proxy(DataPlane::Nftables, &[("web.yaml", &web)], &[]);
    let mut rig = rig.with_flags(&["--service-counters"]);
    rig.start_proxy();
    rig
}

fn connect(rig: &Rig, from: &str, to: &str, times: usize) {
    for _ in 0..times {
        let seen = rig.ask(from, Protocol::Tcp, to);
        assert!(matches!(seen, Observed::Answered { .. }), "{seen}");
    }
}

/// Each connection once, whichever way it goes, and packets of both directions.
#[test]
fn service_counters_tell_connections_packets_and_bytes() {
    let mut rig = counting();
    rig.expect(SERVED);
    let listed = rig.run("nft list table ip ferrovia");
    assert!(listed.contains("set counted-requests"), "{listed}");
    // They are read every 5 s.
    std::thread::sleep(Duration::from_secs(7));
    let before = of_web(&rig, "connections", None);
    connect(&rig, "10.244.1.9", WEB, 4);
    connect(&rig, "172.18.0.2", WEB, 3);
    connect(&rig, "172.18.0.100", "172.18.0.2:30080", 2);
    let connections = || of_web(&rig, "connections", None);
    assert!(
        eventually(SOON, || connections() == before + 9),
        "{}\n{}",
        connections(),
        rig.run("nft list table ip ferrovia")
    );
    let (packets_in, packets_out) =
        (of_web(&rig, "packets", Some("in")), of_web(&rig, "packets", Some("out")));
    assert!(packets_in >= 3 * (before + 9) && packets_out >= 2 * (before + 9), "{packets_in} {packets_out}");
    for (direction, packets) in [("in", packets_in), ("out", packets_out)] {
        assert!(of_web(&rig, "bytes", Some(direction)) >= packets * 40, "{direction}");
    }
    rig.kill_proxy();
    rig.start_proxy();
    assert!(
        eventually(SOON, || of_web(&rig, "connections", None) == before + 9),
        "the kernel's counts outlive the process"
    );
    assert_eq!(metric(&rig, "ferrovia_drift_repairs_total"), 0, "{}", rig.log());
}

#[test]
fn without_service_counters_nothing_is_counted() {
    let mut rig = counting();
    rig.kill_proxy();
    let mut command = Proxy::command(&rig.lab, Path::new(PROGRAM)).unwrap();
    command.args(DataPlane::Nftables.flags());
    rig.spawn(command);
    rig.wait_until_healthy();
    let is_gone = || !rig.run("nft list ruleset").contains("count");
    assert!(eventually(PATIENCE, is_gone), "{}", rig.run("nft list ruleset"));
    rig.expect(SERVED);
    assert_eq!(of_web(&rig, "connections", None), 0);
}
