//! Notifications that were lost.

use std::io::Write;
use std::process::Stdio;

use super::*;

/// So many changes of others overflow what the kernel keeps for a process that does not listen, whatever its buffer.
const CHANGES: usize = 20_000;

/// `kill -STOP` and `-CONT`.
fn signal(proxy: &Proxy, signal: i32) {
    // SAFETY: a signal to a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(proxy.id() as i32, signal) }, 0);
}

/// Others' routes come and go until the queue is full; what happens to ours then is told to nobody.
#[test]
fn n2_a_route_whose_loss_was_not_told_is_back_soon() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables"]);
    let route = "10.244.2.0/24 via 172.18.0.12";
    cluster.expect_routes_soon(1, &[route]);
    signal(&cluster.proxies[0], libc::SIGSTOP);
    let mut ip = cluster.mesh.node(1).namespace.command("ip").unwrap();
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut commands = String::new();
    for number in 0..CHANGES / 2 {
        let network = format!("10.{}.{}.0/24", 100 + number / 250, number % 250);
        commands += &format!("route add {network} via 172.18.0.1\nroute del {network}\n");
    }
    commands += "route del 10.244.2.0/24 proto 104\n";
    ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
    assert_eq!(cluster.routes(1, "-4"), [] as [&str; 0]);
    signal(&cluster.proxies[0], libc::SIGCONT);
    cluster.expect_routes_soon(1, &[route]);
    assert!(cluster.log(1).contains("Notifications about routes were lost"), "{}", cluster.log(1));
}
