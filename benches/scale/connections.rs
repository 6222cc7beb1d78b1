//! What a new connection pays, and to whom it leads.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, str};

use anyhow::{Context, Result, ensure};
use ferrovia::lab::{Lab, POD_PORT};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cluster::cluster_ip;
use crate::figures::median;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);
/// Connections are counted in short turns, so that whatever else the machine does meets all kinds alike.
const CONNECTIONS: usize = 25;
const ROUNDS: usize = 160;

/// Which pod answers on port 80 of an address, if one does at once.
pub fn answer(lab: &Lab, address: Ipv4Addr) -> Result<Option<IpAddr>> {
    let ask = || -> Option<IpAddr> {
        let to = SocketAddr::from((address, 80));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(20)).ok()?;
        leave_no_trace(&stream).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
        let mut text = [0; 128];
        let length = stream.read(&mut text).ok()?;
        let server = str::from_utf8(&text[..length]).ok()?.split_whitespace().next()?;
        server.parse::<SocketAddr>().ok().map(|server| server.ip())
    };
    let host = lab.host_of(CLIENT.into()).context("no client")?;
    Ok(host.namespace.run(ask)?)
}

/// From few ports, each of which is used again while the kernel still remembers what it was used for last.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_199;
const CLIENTS: usize = 8;

/// How long so many new connections take from the first SYN to the server's answer, in milliseconds, from 200 ports.
pub fn times_with_reused_ports(lab: &Lab, to: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let client = &lab.host_of(CLIENT.into()).context("no client")?.namespace;
    let range = format!("{} {}", PORTS.start(), PORTS.end());
    let before = client.run(|| -> io::Result<String> {
        let before = fs::read_to_string(PORT_RANGE)?;
        fs::write(PORT_RANGE, range).map(|()| before)
    })??;
    let one = || client.run(|| (0..count / CLIENTS).map(|_| connect_and_read(to)).collect());
    let times = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        let mut all = Vec::new();
        for client in clients {
            let times: io::Result<Vec<f64>> = client.join().expect("it does not panic")?;
            all.extend(times.context("a connection from a port that was used before")?);
        }
        Ok(all)
    });
    client.run(|| fs::write(PORT_RANGE, before))??;
    times
}

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

fn connect_and_read(to: SocketAddr) -> io::Result<f64> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(to)?;
    leave_no_trace(&stream)?;
    let length = stream.read(&mut [0; 128])?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

/// Labs without Services to compare with.
pub struct Baselines {
    empty: Lab,
    /// A rule that matches nothing and makes the kernel track connections, as any rule that translates does.
    tracked: Lab,
}

impl Baselines {
    pub fn new(flavour: &str) -> Result<Self> {
        let (empty, tracked) = (Lab::new()?, Lab::new()?);
        iptables(&empty, flavour, &["-t", "nat", "-S"])?;
        iptables(&tracked, flavour, &["-t", "nat", "-S"])?;
        iptables(&tracked, flavour, &["-A", "INPUT", "-i", "none", "-m", "conntrack", "--ctstate", "NEW"])?;
        Ok(Baselines { empty, tracked })
    }

    /// New connections through a Service and past all of them to its pod, each against the same with an empty nat table,
    /// in turns: without connection tracking, which nobody can do without who translates addresses, and with it.
    pub fn compare(&self, lab: &Lab, service: u32, pod: Ipv4Addr) -> Result<()> {
        let _pinned = OneCpu::pin()?;
        let (service, pod) = (SocketAddr::from((cluster_ip(service), 80)), SocketAddr::from((pod, POD_PORT)));
        let mut times: [Vec<f64>; 4] = Default::default();
        let turns = [(&self.empty, pod), (&self.tracked, pod), (lab, service), (lab, pod)];
        for _ in 0..ROUNDS {
            for (times, (lab, to)) in times.iter_mut().zip(turns) {
                times.extend(connect_times(lab, to)?);
            }
        }
        let [empty, tracked, through, past] = times.map(|mut times| median(&mut times));
        println!("  new connection, an empty nat table   {empty:8.1} us median; with tracking {tracked:.1}");
        for (what, time) in
            [("through the last Service", through), ("to an address that is no Service", past)]
        {
            println!("  {what:36} {time:8.1} us, {:.2} x; {:.2} x", time / empty, time / tracked);
        }
        println!("  {:36} {:8.2} x", "through it, against past it to its pod", through / past);
        Ok(())
    }
}

/// Looking at a table creates it.
fn iptables(lab: &Lab, flavour: &str, arguments: &[&str]) -> Result<()> {
    let mut command = lab.here().command(format!("iptables-{flavour}"))?;
    let status = command.args(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "iptables-{flavour} {arguments:?}: {status}");
    Ok(())
}

/// Client, server and the kernel's work for both on one CPU, as long as this lives: whether a packet wakes a sleeping one
/// costs more than any rule.
struct OneCpu {
    before: CpuSet,
}

impl OneCpu {
    fn pin() -> Result<Self> {
        let mut first = CpuSet::new();
        first.set(0);
        let before = sched_getaffinity(None)?;
        allow(&first)?;
        Ok(OneCpu { before })
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        if let Err(error) = allow(&self.before) {
            println!("  from here on with one CPU: {error:#}");
        }
    }
}

fn allow(cpus: &CpuSet) -> Result<()> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.file_name().to_string_lossy().parse()?;
        match sched_setaffinity(rustix::process::Pid::from_raw(task), cpus) {
            // It has ended since.
            Err(rustix::io::Errno::SRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

fn connect_times(lab: &Lab, to: SocketAddr) -> Result<Vec<f64>> {
    let connect = || -> io::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let started = Instant::now();
            let stream = TcpStream::connect(to)?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
            drop(stream);
        }
        Ok(times)
    };
    let host = lab.host_of(CLIENT.into()).context("no client")?;
    host.namespace.run(connect)?.with_context(|| format!("connect to {to}"))
}

/// Closes with a reset: with thousands of ports in TIME_WAIT, finding a free one takes longer than connecting.
fn leave_no_trace(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}
