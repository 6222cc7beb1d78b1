//! More than there is room for.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use ferrovia::model::Protocol;

use super::{WEB, metric, start};
use crate::common::clients::Echo;
use crate::common::data_plane::DataPlane;
use crate::common::rig::{PATIENCE, PROGRAM, Rig, SOON, address, dns, eventually, ip, web};
use crate::ipvs::lab::shell;

/// k8s#5461, #12144, #13709: `ulimit -n 256`. Connections wait for others to end, and those that are open go on.
#[test]
fn p1_without_file_descriptors_accepting_waits_and_connections_live() {
    let mut rig = Rig::without_proxy(DataPlane::Userspace, &[("web.yaml", &web("", &["10.244.1.5"]))], &[]);
    let wanted = rig.command();
    let mut command = rig.lab.here().command("prlimit").unwrap();
    command.args(["--nofile=256:256", PROGRAM]).args(wanted.get_args());
    rig.spawn(command);
    rig.wait_until_healthy();
    let mut served: Vec<Echo> = (0..16).map(|_| Echo::connect(&rig, "10.244.1.9", WEB)).collect();
    let waiting: Vec<TcpStream> =
        (0..100).map(|_| rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap()).collect();
    thread::sleep(Duration::from_secs(1));
    assert!(metric(&rig, "ferrovia_proxy_accept_pauses_total") > 0.0, "{}", rig.log());
    served.iter_mut().for_each(Echo::assert_alive);
    drop(served);
    // All at once: which of them are served first is up to the threads of the proxy.
    thread::scope(|scope| {
        for (number, stream) in waiting.into_iter().enumerate() {
            let rig = &rig;
            scope.spawn(move || {
                let heard = introduction(stream);
                assert!(heard.starts_with("10.244.1.5:8080 "), "{number}: {heard}\n{}", rig.log());
            });
        }
    });
    Echo::connect(&rig, "10.244.1.9", WEB).assert_alive();
}

/// What a server says first, or why nothing was heard of it.
pub fn introduction(stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => line,
        Err(error) => error.to_string(),
    }
}

fn descriptors(process: u32) -> BTreeSet<usize> {
    let all = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// The last descriptor goes for the client's own socket. No endpoint is at fault, and no attempt is spent.
#[test]
fn p1_a_client_that_was_accepted_without_a_descriptor_for_its_endpoint_waits() {
    let rig = start(&[("web.yaml", &web("", &["10.244.1.5"]))]);
    let process = rig.process();
    let mut open = descriptors(process);
    let is_settled = || {
        thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut open, descriptors(process)) == open
    };
    assert!(eventually(SOON, is_settled));
    // The first two that are free: a descriptor has to be below the limit.
    let limit = (0..).filter(|number| !open.contains(number)).nth(1).unwrap();
    let hard = rig.run(&format!("prlimit --pid {process} --nofile --noheadings --output=HARD"));
    rig.run(&format!("prlimit --pid {process} --nofile={limit}:{}", hard.trim()));
    let stream = rig.lab.connect(ip("10.244.1.9"), address(WEB), PATIENCE).unwrap();
    thread::sleep(Duration::from_secs(2));
    rig.run(&format!("prlimit --pid {process} --nofile={0}:{0}", hard.trim()));
    let heard = introduction(stream);
    assert!(heard.starts_with("10.244.1.5:8080 "), "{heard}\n{}", rig.log());
    assert!(metric(&rig, "ferrovia_proxy_accept_pauses_total") > 0.0);
    assert_eq!(metric(&rig, "ferrovia_proxied_retries_total"), 0.0);
}

/// Datagrams from 50,000 addresses: the oldest flows go, memory does not grow, and other Services do not notice.
#[test]
fn p1_a_flood_of_udp_clients_is_bounded() {
    let manifests = [("dns.yaml", &*dns(&["10.244.1.5"])), ("web.yaml", &web("", &["10.244.1.6"]))];
    let rig = start(&manifests);
    shell(&rig, "ip route add 10.99.0.0/16 via 172.18.0.100");
    let outside = rig.lab.host_of(ip("172.18.0.100")).unwrap();
    let flood = || {
        let mut command = std::process::Command::new("ip");
        assert!(
            command.args(["route", "add", "local", "10.99.0.0/16", "dev", "lo"]).status().unwrap().success()
        );
        for number in 0..50_000u32 {
            let source = Ipv4Addr::from(0x0a63_0000 + number);
            let socket = UdpSocket::bind(SocketAddr::new(source.into(), 4000)).unwrap();
            let _ = socket.send_to(b"?", "172.18.0.2:30053");
        }
    };
    outside.namespace.run(flood).unwrap();
    let mut echo = Echo::connect(&rig, "10.244.1.9", WEB);
    echo.assert_alive();
    let memory = metric(&rig, "process_resident_memory_bytes");
    assert!(memory < 150e6, "{memory}");
    let flows = metric(&rig, "ferrovia_proxied_active");
    assert!(flows < 33_000.0, "{flows}");
    let is_answered = || {
        matches!(
            rig.ask("10.244.1.9", Protocol::Udp, "10.96.0.53:53"),
            ferrovia::lab::Observed::Answered { .. }
        )
    };
    assert!(eventually(SOON, is_answered), "{}", rig.log());
}
