//! I1, I2: what becomes of connections when their endpoint leaves.

use std::time::{Duration, Instant};

use super::lab::{WEB, distribution, metric, server_of, start, wait_for_weight, weight};
use crate::common::clients::{Echo, UdpClient};
use crate::common::rig::{PATIENCE, Rig, dns, eventually, web};

const FIRST: &str = "10.244.1.5";
const SECOND: &str = "10.244.2.5";
const DRAINING: &str = "ferrovia_draining_endpoints";

/// A connection to an endpoint that has left since.
fn drained(flags: &[&str]) -> (Rig, Echo) {
    let (rig, connection, _) = drained_since(flags);
    (rig, connection)
}

/// And the time just before it left.
fn drained_since(flags: &[&str]) -> (Rig, Echo, Instant) {
    let rig = start(&[("web.yaml", &web("", &[FIRST]))], flags);
    let connection = Echo::connect(&rig, "10.244.1.9", WEB);
    let before = Instant::now();
    rig.write("web.yaml", &web("", &[SECOND]));
    wait_for_weight(&rig, FIRST, Some(0));
    (rig, connection, before)
}

/// After a reset IPVS keeps a connection for 10 s, after an orderly end for 2 minutes.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_a_removed_endpoint_goes_with_its_last_connection() {
    let (rig, mut connection) = drained(&[]);
    assert_eq!(distribution(&rig, "10.244.1.9", WEB, 10), [(SECOND.to_owned(), 10)].into());
    assert!(eventually(PATIENCE, || metric(&rig, DRAINING) == 1), "{}", rig.log());
    connection.assert_alive();
    connection.reset();
    assert!(eventually(Duration::from_secs(120), || weight(&rig, FIRST).is_none()), "{}", rig.evidence());
    assert!(eventually(PATIENCE, || metric(&rig, DRAINING) == 0), "{}", rig.log());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_a_drain_ends_at_its_limit() {
    let (rig, mut connection, before) = drained_since(&["--ipvs-drain-timeout=8s"]);
    connection.assert_alive();
    wait_for_weight(&rig, FIRST, None);
    assert!(before.elapsed() >= Duration::from_secs(8), "after {:?}", before.elapsed());
    assert!(!connection.is_alive());
    assert!(eventually(PATIENCE, || metric(&rig, DRAINING) == 0), "{}", rig.log());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_an_endpoint_that_comes_back_serves_again() {
    let (rig, mut connection) = drained(&[]);
    rig.write("web.yaml", &web("", &[FIRST, SECOND]));
    wait_for_weight(&rig, FIRST, Some(1));
    assert!(eventually(PATIENCE, || metric(&rig, DRAINING) == 0), "{}", rig.log());
    rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
    connection.assert_alive();
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i1_a_restart_goes_on_with_a_drain() {
    let (mut rig, mut connection) = drained(&[]);
    rig.kill_proxy();
    rig.start_proxy();
    assert_eq!(weight(&rig, FIRST), Some(0), "{}", rig.evidence());
    assert!(eventually(PATIENCE, || metric(&rig, DRAINING) == 1), "{}", rig.log());
    connection.assert_alive();
    connection.reset();
    assert!(eventually(Duration::from_secs(120), || weight(&rig, FIRST).is_none()), "{}", rig.evidence());
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i7_datagrams_change_over_at_once() {
    let rig = start(&[("dns.yaml", &dns(&[FIRST]))], &[]);
    let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
    assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
    rig.write("dns.yaml", &dns(&[SECOND]));
    assert!(eventually(PATIENCE, || client.ask().as_deref() == Ok("10.244.2.5:8080")), "{}", rig.evidence());
}

/// `expire_quiescent_template`: the memory of which client belongs where goes with the weight.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i7_affinity_to_a_draining_endpoint_is_forgotten() {
    let sticky = |pods: &[&str]| web("sessionAffinity: ClientIP", pods);
    let rig = start(&[("web.yaml", &sticky(&[FIRST]))], &[]);
    let mut connection = Echo::connect(&rig, "10.244.1.9", WEB);
    rig.write("web.yaml", &sticky(&[FIRST, SECOND]));
    wait_for_weight(&rig, SECOND, Some(1));
    assert_eq!(server_of(&rig, "10.244.1.9", WEB), FIRST);
    rig.write("web.yaml", &sticky(&[SECOND]));
    wait_for_weight(&rig, FIRST, Some(0));
    assert_eq!(distribution(&rig, "10.244.1.9", WEB, 10), [(SECOND.to_owned(), 10)].into());
    connection.assert_alive();
}
