//! The userspace mode beside HAProxy (`mode tcp`, splice) and nginx (`stream`), as many threads each, in one lab: a client
//! outside, the proxies on the node, a server in a pod. Rounds take turns, and medians are shown.
//!
//! `cargo bench --bench userspace [-- bulk|connections|memory]`; needs root and the packages haproxy, nginx-light and
//! libnginx-mod-stream.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::lab::Lab;
use ferrovia::lab::proxy::{Proxy, write_manifest};
use rustix::net::sockopt;

const ROUNDS: usize = 5;
const BULK: Duration = Duration::from_secs(2);
/// Many short rounds: what the machine has for all of them changes within seconds.
const SHORT: Duration = Duration::from_millis(500);
const SHORT_ROUNDS: usize = 24;
const CLIENTS: usize = 16;
const IDLE: usize = 4000;

/// Sends for ever, repeats one byte, or says nothing.
const SERVERS: [(&str, u16); 3] = [("bulk", 8081), ("echo", 8082), ("idle", 8083)];
const POD: &str = "10.244.1.5";

struct Contender {
    name: &'static str,
    /// Where each of the servers is reached.
    first_port: u16,
    process: u32,
}

impl Contender {
    fn at(&self, server: usize) -> SocketAddr {
        format!("172.18.0.2:{}", self.first_port + server as u16).parse().unwrap()
    }

    /// Of the process and its children, in KiB: what is nobody else's.
    fn memory(&self) -> u64 {
        self.processes().into_iter().map(anonymous).sum()
    }

    /// What the process and its children have used of processors.
    fn cpu(&self) -> Duration {
        self.processes().into_iter().map(cpu).sum()
    }

    fn processes(&self) -> Vec<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process));
        let children = children.unwrap_or_default();
        children.split_whitespace().filter_map(|id| id.parse().ok()).chain([self.process]).collect()
    }
}

