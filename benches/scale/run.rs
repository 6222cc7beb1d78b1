//! The measurements, in their order.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrovia::lab::{Lab, POD_PORT};

use crate::apiserver::ApiServer;
use crate::cluster::{self, PODS, Size, cluster_ip, slice};
use crate::connections::{Baselines, answer, times_with_reused_ports};
use crate::data_plane::DataPlane;
use crate::figures::{max, median, millis, print, quantile};
use crate::proxy::Proxy;

/// Services of a burst.
const BURST: usize = 500;
const IDLE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(300);
/// Connections from few ports, and how long each of two endpoints has them meanwhile.
const REUSES: usize = 16_000;
const TURN: Duration = Duration::from_millis(300);
/// Between two questions whether traffic follows, so that they take no CPU away from what is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// How the changes of one endpoint are spread.
struct Changes {
    count: usize,
    pause: Duration,
}

impl Changes {
    fn of(plane: DataPlane) -> Self {
        match plane {
            // A second change at once would wait for the pause that this one's cost demands.
            DataPlane::IptablesLegacy | DataPlane::IptablesNft => {
                Changes { count: 15, pause: Duration::from_millis(1500) }
            }
            _ => Changes { count: 100, pause: Duration::from_millis(100) },
        }
    }
}

/// What is measured.
struct Subject<'a> {
    lab: &'a Lab,
    server: &'a ApiServer,
    size: Size,
    plane: DataPlane,
}

pub fn run(size: Size, plane: DataPlane) -> Result<()> {
    let baselines = Baselines::new(plane.flavour())?;
    let lab = Lab::new()?;
    let server = lab.here().run(ApiServer::start)?;
    cluster::fill(&server, size);
    let subject = Subject { lab: &lab, server: &server, size, plane };

    let started = Instant::now();
    let mut proxy = subject.start_proxy()?;
    proxy.explain(subject.wait_until_reachable(&proxy, started))?;
    let (idle, pod) = proxy.explain(subject.measure_work(&proxy))?;
    baselines.compare(&lab, size.last_probe(), pod)?;
    if plane == DataPlane::Ipvs {
        proxy.explain(subject.measure_reused_ports(pod))?;
    }
    print("CPU when nothing happens", idle * 100.0, "% of one");
    print("peak resident memory", proxy.memory("VmHWM")?, "MiB");
    print("resident memory after all that", proxy.memory("VmRSS")?, "MiB");
    proxy.ensure_alive()?;
    drop(proxy);
    subject.measure_restart()
}

