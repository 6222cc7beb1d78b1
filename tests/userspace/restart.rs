//! One process takes the place of another while clients go on.

use std::thread;
use std::time::Duration;

use ferrovia::lab::proxy::Proxy;

use super::load::introduction;
use super::{WEB, server_of, start};
use crate::common::clients::{Echo, while_clients_connect};
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, PROGRAM, Rig, SOON, address, eventually, ip, web};

/// By every way to a Service.
const CLIENTS: [(&str, &str); 4] = [
    ("10.244.1.9", WEB),
    ("172.18.0.100", "172.18.0.2:30080"),
    ("172.18.0.2", WEB),
    ("172.18.0.2", "127.0.0.1:30080"),
];

fn web_with_node_port() -> String {
    web("type: NodePort", &["10.244.1.5", "10.244.1.6"])
}

/// The new process first, then the old one ends: both carry connections meanwhile, and nobody is refused.
#[test]
fn l10_a_new_process_takes_over_and_refuses_no_connection() {
    check_take_over(DataPlane::Userspace);
}

pub fn check_take_over(plane: DataPlane) {
    let mut rig = Rig::start(plane, &[("web.yaml", &web_with_node_port())]);
    while_clients_connect(&mut rig, &CLIENTS, 3, |rig| rig.hand_over_to(plane));
}

/// Both ways lead to the same sockets for as long as both are in the kernel, and the old process does not put its own back.
#[test]
fn l9_from_one_way_to_capture_to_the_other_no_connection_is_refused() {
    let mut rig = start(&[("web.yaml", &web_with_node_port())]);
    let mut next = [DataPlane::UserspaceByIptables, DataPlane::Userspace].into_iter().cycle();
    while_clients_connect(&mut rig, &CLIENTS, 4, |rig| {
        let plane = next.next().unwrap();
        rig.hand_over_to(plane);
        let other = match plane {
            DataPlane::Userspace => "FERRO-U4",
            _ => "table ip ferrovia",
        };
        let found =
            || rig.run("nft list ruleset") + &rig.run("iptables-legacy-save") + &rig.run("ipset list -name");
        assert!(eventually(SOON, || !found().contains(other)), "{plane:?}: {}\n{}", found(), rig.log());
    });
}

/// Connections that wait in the old process's queue are the new one's, which has the same sockets; those that the old one
/// has accepted stay with it.
#[test]
fn l10_connections_in_the_queue_of_a_process_are_served_by_the_next_one() {
    let mut rig = Rig::without_proxy(DataPlane::Userspace, &[("web.yaml", &web("", &["10.244.1.5"]))], &[]);
    let few_descriptors = |rig: &Rig| {
        let wanted = rig.command();
        let mut command = rig.lab.here().command("prlimit").unwrap();
        command.args(["--nofile=256:256", PROGRAM]).args(wanted.get_args());
        command
    };
    let command = few_descriptors(&rig);
    rig.spawn(command);
    rig.wait_until_healthy();
    let old = rig.process();
    let mut served: Vec<Echo> = (0..16).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    // More than the old process has room for.
    let waiting: Vec<_> =
        (0..40).map(|_| rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap()).collect();
    let new = Proxy::spawn(rig.command()).unwrap();
    let is_handed_over = || rig.log().contains("Another process takes the place of this one");
    assert!(eventually(PATIENCE, is_handed_over), "{}\n{}", rig.log(), new.log());
    thread::scope(|scope| {
        for stream in waiting {
            let (rig, new) = (&rig, &new);
            scope.spawn(move || {
                let heard = introduction(stream);
                assert!(heard.starts_with("10.244.1.5:8080 "), "{heard}\n{}\n{}", rig.log(), new.log());
            });
        }
    });
    rig.run(&format!("kill -TERM {old}"));
    thread::sleep(Duration::from_secs(1));
    served.iter_mut().for_each(Echo::assert_alive);
    drop(served);
    let has_ended = || std::fs::read_link(format!("/proc/{old}/exe")).is_err();
    assert!(eventually(PATIENCE, has_ended), "{}", rig.log());
    for from in ["10.244.1.9", "172.18.0.2"] {
        assert!(server_of(&rig, from).is_some(), "{}", new.log());
    }
}
