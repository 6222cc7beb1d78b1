//! `ferrovia proxy`: the program's main job.

mod io;
mod panics;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use tokio::sync::watch;

use crate::config::{self, Action, Config, Flags, ModeName, Source};
use crate::health::{Health, NodeEligibility};
use crate::http::HealthChecks;
use crate::kernel::conntrack::KernelConntrack;
use crate::kernel::iptables::{self, Door, Flavour, Programs};
use crate::kernel::{links, sysctl};
use crate::metrics::Metrics;
use crate::model::{Family, ServiceTable};
use crate::modes::Mode;
use crate::modes::iptables::Iptables;
use crate::sync::compile::Compiler;
use crate::sync::plane::Plane;
use crate::sync::report::Reporter;
use crate::sync::schedule::Bounds;
use crate::sync::store::Store;
use crate::sync::{Input, Sync};

use super::{assemble, cleanup};

pub fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    panics::end_the_process();
    let config = config::load(flags)?;
    config::logging::init(&config.logging).context("cannot set up logging")?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match &config.action {
        Action::WriteConfig(path) => config::write_config(path, &config.written)?,
        Action::Cleanup => cleanup::run(&cleanup::Arguments {}).map(drop)?,
        Action::InitOnly => set_sysctls(&config),
        Action::Run => serve(&config)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn set_sysctls(config: &Config) {
    let mut wanted = sysctl::plan_conntrack(&config.conntrack, sysctl::count_cpus());
    wanted.push(sysctl::plan_oom_score(config.oom_score_adj));
    for error in sysctl::apply(&mut sysctl::Kernel, &wanted) {
        tracing::warn!(error = &error as &dyn std::error::Error, "Cannot set up this node as asked");
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    set_sysctls(config);
    check_scheduler(config)?;
    let planes = planes(config)?;
    let (inputs, received) = mpsc::channel();
    let metrics = Metrics::new(Instant::now()).context("cannot set up metrics")?;
    let health = Arc::new(Health::new(config.periods.sync));
    watch_addresses(inputs.clone())?;
    let families = planes.iter().map(|(table, _)| table.family());
    let (health_checks, wanted_checks) = families
        .map(|family| (family, watch::channel(HealthChecks::default())))
        .map(|(family, (to, of))| ((family, to), (family, of)))
        .unzip();
    let events = io::start(io::Io {
        config: config.clone(),
        metrics: metrics.clone(),
        health: Arc::clone(&health),
        health_checks: wanted_checks,
        inputs,
    })?;
    let node_unknown = match config.source {
        Source::Manifests(_) => Some(NodeEligibility::Eligible),
        Source::ApiServer { .. } => None,
    };
    let reporter = Reporter { metrics, health, health_checks, events, node_unknown };
    let settings = assemble::compile_settings(config, Iptables::<Programs>::SCHEDULERS.into());
    let store = Store::new(settings.node_name.clone(), SystemTime::now());
    let conntrack = KernelConntrack::open().context("cannot reach the connection tracking table")?;
    Sync::new(store, Compiler::new(settings), planes, Box::new(conntrack), reporter).run(&received);
    tracing::info!("Stopping; what was written stays in force");
    Ok(())
}

/// `--scheduler` must be one that the mode has. A Service that asks for another gets the default and an Event.
fn check_scheduler(config: &Config) -> anyhow::Result<()> {
    match config.scheduler {
        Some(wanted) if !Iptables::<Programs>::SCHEDULERS.contains(&wanted) => bail!(
            "--scheduler={wanted}: the {} mode does not have it; modes that do: {}",
            config.mode.name(),
            wanted.modes()
        ),
        _ => Ok(()),
    }
}

/// One plane for each address family that this machine has. Without any there is nothing to do.
fn planes(config: &Config) -> anyhow::Result<Vec<(ServiceTable, Plane<Iptables<Programs>>)>> {
    let ModeName::Iptables = config.mode else { bail!("this build has no {} mode", config.mode.name()) };
    let flavour = match assemble::flavour(config) {
        Some(flavour) => flavour,
        None => Flavour::detect()?,
    };
    tracing::info!(mode = config.mode.name(), %flavour, node = config.node_name, "Starting");
    let bounds = Bounds { min: config.periods.min_sync, max: config.periods.sync };
    let primary = config.node_ip.map_or(Family::V4, Family::of);
    let mut planes = Vec::new();
    for family in Family::ALL {
        match usable(family, flavour, primary) {
            Ok(programs) => {
                let settings = assemble::iptables_settings(config, Some(&programs));
                let other = Programs::find(family, Some(flavour.other())).ok();
                let mode = Iptables::new(programs, settings).in_place_of(other);
                let plane = Plane::new(mode, bounds, config.periods.audit, Instant::now());
                planes.push((ServiceTable::new(family), plane));
            }
            Err(error) => {
                tracing::warn!(%family, %error, "No Services of this address family");
            }
        }
    }
    if planes.is_empty() {
        bail!("iptables works for neither IPv4 nor IPv6 here");
    }
    Ok(planes)
}

/// The programs of a family, if they are there and the kernel has what they need. The node's own family is not given up
/// as easily: as long as it fails, `/healthz` tells.
fn usable(family: Family, flavour: Flavour, primary: Family) -> Result<Programs, iptables::Error> {
    let mut programs = Programs::find(family, Some(flavour))?;
    programs.stamp()?;
    if family != primary {
        programs.probe()?;
    }
    Ok(programs)
}

/// Sends the addresses of this node's interfaces, now and whenever they change.
fn watch_addresses(inputs: Sender<Input>) -> anyhow::Result<()> {
    let mut watch = links::AddressWatch::open()?;
    inputs.send(Input::Addresses(links::addresses()?))?;
    let follow = move || {
        loop {
            if let Err(error) = watch.wait() {
                tracing::warn!(%error, "Cannot watch interface addresses; looking again in a minute");
                thread::sleep(Duration::from_secs(60));
            }
            match links::addresses() {
                Ok(addresses) => {
                    if inputs.send(Input::Addresses(addresses)).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "Cannot list interface addresses"),
            }
        }
    };
    thread::Builder::new().name("addresses".into()).spawn(follow)?;
    Ok(())
}