impl<'a> Subject<'a> {
    fn start_proxy(&self) -> Result<Proxy<'a>> {
        Proxy::start(self.lab, &self.server.kubeconfig(), self.plane)
    }

    /// The rest of the time is for starting and for reading everything from the API server, which shares the machine.
    fn wait_until_reachable(&self, proxy: &Proxy<'_>, started: Instant) -> Result<()> {
        for index in self.size.probes() {
            self.wait(index, |pod| pod.is_some())?;
        }
        print("start to all Services reachable", millis(started.elapsed()), "ms");
        print("CPU for it", proxy.cpu()? * 1000.0, "ms");
        print("peak resident memory by then", proxy.memory("VmHWM")?, "MiB");
        Ok(())
    }

    /// Waits until the pod that answers for a Service will do.
    fn wait(&self, service: u32, will_do: impl Fn(Option<std::net::IpAddr>) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !will_do(answer(self.lab, cluster_ip(service))?) {
            ensure!(Instant::now() < deadline, "Service {service} is not as it should be after {PATIENCE:?}");
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Until traffic to a Service ends at a pod.
    fn follow(&self, service: u32, pod: Ipv4Addr) -> Result<()> {
        self.wait(service, |found| found == Some(pod.into()))
    }

    /// Returns the CPUs that idling takes, and where the last Service leads to.
    fn measure_work(&self, proxy: &Proxy<'_>) -> Result<(f64, Ipv4Addr)> {
        // What follows the first sync, such as looking for an earlier proxy's rules, is not part of what is measured.
        thread::sleep(Duration::from_secs(5));
        for (stage, took) in proxy.stages()? {
            print(&format!("of the start to {stage}"), took, "ms");
        }
        let cpu = proxy.cpu()?;
        thread::sleep(IDLE);
        let idle = (proxy.cpu()? - cpu) / IDLE.as_secs_f64();
        let pod = self.measure_changes(proxy, idle)?;
        self.measure_burst(proxy, idle)?;
        Ok((idle, pod))
    }

    /// Moves the endpoint of the last probe to and fro, and returns where it ends.
    fn measure_changes(&self, proxy: &Proxy<'_>, idle: f64) -> Result<Ipv4Addr> {
        let changes = Changes::of(self.plane);
        let last = self.size.last_probe();
        let mut times = Vec::new();
        let operations = proxy.operations()?;
        let cost = Cost::start(proxy, idle)?;
        for change in 1..=changes.count {
            let written = Instant::now();
            self.server.apply(slice(last, &[PODS[change % 2]]));
            self.follow(last, PODS[change % 2])?;
            times.push(millis(written.elapsed()));
            thread::sleep(changes.pause);
        }
        let each = cost.millis(proxy)? / changes.count as f64;
        let operations = (proxy.operations()? - operations) / changes.count as f64;
        let (median, p99) = (median(&mut times), quantile(&mut times, 0.99));
        let what = "endpoint changed to traffic follows";
        println!("  {what:36} {median:8.1} ms median, {p99:.1} p99, {:.1} max", max(&times));
        print("CPU for it, more than for idling", each, "ms");
        print("operations for it", operations, "");
        Ok(PODS[changes.count % 2])
    }

    /// Gives many Services another endpoint at once.
    fn measure_burst(&self, proxy: &Proxy<'_>, idle: f64) -> Result<()> {
        let burst: Vec<u32> = self.size.others().take(BURST).collect();
        let cost = Cost::start(proxy, idle)?;
        let written = Instant::now();
        burst.iter().for_each(|index| self.server.apply(slice(*index, &PODS[..1])));
        let applied = millis(written.elapsed());
        burst.iter().rev().try_for_each(|index| self.follow(*index, PODS[0]))?;
        let what = format!("{} Services changed at once", burst.len());
        println!("  {what:36} {:8.1} ms, {applied:.1} of it to write them", millis(written.elapsed()));
        print("CPU for it, more than for idling", cost.millis(proxy)?, "ms");
        Ok(())
    }

    /// What a new connection pays for a port that leads to an endpoint that has left, and so does one past the Service.
    fn measure_reused_ports(&self, pod: Ipv4Addr) -> Result<()> {
        let last = self.size.last_probe();
        let through = SocketAddr::from((cluster_ip(last), 80));
        let (over, past) = (AtomicBool::new(false), SocketAddr::from((pod, POD_PORT)));
        let mut times = thread::scope(|scope| -> Result<_> {
            scope.spawn(|| {
                for turn in (0..PODS.len()).cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                    self.server.apply(slice(last, &[PODS[turn]]));
                    thread::sleep(TURN);
                }
            });
            let times = times_with_reused_ports(self.lab, through, REUSES);
            over.store(true, Ordering::Relaxed);
            Ok([times?, times_with_reused_ports(self.lab, past, REUSES)?])
        })?;
        for (what, times) in
            ["new connection from a reused port", "and past the Service"].iter().zip(&mut times)
        {
            let (median, p999) = (median(times), quantile(times, 0.999));
            println!("  {what:36} {median:8.1} ms median, {p999:.1} p99.9, {:.1} max", max(times));
        }
        self.server.apply(slice(last, &[pod]));
        self.follow(last, pod)
    }

    /// From the start of another process on what the first one left until a change that was made meanwhile is in force.
    fn measure_restart(&self) -> Result<()> {
        let last = self.size.last_probe();
        let before = answer(self.lab, cluster_ip(last))?;
        let pod = PODS.into_iter().find(|pod| Some((*pod).into()) != before).unwrap_or(PODS[0]);
        self.server.apply(slice(last, &[pod]));
        let started = Instant::now();
        let mut proxy = self.start_proxy()?;
        proxy.explain(self.follow(last, pod))?;
        print("restart to a change in force", millis(started.elapsed()), "ms");
        print("peak resident memory after it", proxy.memory("VmHWM")?, "MiB");
        proxy.ensure_alive()
    }
}

/// CPU that is spent from a moment on.
struct Cost {
    since: Instant,
    cpu: f64,
    idle: f64,
}

impl Cost {
    fn start(proxy: &Proxy<'_>, idle: f64) -> Result<Self> {
        Ok(Cost { since: Instant::now(), cpu: proxy.cpu()?, idle })
    }

    /// Without what would have been spent anyway.
    fn millis(&self, proxy: &Proxy<'_>) -> Result<f64> {
        let idle = self.idle * self.since.elapsed().as_secs_f64();
        Ok((proxy.cpu()? - self.cpu - idle) * 1000.0)
    }
}
