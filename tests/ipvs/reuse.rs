//! I2: clients behind one address use the same ports again and again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::kernel::netns::Namespace;
use rustix::net::Shutdown;

use super::lab::start;
use crate::common::rig::{Rig, address, endpoints, ip, service};

const CLIENT: &str = "10.244.1.9";
const WEB: &str = "10.96.0.10:80";
const PODS: [&str; 3] = ["10.244.1.5", "10.244.1.6", "10.244.2.5"];
/// Not that of the lab's own servers, which wait for the client to end.
const PORT: u16 = 9000;
/// For clients that come without the Service: a client's port leads to one place behind it only.
const STRAIGHT: u16 = 9001;

const CONNECTIONS: usize = 60_000;
/// Each is used 300 times.
const PORTS: usize = 200;
/// The guest has one processor: more of them would only wait for each other.
const CLIENTS: usize = 8;
/// So many of the connections that each client makes are followed by one that goes to an endpoint itself.
const COMPARED: usize = 20;
/// Of 1,000 connections 999 take less, or else no more than twice what they take without a Service: a SYN that was dropped
/// comes again after a second (k8s#70747). A tenth of this is wanted, but the guest waits for the machine that it runs on.
const SLOWEST: Duration = Duration::from_millis(900);

fn web(pods: &[&str]) -> String {
    service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]") + &endpoints("web", "TCP", PORT, pods)
}

/// Neither end keeps a port in TIME_WAIT, but IPVS does: for two minutes each port belongs to an endpoint, which may have
/// left (k8s#81775), or not be the one whose turn it is.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i2_reused_ports_never_lead_to_an_endpoint_that_left() {
    let rig = start(&[("web.yaml", &web(&PODS))], &[]);
    let range = format!("net.ipv4.ip_local_port_range=20000 {}", 20_000 + PORTS - 1);
    set(namespace(&rig, CLIENT), &range);
    let listeners: Vec<_> =
        PODS.iter().flat_map(|pod| [PORT, STRAIGHT].map(|port| listen(&rig, pod, port))).collect();
    let over = AtomicBool::new(false);
    let results = thread::scope(|scope| {
        scope.spawn(|| take_turns(&rig, &over));
        listeners.iter().for_each(|listener| drop(scope.spawn(|| serve(listener))));
        let results = converse(namespace(&rig, CLIENT));
        over.store(true, Ordering::Relaxed);
        for listener in &listeners {
            rustix::net::shutdown(listener, Shutdown::Both).unwrap();
        }
        results
    });
    assert_eq!(results.failed, [] as [String; 0], "{}", rig.evidence());
    assert_eq!(results.through.len(), CONNECTIONS);
    let (through, straight) = (most(results.through), most(results.straight));
    println!("{CONNECTIONS} connections: 99.9 % took {through:?} at most, without a Service {straight:?}");
    assert!(through < SLOWEST.max(2 * straight), "{through:?}, {straight:?}\n{}", rig.evidence());
}

fn namespace<'a>(rig: &'a Rig, pod: &str) -> &'a Namespace {
    &rig.lab.host_of(ip(pod)).unwrap().namespace
}

fn set(namespace: &Namespace, sysctl: &str) {
    let output = namespace.command("sysctl").unwrap().args(["-w", sysctl]).output().unwrap();
    assert!(output.status.success(), "{sysctl}: {}", String::from_utf8_lossy(&output.stderr));
}

fn listen(rig: &Rig, pod: &str, port: u16) -> TcpListener {
    set(namespace(rig, pod), "net.ipv4.tcp_max_tw_buckets=0");
    let at = SocketAddr::new(ip(pod), port);
    namespace(rig, pod).run(|| TcpListener::bind(at).unwrap()).unwrap()
}

/// Until the socket is shut down.
fn serve(listener: &TcpListener) {
    while let Ok((mut connection, _)) = listener.accept() {
        // Where the client has gone it tells.
        let _ = connection.write_all(b"!");
    }
}

/// One endpoint after the other leaves and comes back.
fn take_turns(rig: &Rig, over: &AtomicBool) {
    for turn in (0..PODS.len()).cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
        let others: Vec<_> = (1..PODS.len()).map(|step| PODS[(turn + step) % PODS.len()]).collect();
        rig.write("web.yaml", &web(&others));
        thread::sleep(Duration::from_millis(300));
    }
}

/// How long connections took.
#[derive(Default)]
struct Results {
    through: Vec<Duration>,
    straight: Vec<Duration>,
    failed: Vec<String>,
}

impl Results {
    fn extend(mut self, other: Results) -> Results {
        self.through.extend(other.through);
        self.straight.extend(other.straight);
        self.failed.extend(other.failed);
        self
    }

    fn connect(&mut self, to: &str) -> Duration {
        let begun = Instant::now();
        let mut answer = Vec::new();
        let read = TcpStream::connect(address(to)).and_then(|mut stream| stream.read_to_end(&mut answer));
        let took = begun.elapsed();
        // Without TIME_WAIT the server answers a late ACK with a reset: who has the answer was served all the same.
        if answer != b"!" {
            self.failed.push(format!("{to} after {took:?}: {read:?}"));
        }
        took
    }
}

fn converse(client: &Namespace) -> Results {
    let one = || {
        let mut results = Results::default();
        for number in 0..CONNECTIONS / CLIENTS {
            let took = results.connect(WEB);
            results.through.push(took);
            if number % COMPARED == 0 {
                let took = results.connect(&format!("{}:{STRAIGHT}", PODS[number / COMPARED % PODS.len()]));
                results.straight.push(took);
            }
        }
        results
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client.run(one).unwrap())).collect();
        all.into_iter().map(|client| client.join().unwrap()).fold(Results::default(), Results::extend)
    })
}

/// What 999 of 1,000 take at most.
fn most(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 999 / 1000]
}