/// proc_pid_stat(5): fields 14 and 15, in hundredths of a second.
fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    Duration::from_millis(after_name.take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

fn anonymous(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

/// Ends with the benchmark.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let lab = Arc::new(Lab::new().expect("this benchmark needs root"));
    start_servers(&lab);
    let directory = tempfile::tempdir().unwrap();
    let (proxy, ferrovia) = start_ferrovia(&lab);
    let (haproxy, nginx) = (start_haproxy(&lab, directory.path()), start_nginx(&lab, directory.path()));
    let contenders = [
        Contender { name: "ferrovia", first_port: 30081, process: ferrovia },
        Contender { name: "haproxy", first_port: 9181, process: haproxy.0.id() },
        Contender { name: "haproxy-smart", first_port: 9381, process: haproxy.0.id() },
        Contender { name: "nginx", first_port: 9281, process: nginx.0.id() },
    ];
    wait_for(&lab, &contenders);
    println!("threads each: {}, medians", threads());
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if is_wanted("bulk") {
        compare_bulk(&lab, &contenders);
    }
    if is_wanted("connections") {
        compare_connections(&lab, &contenders);
    }
    if is_wanted("memory") {
        // What a process has had for connections is there already for those of its other listener.
        let [ferrovia, haproxy, _, nginx] = contenders;
        let each = [ferrovia, haproxy, nginx];
        let memory: Vec<Vec<f64>> = each.iter().map(|contender| vec![idle(&lab, contender)]).collect();
        report("memory per idle connection, bytes", &each, &memory);
    }
    drop((proxy, haproxy, nginx));
}

fn compare_bulk(lab: &Lab, contenders: &[Contender]) {
    for connections in [1, 64] {
        let rates = rounds(ROUNDS, contenders, |contender| bulk(lab, contender.at(0), connections));
        report(&format!("bulk, {connections} connections, MiB/s"), contenders, &rates);
    }
}

fn compare_connections(lab: &Lab, contenders: &[Contender]) {
    let results = rounds(SHORT_ROUNDS, contenders, |contender| connect(lab, contender));
    let column = |of: fn(&Short) -> f64| -> Vec<Vec<f64>> {
        results.iter().map(|results| results.iter().map(of).collect()).collect()
    };
    report("connections/s", contenders, &column(|short| short.rate));
    report("connect + 1 byte, p99, us", contenders, &column(|short| short.tail));
    report("CPU of the process each, us", contenders, &column(|short| short.cpu));
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn rounds<T>(count: usize, contenders: &[Contender], measure: impl Fn(&Contender) -> T) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..count {
        for (results, contender) in all.iter_mut().zip(contenders) {
            results.push(measure(contender));
        }
    }
    all
}

/// Medians, and for all but the first those of its ratios to the first, round by round.
fn report(what: &str, contenders: &[Contender], results: &[Vec<f64>]) {
    print!("{what:36}");
    for (number, (contender, of_contender)) in contenders.iter().zip(results).enumerate() {
        print!("  {} {:.0}", contender.name, median(of_contender.iter().copied()));
        if number > 0 {
            print!(" ({:.2})", median(of_contender.iter().zip(&results[0]).map(|(own, first)| own / first)));
        }
    }
    println!();
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn start_servers(lab: &Lab) {
    let pod = lab.host_of(POD.parse().unwrap()).unwrap();
    for (name, port) in SERVERS {
        let bind = || TcpListener::bind((POD, port)).unwrap();
        let listener = Arc::new(pod.namespace.run(bind).unwrap());
        for _ in 0..2 {
            let listener = Arc::clone(&listener);
            thread::spawn(move || serve(name, &listener));
        }
    }
}

fn serve(name: &str, listener: &TcpListener) {
    let mut held = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        match name {
            "bulk" => drop(thread::spawn(move || {
                let block = vec![0; 1 << 18];
                while stream.write_all(&block).is_ok() {}
            })),
            "echo" => {
                let mut byte = [0];
                let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
            }
            _ => held.push(stream),
        }
    }
}

fn start_ferrovia(lab: &Lab) -> (Proxy, u32) {
    let manifest: String = SERVERS.iter().map(|(name, port)| service(name, *port)).collect();
    write_manifest(lab, "node.yaml", include_str!("../manifests/examples/node.yaml")).unwrap();
    write_manifest(lab, "services.yaml", &manifest).unwrap();
    let flags = ["--proxy-mode=userspace", "--iptables-localhost-nodeports=false"];
    let program = Path::new(env!("CARGO_BIN_EXE_ferrovia"));
    let mut proxy = Proxy::start(lab, program, flags).unwrap();
    proxy.wait_until_healthy(lab, Duration::from_secs(30)).unwrap();
    let id = proxy.id();
    (proxy, id)
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\nspec: {{type: NodePort, \
         clusterIP: 10.96.0.{}, ports: [{{port: 80, nodePort: {}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata:\n  namespace: default\n  name: {name}-1\n  labels: {{kubernetes.io/service-name: \
         {name}}}\naddressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [{POD}], nodeName: here}}]\n",
        port - 8000,
        port + 22_000,
    )
}

fn start(lab: &Lab, program: &str, arguments: &[&str]) -> Running {
    let mut command: Command = lab.here().command(program).unwrap();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap_or_else(|error| panic!("this benchmark needs {program}: {error}")))
}

fn start_haproxy(lab: &Lab, directory: &Path) -> Running {
    let mut text = format!(
        "global\n  nbthread {}\n  maxconn 5000\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n",
        threads()
    );
    for (name, port) in SERVERS {
        let server = format!("server pod {POD}:{port}");
        text += &format!("listen {name}\n  bind 172.18.0.2:{}\n  {server}\n", port + 1100);
        // Spares an acknowledgement, and has clients wait that write twice before they read (HAProxy's manual).
        let smart = "option tcp-smart-accept";
        text += &format!("listen {name}-smart\n  {smart}\n  bind 172.18.0.2:{}\n  {server}\n", port + 1300);
    }
    let file = directory.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    start(lab, "haproxy", &["-db", "-f", file.to_str().unwrap()])
}

fn start_nginx(lab: &Lab, directory: &Path) -> Running {
    let mut servers = String::new();
    for (_, port) in SERVERS {
        servers +=
            &format!("server {{ listen 172.18.0.2:{} reuseport; proxy_pass {POD}:{port}; }}\n", port + 1200);
    }
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes {};\npid {}/pid;\n\
         error_log /dev/null;\nevents {{ worker_connections 16000; }}\nstream {{ proxy_timeout 1h; tcp_nodelay on;\n{servers}}}\n",
        threads(),
        directory.display()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).unwrap();
    start(lab, "nginx", &["-c", file.to_str().unwrap()])
}

