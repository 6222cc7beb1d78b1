//! I2: clients behind one address use the same ports again and again.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use super::lab::{WEB, start, web};
use crate::common::rig::{SOON, address, ip};

const CLIENT: &str = "10.244.1.9";
const CONNECTIONS: u16 = 2_000;
const PORTS: u16 = 40;
const PODS: [&str; 3] = ["10.244.1.5", "10.244.1.6", "10.244.2.5"];

/// One whole connection, from a port that may have been in use a moment ago.
fn converse(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SOON))?;
    bind(&socket, &from)?;
    connect(&socket, &to)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    // Once the server has ended too, the port is free.
    stream.shutdown(Shutdown::Write)?;
    match stream.read_to_string(&mut String::new())? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The client keeps no port in TIME_WAIT, but IPVS does: for two minutes each port belongs to an endpoint, which may have
/// left (k8s#81775). And none may take a second (k8s#70747): the kernel sends a lost SYN again after that time.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i2_reused_ports_never_lead_to_an_endpoint_that_left() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    let pod = rig.lab.host_of(ip(CLIENT)).unwrap();
    let sysctl =
        pod.namespace.command("sysctl").unwrap().args(["-w", "net.ipv4.tcp_max_tw_buckets=0"]).output();
    assert!(sysctl.unwrap().status.success());
    let over = AtomicBool::new(false);
    let (failed, slow) = thread::scope(|scope| {
        scope.spawn(|| {
            for turn in (0..PODS.len()).cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                let others: Vec<_> = (1..PODS.len()).map(|step| PODS[(turn + step) % PODS.len()]).collect();
                rig.write("web.yaml", &web("", &others));
                thread::sleep(Duration::from_millis(300));
            }
        });
        let results = pod.namespace.run(connections);
        over.store(true, Ordering::Relaxed);
        results.unwrap()
    });
    assert_eq!(failed, [] as [String; 0], "{}", rig.evidence());
    assert!(slow <= usize::from(CONNECTIONS) / 200, "{slow} took longer than 900 ms\n{}", rig.evidence());
}

/// What failed, and how many were slow.
fn connections() -> (Vec<String>, usize) {
    let (mut failed, mut slow) = (Vec::new(), 0);
    for number in 0..CONNECTIONS {
        let from = SocketAddr::new(IpAddr::V4([10, 244, 1, 9].into()), 20_000 + number % PORTS);
        let begun = Instant::now();
        if let Err(error) = converse(from, address(WEB)) {
            failed.push(format!("number {number} from {from}: {error}"));
        }
        slow += usize::from(begun.elapsed() > Duration::from_millis(900));
    }
    (failed, slow)
}
