//! The pod network, beside the proxy in a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::cli::assemble;
use crate::config::{self, Config};
use crate::health::Health;
use crate::kernel::directories::DirectoryWatch;
use crate::kernel::iptables::Flavour;
use crate::kernel::routes::{KernelRoutes, Notice, RouteWatch};
use crate::metrics::Metrics;
use crate::model::Family;
use crate::podnet::HostGw;
use crate::podnet::conflist::{self, Places};
use crate::podnet::drive::{Driver, Input, Settings};
use crate::podnet::firewall::Firewall;
use crate::podnet::report::Reporter;
use crate::sync::sources::{EventRecorder, NodeAnnotations, NodeCondition};

/// A pod network that has not begun to work.
pub struct Pods {
    node_name: Arc<str>,
    routes: KernelRoutes,
    watch: RouteWatch,
    firewalls: Vec<Firewall>,
    settings: Settings,
    inputs: Sender<Input>,
    received: Receiver<Input>,
}

/// Opens all doors, so that what is missing is told before anything is written.
pub fn prepare(config: &Config, network: &config::PodNetwork) -> anyhow::Result<Pods> {
    let routes = KernelRoutes::open()?;
    // Watched before it is read, so that no change falls in between.
    let watch = routes.watch()?;
    let firewalls = firewalls(assemble::flavour(config))?;
    let non_masquerade = network.non_masquerade.iter().copied().chain(cluster_networks(config)).collect();
    let settings = Settings { non_masquerade, places: places(network) };
    let (inputs, received) = mpsc::channel();
    let node_name = Arc::from(config.node_name.as_str());
    Ok(Pods { node_name, routes, watch, firewalls, settings, inputs, received })
}

/// What the operator says all pods' addresses are in: those of a node that is not known yet too.
fn cluster_networks(config: &Config) -> Vec<ipnet::IpNet> {
    match &config.detect_local {
        config::DetectLocal::ClusterCidr(networks) => networks.clone(),
        _ => Vec::new(),
    }
}

/// A kernel may lack one of the families; then no pods have it.
fn firewalls(flavour: Option<Flavour>) -> anyhow::Result<Vec<Firewall>> {
    let mut firewalls = Vec::new();
    for family in Family::ALL {
        match Firewall::open(family, flavour) {
            Ok(firewall) => {
                tracing::info!(%family, facility = firewall.facility(), "Rules for packets of pods");
                firewalls.push(firewall);
            }
            Err(error) if family == Family::V4 => {
                return Err(anyhow::Error::new(error).context("cannot set up rules for packets of pods"));
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(%family, error, "No rules for packets of pods in this address family");
            }
        }
    }
    Ok(firewalls)
}

fn places(network: &config::PodNetwork) -> Places {
    Places {
        configurations: network.cni_conf_dir.clone(),
        plugins: network.cni_bin_dir.clone(),
        plugin: network.cni_plugin.clone().or_else(conflist::beside_this_program),
        leases: network.cni_data_dir.clone(),
        state: PathBuf::from(conflist::STATE),
    }
}

impl Pods {
    pub fn inputs(&self) -> Sender<Input> {
        self.inputs.clone()
    }

    pub fn start(
        self,
        metrics: Metrics,
        health: Arc<Health>,
        events: EventRecorder,
        condition: NodeCondition,
        annotations: NodeAnnotations,
    ) -> anyhow::Result<()> {
        let Pods { node_name, routes, watch, mut firewalls, settings, inputs, received } = self;
        let reporter = Reporter::new(Arc::clone(&node_name), metrics, health, events, condition, annotations);
        for firewall in &mut firewalls {
            let inputs = inputs.clone();
            // Nobody listens any more: stopping already.
            let ring = move || drop(inputs.send(Input::Rules));
            firewall.alert(Box::new(ring)).context("cannot wait for changes of others")?;
        }
        let files = watch_files(inputs.clone());
        let mut driver = Driver::new(HostGw::new(node_name, routes), firewalls, files, settings, reporter);
        spawn("routes", move || follow(watch, &inputs))?;
        spawn("pods", move || driver.run(&received))
    }
}

/// Without it they are looked at now and then.
fn watch_files(inputs: Sender<Input>) -> Option<DirectoryWatch> {
    let watch = DirectoryWatch::open(Box::new(move || drop(inputs.send(Input::Files))));
    watch
        .inspect_err(|error| tracing::warn!(%error, "Nobody tells of changes to the network configuration"))
        .ok()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop).context("cannot start a thread")
}

/// Sends what others do to routes, until nobody listens any more.
fn follow(mut watch: RouteWatch, inputs: &Sender<Input>) {
    loop {
        let notices = watch.wait().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Cannot watch routes; reading them again in a second"
            );
            thread::sleep(Duration::from_secs(1));
            vec![Notice::Lost]
        });
        if inputs.send(Input::Kernel(notices)).is_err() {
            return;
        }
    }
}
