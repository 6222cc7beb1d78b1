//! The proxy under test, seen from outside.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ferrovia::lab::Lab;
use ferrovia::lab::proxy::{self, LAB_FLAGS, get};

use crate::data_plane::DataPlane;

const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

pub struct Proxy<'a> {
    lab: &'a Lab,
    process: proxy::Proxy,
}

impl<'a> Proxy<'a> {
    pub fn start(lab: &'a Lab, kubeconfig: &Path, plane: DataPlane) -> Result<Self> {
        let mut command = lab.here().command(env!("CARGO_BIN_EXE_ferrovia"))?;
        command.arg("proxy").args(LAB_FLAGS).args(plane.flags()).arg("--kubeconfig").arg(kubeconfig);
        Ok(Proxy { lab, process: proxy::Proxy::spawn(command)? })
    }

    /// The result, or with a failure what the proxy said last.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("The last words of the proxy:\n{}", self.process.log()))
    }

    pub fn ensure_alive(&mut self) -> Result<()> {
        ensure!(self.process.is_running(), "the proxy ended:\n{}", self.process.log());
        Ok(())
    }

    /// Seconds of CPU, of the process and of all programs that it ran.
    pub fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
        let of_programs = after_name.split_whitespace().skip(13).take(2);
        let ticks: f64 = of_programs.flat_map(str::parse::<f64>).sum();
        Ok(self.own_cpu()? + ticks / 100.0)
    }

    /// `stat` counts whole ticks, which are longer than most of what is measured here.
    fn own_cpu(&self) -> Result<f64> {
        let mut clock: libc::clockid_t = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to what they are given and nothing else.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.process.id() as libc::pid_t, &mut clock) != 0
                || libc::clock_gettime(clock, &mut time) != 0
        };
        ensure!(!failed, "no CPU clock of the proxy");
        Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    }

    /// In MiB: `VmHWM` is the peak, `VmRSS` what it is now.
    pub fn memory(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such figure")?;
        Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<f64>()? / 1024.0)
    }

    /// How long the stages of all syncs of IPv4 have taken so far, in milliseconds, each with its name.
    pub fn stages(&self) -> Result<Vec<(String, f64)>> {
        const PREFIX: &str = "ferrovia_stage_duration_seconds_sum{ip_family=\"IPv4\",stage=\"";
        let (_, page) = get(self.lab, METRICS, "/metrics")?;
        let stage = |line: &str| {
            let (name, seconds) = line.strip_prefix(PREFIX)?.split_once("\"} ")?;
            Some((name.to_owned(), seconds.parse::<f64>().ok()? * 1000.0))
        };
        Ok(page.lines().filter_map(stage).collect())
    }

    /// What plans asked the kernel for so far, in the mode's own unit: netlink messages, lines of a restore.
    pub fn operations(&self) -> Result<f64> {
        let (_, page) = get(self.lab, METRICS, "/metrics")?;
        let counts = page.lines().filter(|line| line.starts_with("ferrovia_plan_operations_total"));
        Ok(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }
}
