//! What goes on though the proxy is killed, its rules are taken away or endpoints leave.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::lab::Observed;
use ferrovia::model::Protocol;

use crate::common::clients::{Echo, UdpClient};
use crate::common::data_plane::{DataPlane, in_every_kernel_mode, in_every_mode};
use crate::common::rig::{PATIENCE, Rig, address, dns, ip, web};

/// Connections that have to succeed while the proxy is restarted.
const ENOUGH: usize = 200;

in_every_kernel_mode! {
    fn c3_restart_keeps_udp_flows(plane: DataPlane) {
        let mut rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5", "10.244.2.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        let server = client.ask().unwrap();
        let before = client.tracked(&rig).expect("its flow is tracked");
        rig.kill_proxy();
        assert_eq!(client.ask().as_ref(), Ok(&server), "while no proxy runs");
        rig.start_proxy();
        // Something to reconcile, so that it has certainly been done.
        let witness = UdpClient::new(&rig, "10.244.1.8", "10.96.0.53:53");
        let first = witness.ask().unwrap();
        let left = if first.starts_with("10.244.1.5") { "10.244.2.5" } else { "10.244.1.5" };
        let draining = format!("{} ready: false, serving: true, terminating: true", first.trim_end_matches(":8080"));
        rig.write("dns.yaml", &dns(&[left, &draining]));
        rig.expect_soon(&format!("10.244.1.7 udp 10.96.0.53:53 -> to {left}:8080"));
        assert_eq!(witness.ask(), Ok(first), "C11: it serves until it has ended");
        assert_eq!(client.tracked(&rig), Some(before));
        assert_eq!(client.ask(), Ok(server));
    }

    fn a4_restart_keeps_established_connections(plane: DataPlane) {
        let mut rig = Rig::start(plane, &[("web.yaml", &web("type: NodePort", &["10.244.1.5", "10.244.2.5"]))]);
        let mut connections = [
            ("10.244.1.9", "10.96.0.10:80"),
            ("172.18.0.2", "10.96.0.10:80"),
            ("172.18.0.100", "172.18.0.2:30080"),
            ("10.244.1.5", "10.96.0.10:80"),
        ]
        .map(|(from, to)| Echo::connect(&rig, from, to));
        for _ in 0..3 {
            rig.kill_proxy();
            connections.iter_mut().for_each(Echo::assert_alive);
            rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
            rig.start_proxy();
            connections.iter_mut().for_each(Echo::assert_alive);
        }
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080");
    }

    /// k8s#75360: new connections while the proxy is killed and started, again and again.
    fn l10_kill_and_restart_fail_no_connection(plane: DataPlane) {
        let mut rig = Rig::start(plane, &[("web.yaml", &web("type: NodePort", &["10.244.1.5", "10.244.2.5"]))]);
        let (stop, failures, connections) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let lab = Arc::clone(&rig.lab);
        thread::scope(|scope| {
            for (from, to) in [("10.244.1.9", "10.96.0.10:80"), ("172.18.0.100", "172.18.0.2:30080")] {
                let (stop, failures, connections, lab) = (&stop, &failures, &connections, &lab);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let observed = lab.probe(ip(from), Protocol::Tcp, address(to), PATIENCE).unwrap();
                        // One processor has to be enough for the program too.
                        thread::sleep(Duration::from_millis(5));
                        connections.fetch_add(1, Ordering::Relaxed);
                        if !matches!(observed, Observed::Answered { .. }) {
                            failures.lock().unwrap().push(format!("{from}: {observed}"));
                        }
                    }
                });
            }
            let mut restart = || {
                rig.kill_proxy();
                rig.start_proxy();
            };
            // On a busy machine few clients get through: then there are more restarts, so that as much is shown.
            let is_enough = |restarts| restarts >= 8 && connections.load(Ordering::Relaxed) > ENOUGH;
            let deadline = Instant::now() + PATIENCE;
            let restart_often = || {
                let mut restarts = 0;
                while !is_enough(restarts) && (restarts < 8 || Instant::now() < deadline) {
                    restart();
                    restarts += 1;
                }
            };
            // The clients have to hear of the end, also where a restart fails.
            let restarted = catch_unwind(AssertUnwindSafe(restart_often));
            stop.store(true, Ordering::Relaxed);
            restarted.unwrap_or_else(|panic| resume_unwind(panic));
        });
        assert_eq!(failures.into_inner().unwrap(), [] as [String; 0], "{}", rig.log());
        let connections = connections.into_inner();
        assert!(connections > ENOUGH, "only {connections} connections: that proves nothing");
    }
}

mod connections {
    use super::*;

    in_every_mode! {
        /// C11: connections end when their endpoint ends, not when it is taken out.
        fn c11_connections_outlive_their_endpoint_in_the_service(plane: DataPlane) {
            let rig = Rig::start(plane, &[("web.yaml", &web("", &["10.244.1.5"]))]);
            let mut connection = Echo::connect(&rig, "10.244.1.9", "10.96.0.10:80");
            assert_eq!(connection.server, "10.244.1.5:8080");
            rig.write("web.yaml", &web("", &["10.244.2.5"]));
            rig.expect_soon("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.2.5:8080");
            connection.assert_alive();
        }
    }
}
