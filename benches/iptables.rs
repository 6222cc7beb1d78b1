//! The iptables mode at size, on the real kernel, in a network namespace of its own: `cargo bench --bench iptables`.
//!
//! Arguments: number of Services (10,000), endpoints of each (10), and the flavours (`legacy nft`). Needs root.

use std::env;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrovia::kernel::iptables::{Flavour, Programs};
use ferrovia::model::{
    Endpoint, Family, Frontend, LocalTraffic, Locality, NodePolicy, Protocol, Scheduler, ServicePort,
    ServicePortName, ServiceTable, TrafficPolicy, Verdict,
};
use ferrovia::modes::Mode;
use ferrovia::modes::iptables::{Iptables, Settings};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |at: usize, or: u32| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (services, endpoints) = (number(0, 10_000), number(1, 10));
    // SAFETY: no other thread exists yet, so nobody sees the change.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    for flavour in [Flavour::Legacy, Flavour::Nft] {
        if arguments.len() < 3 || arguments.contains(&flavour.to_string()) {
            run(flavour, services, endpoints)?;
        }
    }
    Ok(())
}

fn run(flavour: Flavour, services: u32, endpoints: u32) -> anyhow::Result<()> {
    println!("{flavour}: {services} Services with {endpoints} endpoints each");
    let door = Programs::find(Family::V4, Some(flavour))?;
    let mut mode = Iptables::new(door, Settings::default());
    let mut table = ServiceTable::new(Family::V4);
    table.set_node(NodePolicy {
        local_traffic: LocalTraffic::Sources(vec!["10.244.0.0/14".parse()?]),
        ..NodePolicy::default()
    });
    (0..services).for_each(|index| table.set(service(index, endpoints)));
    println!("  the table itself: {:.1} MiB", peak_memory());
    timed("observe nothing", || mode.observe())?;
    turn("everything", &mut mode, &mut table)?;
    for index in [1, services / 2, services - 1] {
        table.set(service(index, endpoints - 1));
        turn("one endpoint less", &mut mode, &mut table)?;
    }
    table.set(service(services, endpoints));
    turn("one Service more", &mut mode, &mut table)?;
    table.remove(&name(services));
    turn("one Service less", &mut mode, &mut table)?;
    timed("look for drift", || mode.drift())?;
    timed("look for drift again", || mode.drift())?;
    timed("observe", || mode.observe())?;
    turn("nothing to do", &mut mode, &mut table)?;
    timed("cleanup", || mode.cleanup())?;
    Ok(())
}

fn turn(what: &str, mode: &mut Iptables<Programs>, table: &mut ServiceTable) -> anyhow::Result<()> {
    let plan = timed(&format!("plan {what}"), || Ok::<_, anyhow::Error>(mode.plan(table, Instant::now())))?;
    timed(&format!("apply {what}"), || mode.apply(plan))?;
    table.settle();
    Ok(())
}

fn timed<T, E>(what: &str, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let (start, children) = (Instant::now(), children());
    let result = act();
    println!(
        "  {what:28} {:8.1} ms, children {:8.1} ms of CPU, {:5.1} MiB at most so far",
        milliseconds(start.elapsed()),
        milliseconds(self::children() - children),
        peak_memory()
    );
    result
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// CPU time of ended children: `cutime` and `cstime` of proc_pid_stat(5), in ticks of 10 ms.
fn children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// VmHWM of proc_pid_status(5), in MiB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn name(index: u32) -> ServicePortName {
    ServicePortName {
        namespace: format!("namespace-{}", index % 50).into(),
        service: format!("service-{index}").into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    }
}

fn service(index: u32, endpoints: u32) -> ServicePort {
    let cluster = (0..endpoints).map(|at| Endpoint {
        address: IpAddr::from((0x0af4_0000 + index * 16 + at).to_be_bytes()),
        port: 8080,
        locality: if at == 0 && index.is_multiple_of(100) { Locality::Local } else { Locality::Remote },
        weight: 1,
    });
    ServicePort {
        name: name(index),
        port: 80,
        frontends: [Frontend::ClusterIp(IpAddr::from((0x0a60_0000 + index * 6).to_be_bytes()))].into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(TrafficPolicy::Cluster),
        external: Verdict::Forward(TrafficPolicy::Cluster),
        cluster: cluster.collect(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}
