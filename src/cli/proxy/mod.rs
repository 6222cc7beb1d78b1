//! `ferrovia proxy`: the program's main job.

mod choice;
mod io;
mod localhost;
mod memory;
mod panics;
mod planes;
mod pods;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::watch;

use crate::config::{self, Action, Config, Flags, ModeName, Source};
use crate::health::{Health, NodeEligibility, PodNetwork};
use crate::http::HealthChecks;
use crate::kernel::conntrack::KernelConntrack;
use crate::kernel::ipvs::KernelIpvs;
use crate::kernel::{links, sysctl};
use crate::metrics::Metrics;
use crate::modes::Mode;
use crate::modes::localhost::Services;
use crate::modes::userspace::{DRAIN_TIMEOUT, Figures};
use crate::podnet::conflist;
use crate::sync::compile::Compiler;
use crate::sync::objects::Reason;
use crate::sync::plane::Plane;
use crate::sync::report::Reporter;
use crate::sync::schedule::Bounds;
use crate::sync::sources::cluster;
use crate::sync::store::Store;
use crate::sync::{Input, Sync};

use super::assemble;
use super::cleanup::{self, CniDirectories, OwnNode};

use choice::{Choice, Facility};
use planes::Planes;
pub use planes::Schedulers;

pub fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    panics::end_the_process();
    memory::give_back_what_is_freed();
    let mut choice = None;
    let config = config::load_with_default(flags, || choice.insert(choice::of_this_machine()).mode)?;
    config::logging::init(&config.logging).context("cannot set up logging")?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(Choice { mode, reason }) = choice {
        tracing::info!(mode = mode.name(), reason, "Chose a mode, as none was asked for");
    }
    match &config.action {
        Action::WriteConfig(path) => config::write_config(path, &config.written)?,
        Action::Cleanup => clean(&config)?,
        Action::InitOnly => prepare(&config)?,
        Action::Run => serve(&config)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a pod network is configured, its Node is told too.
fn clean(config: &Config) -> anyhow::Result<()> {
    let network = config.pod_network.as_ref();
    let cni = CniDirectories {
        configurations: network.map_or(Path::new(conflist::CONFIGURATIONS), |network| &network.cni_conf_dir),
        plugins: network.map_or(Path::new(conflist::PLUGINS), |network| &network.cni_bin_dir),
    };
    let node = match &config.source {
        Source::ApiServer { kubeconfig, master } if config.pod_network.is_some() => {
            let address = cluster::Address { kubeconfig: kubeconfig.clone(), master: master.clone() };
            Some(OwnNode { address, name: config.node_name.clone() })
        }
        _ => None,
    };
    cleanup::clean(cni, node).map(drop)
}

fn set_sysctls(config: &Config) {
    let mut wanted = sysctl::plan_conntrack(&config.conntrack, sysctl::count_cpus());
    wanted.push(sysctl::plan_oom_score(config.oom_score_adj));
    for error in sysctl::apply(&mut sysctl::Kernel, &wanted) {
        tracing::warn!(error = &error as &dyn std::error::Error, "Cannot set up this node as asked");
    }
}

/// What needs more privileges than the rest, for a container that runs before the one that stays.
fn prepare(config: &Config) -> anyhow::Result<()> {
    set_sysctls(config);
    if config.mode == ModeName::Ipvs {
        planes::set_up(&mut KernelIpvs::open()?, config);
    }
    Ok(())
}

fn serve(config: &Config) -> anyhow::Result<()> {
    set_sysctls(config);
    match config.mode {
        ModeName::Iptables => drive(config, planes::iptables(config)?),
        ModeName::Ipvs => drive(config, planes::ipvs(config)?),
        ModeName::Nftables => drive(config, planes::nftables(config)?),
        ModeName::Userspace => match choice::capture(config.userspace.capture) {
            Facility::Nftables => drive(config, planes::userspace(config)?),
            Facility::Iptables => drive(config, planes::userspace_by_iptables(config)?),
        },
    }
}

fn drive<M: Mode>(config: &Config, planes: Planes<M>) -> anyhow::Result<()> {
    let Planes { mut of_families, schedulers, engine } = planes;
    let (inputs, received) = mpsc::channel();
    for (_, mode) in &mut of_families {
        let inputs = inputs.clone();
        // Nobody listens any more: stopping already.
        let ring = move || drop(inputs.send(Input::Drift));
        mode.alert(Box::new(ring)).context("cannot wait for changes of others")?;
    }
    let metrics = Metrics::new(Instant::now()).context("cannot set up metrics")?;
    let families: Vec<_> = of_families.iter().map(|(table, _)| table.family()).collect();
    let loopback = localhost::start(config, families, engine.as_ref())?;
    let services = if engine.is_some() { Services::OfMode } else { Services::Own };
    if let Some(counting) = engine.as_ref().or(loopback.as_deref()) {
        metrics.add(Box::new(Figures::new(Arc::clone(&counting.shared))?))?;
    }
    let health = Arc::new(Health::new(config.periods.sync));
    watch_addresses(inputs.clone())?;
    let bounds = Bounds { min: config.periods.min_sync, max: config.periods.sync };
    let of_families: Vec<_> = localhost::add(of_families, loopback.as_ref(), services)
        .into_iter()
        .map(|(table, mode)| (table, Plane::new(mode, bounds, config.periods.audit, Instant::now())))
        .collect();
    let families = of_families.iter().map(|(table, _)| table.family());
    let (health_checks, wanted_checks) = families
        .map(|family| (family, watch::channel(HealthChecks::default())))
        .map(|(family, (to, of))| ((family, to), (family, of)))
        .unzip();
    let pods = config.pod_network.as_ref().map(|network| pods::prepare(config, network)).transpose()?;
    if pods.is_some() {
        // Before anybody can ask.
        health.set_pod_network(PodNetwork::NotReady("it has not begun to work yet".into()));
    }
    let notes = io::start(io::Io {
        config: config.clone(),
        metrics: metrics.clone(),
        health: Arc::clone(&health),
        health_checks: wanted_checks,
        inputs,
        pod_inputs: pods.as_ref().map(pods::Pods::inputs),
    })?;
    let io::Notes { events, condition, annotations } = notes;
    if let Some(complaint) = schedulers.complaint(config) {
        tracing::error!("{complaint}");
        events.node_problem(Reason::UnsupportedScheduler, complaint);
    }
    let node_unknown = match config.source {
        Source::Manifests(_) => Some(NodeEligibility::Eligible),
        Source::ApiServer { .. } => None,
    };
    if let Some(pods) = pods {
        pods.start(metrics.clone(), Arc::clone(&health), events.clone(), condition, annotations)?;
    }
    let reporter = Reporter { metrics, health, health_checks, events, node_unknown };
    let settings = assemble::compile_settings(config, schedulers);
    let store = Store::new(settings.node_name.clone(), SystemTime::now());
    let conntrack = KernelConntrack::open().context("cannot reach the connection tracking table")?;
    Sync::new(store, Compiler::new(settings), of_families, Box::new(conntrack), reporter).run(&received);
    tracing::info!("Stopping; what was written stays in force");
    match (engine, loopback) {
        (Some(engine), _) => engine.drain(DRAIN_TIMEOUT),
        // Where no other process is there, the next one starts once this one has ended, and the kernel's rules wait for it.
        (None, Some(loopback)) if loopback.is_handed_over() => loopback.drain(DRAIN_TIMEOUT),
        (None, _) => {}
    }
    Ok(())
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