fn wait_for(lab: &Lab, contenders: &[Contender]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for contender in contenders {
        while open(lab, contender.at(1)).and_then(|mut stream| exchange(&mut stream)).is_none() {
            assert!(Instant::now() < deadline, "{} does not answer", contender.name);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn open(lab: &Lab, to: SocketAddr) -> Option<TcpStream> {
    let outside = lab.host_of("172.18.0.100".parse().unwrap()).unwrap();
    outside.namespace.run(|| TcpStream::connect(to)).unwrap().ok()
}

fn exchange(stream: &mut TcpStream) -> Option<()> {
    let mut byte = [1];
    stream.write_all(&byte).ok()?;
    stream.read_exact(&mut byte).ok()
}

/// MiB each second.
fn bulk(lab: &Lab, to: SocketAddr, connections: usize) -> f64 {
    let (total, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let streams: Vec<TcpStream> = (0..connections).map(|_| open(lab, to).unwrap()).collect();
    let started = Instant::now();
    thread::scope(|scope| {
        for mut stream in streams {
            let (total, stop) = (&total, &stop);
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 18];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = stream.read(&mut buffer) else { return };
                    total.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(BULK);
        stop.store(true, Ordering::Relaxed);
    });
    total.into_inner() as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 20)
}

/// Connections that are opened one after the other, with a byte there and back.
struct Short {
    /// Each second.
    rate: f64,
    /// The 99th percentile of their times, in microseconds.
    tail: f64,
    /// That the proxy used for each, in microseconds.
    cpu: f64,
}

fn connect(lab: &Lab, contender: &Contender) -> Short {
    let outside = &lab.host_of("172.18.0.100".parse().unwrap()).unwrap().namespace;
    let (to, used) = (contender.at(1), contender.cpu());
    let started = Instant::now();
    let client = || {
        let mut times = Vec::new();
        while started.elapsed() < SHORT {
            let begun = Instant::now();
            let Ok(mut stream) = TcpStream::connect(to) else { continue };
            if exchange(&mut stream).is_some() {
                times.push(begun.elapsed().as_micros() as f64);
            }
            // Nobody remembers it in TIME_WAIT.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        times
    };
    let mut times: Vec<f64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| outside.run(client).unwrap())).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let cpu = (contender.cpu() - used).as_micros() as f64 / times.len() as f64;
    times.sort_by(f64::total_cmp);
    Short { rate, tail: times.get(times.len() * 99 / 100).copied().unwrap_or_default(), cpu }
}

/// Bytes of process memory for each of many connections that say nothing.
fn idle(lab: &Lab, contender: &Contender) -> f64 {
    // So that what is kept for later is there already.
    drop((0..64).map(|_| open(lab, contender.at(2)).unwrap()).collect::<Vec<_>>());
    thread::sleep(Duration::from_secs(1));
    let before = contender.memory();
    let streams: Vec<TcpStream> = (0..IDLE).map(|_| open(lab, contender.at(2)).unwrap()).collect();
    thread::sleep(Duration::from_secs(2));
    let used = contender.memory().saturating_sub(before) as f64 * 1024.0;
    used / streams.len() as f64
}
