//! From IPVS to another mode, with connections that go on.
//!
//! The guest kernel has no nf_tables for IPv4 and IPv6, so that iptables stands in for both: what is left of IPVS is the
//! same code, and so is its order, rules of the new mode first.

use std::thread;
use std::time::Duration;

use super::lab::{WEB, at, options, real_servers, start, virtual_servers, web};
use super::life::while_connecting;
use crate::common::clients::Echo;
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, eventually};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];
const SERVED: &str = "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080
                      172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded";

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn l9_connections_through_ipvs_outlive_a_switch_to_another_mode() {
    let manifests = [("web.yaml", web("", &PODS)), ("more.yaml", at("more", "10.96.0.11", &PODS[..1]))];
    let mut rig = start(&manifests.each_ref().map(|(file, text)| (*file, text.as_str())), &[]);
    let clients = [("10.244.1.9", WEB), ("172.18.0.2", WEB), ("172.18.0.100", "172.18.0.2:30080")];
    let mut connections = clients.map(|(from, to)| Echo::connect(&rig, from, to));
    while_connecting(&mut rig, |rig| {
        rig.switch_to(DataPlane::IptablesLegacy);
        thread::sleep(Duration::from_secs(1));
    });
    rig.expect(SERVED);
    connections.iter_mut().for_each(Echo::assert_alive);
    let is_quiet = || {
        let real = real_servers(&rig, WEB);
        options(&rig, "10.96.0.11:80").is_empty()
            && real.len() == 2
            && real.values().all(|real| real.weight == 0)
    };
    assert!(eventually(PATIENCE, is_quiet), "{}\n{}", virtual_servers(&rig), rig.log());
    assert!(!rig.run("ip route show table local proto 102").contains("10.96.0.11"));
    assert!(!rig.run("iptables-legacy-save -t mangle").contains("FERRO"));
    rig.kill_proxy();
    rig.start_proxy();
    connections.iter_mut().for_each(Echo::assert_alive);
    rig.expect(SERVED);
    rig.switch_to(DataPlane::Ipvs);
    connections.iter_mut().for_each(Echo::assert_alive);
    rig.expect(SERVED);
    assert!(real_servers(&rig, WEB).values().all(|real| real.weight == 1));
}
