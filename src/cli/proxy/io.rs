//! What waits for sockets: the source of objects, the HTTP servers and signals, all in one thread beside the loop's.

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{self, Config, ModeName};
use crate::health::Health;
use crate::http::{self, BindError, HealthChecks, Pages};
use crate::metrics::Metrics;
use crate::model::Family;
use crate::podnet::drive;
use crate::sync::Input;
use crate::sync::sources::{
    Cluster, EventRecorder, Manifests, NodeAnnotations, NodeCondition, Selection, ServiceCidrs, Source,
    SourceStats, cluster,
};

pub struct Io {
    pub config: Config,
    pub metrics: Metrics,
    pub health: Arc<Health>,
    pub health_checks: BTreeMap<Family, watch::Receiver<HealthChecks>>,
    pub inputs: Sender<Input>,
    /// Where Nodes go, if there is a pod network.
    pub pod_inputs: Option<Sender<drive::Input>>,
}

/// What takes notes for the API server.
pub struct Notes {
    pub events: EventRecorder,
    pub condition: NodeCondition,
    pub annotations: NodeAnnotations,
}

/// Starts everything and returns what takes notes for the API server. It ends with the process.
pub fn start(io: Io) -> anyhow::Result<Notes> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let notes = start_source(&io, &runtime)?;
    serve_http(&io, &runtime);
    runtime.spawn(stop_on_signal(io.inputs));
    let run = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name("io".into()).spawn(run).context("cannot start a thread")?;
    Ok(notes)
}

fn start_source(io: &Io, runtime: &Runtime) -> anyhow::Result<Notes> {
    let events = io.inputs.clone();
    let stats = Arc::<SourceStats>::default;
    let selection = Selection::of_proxy(&io.config.node_name);
    match &io.config.source {
        config::Source::Manifests(directory) => {
            let of = |selection| Source::Manifests(Manifests::new(directory.clone(), selection, stats()));
            runtime.spawn(of(selection).run(events));
            if let Some(inputs) = &io.pod_inputs {
                runtime.spawn(of(Selection::Nodes).run(inputs.clone()));
            }
            Ok(Notes {
                events: EventRecorder::disabled(),
                condition: NodeCondition::disabled(),
                annotations: NodeAnnotations::disabled(),
            })
        }
        config::Source::ApiServer { kubeconfig, master } => {
            let address = cluster::Address { kubeconfig: kubeconfig.clone(), master: master.clone() };
            let connection = Arc::new(runtime.block_on(cluster::Connection::new(address))?);
            let (recorder, poster) = EventRecorder::new(Arc::clone(&connection), &io.config.node_name);
            recorder.starting();
            runtime.spawn(poster.run());
            let of = |selection| Cluster::new(Arc::clone(&connection), selection, stats());
            let cluster = of(selection).with_service_cidrs(service_cidrs(io.config.mode));
            runtime.spawn(Source::Cluster(cluster).run(events));
            let mut notes = Notes {
                events: recorder,
                condition: NodeCondition::disabled(),
                annotations: NodeAnnotations::disabled(),
            };
            if let Some(inputs) = &io.pod_inputs {
                runtime.spawn(Source::Cluster(of(Selection::Nodes)).run(inputs.clone()));
                let (conditions, annotations);
                (notes.condition, conditions) =
                    NodeCondition::new(Arc::clone(&connection), &io.config.node_name);
                (notes.annotations, annotations) = NodeAnnotations::new(connection, &io.config.node_name);
                runtime.spawn(conditions.run());
                runtime.spawn(annotations.run());
            }
            Ok(notes)
        }
    }
}

/// As kube-proxy, which asks for them in its nftables mode alone.
fn service_cidrs(mode: ModeName) -> ServiceCidrs {
    match mode {
        ModeName::Nftables => ServiceCidrs::Followed,
        ModeName::Iptables | ModeName::Ipvs | ModeName::Userspace => ServiceCidrs::Ignored,
    }
}

fn serve_http(io: &Io, runtime: &Runtime) {
    let serving = io.config.serving;
    if let Some(address) = serving.healthz {
        let served =
            http::serve_healthz(address, serving.on_bind_failure, Arc::clone(&io.health), io.metrics.clone());
        runtime.spawn(async move { end_process(served.await.err()) });
    }
    if let Some(address) = serving.metrics {
        let pages = Pages {
            metrics: io.metrics.clone(),
            mode: io.config.mode,
            config_z: config::config_z(&io.config.written).into(),
        };
        let served = http::serve_metrics(address, serving.on_bind_failure, pages);
        runtime.spawn(async move { end_process(served.await.err()) });
    }
    for (family, wanted) in &io.health_checks {
        let health = Arc::clone(&io.health);
        let report = |service: &_, error: &BindError| {
            tracing::error!(%service, error = %error, "Cannot serve a health check node port");
        };
        let metrics = io.metrics.clone();
        runtime.spawn(http::serve_health_checks(*family, wanted.clone(), health, metrics, report));
    }
}

/// `--bind-address-hard-fail`: a proxy that nobody can ask whether it works must not run.
fn end_process(error: Option<BindError>) {
    if let Some(error) = error {
        tracing::error!(address = %error.address, error = %error.source, "Cannot listen; ending, as --bind-address-hard-fail asks");
        process::exit(1);
    }
}

async fn stop_on_signal(inputs: Sender<Input>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("Cannot listen for signals");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Nobody listens any more: stopping already.
    let _ = inputs.send(Input::Stop);
}
