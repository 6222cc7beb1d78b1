//! Health check node ports: whether this node has endpoints of a load-balanced Service with externalTrafficPolicy Local.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::answer::{self, Answer};
use super::listen::{BindError, Families, listen};
use super::serve::{Limits, serve};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::{Family, HealthCheck, NodePortAddresses, ServiceName, ServiceTable};

/// What one address family's health check node ports are to say, and on which addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthChecks {
    pub addresses: Vec<IpAddr>,
    pub services: BTreeMap<ServiceName, HealthCheck>,
}

impl HealthChecks {
    /// They listen where NodePorts do.
    pub fn of(table: &ServiceTable) -> Self {
        let (family, node) = (table.family(), table.node());
        let addresses = match node.node_ports {
            NodePortAddresses::All => vec![family.unspecified()],
            NodePortAddresses::In(_) => {
                let addresses = node.addresses.iter().copied();
                addresses
                    .filter(|address| Family::of(*address) == family && node.has_node_ports(*address))
                    .collect()
            }
        };
        HealthChecks { addresses, services: table.health_checks().clone() }
    }

    fn sockets(&self) -> BTreeSet<Socket> {
        let sockets = self.services.iter().flat_map(|(service, check)| {
            let socket = |address: &IpAddr| Socket {
                service: service.clone(),
                address: SocketAddr::new(*address, check.node_port),
            };
            self.addresses.iter().map(socket)
        });
        sockets.collect()
    }
}

/// One listener that there has to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    service: ServiceName,
    address: SocketAddr,
}

/// How soon a port that could not be had is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the listeners of one family as the channel wants them, until its sender is gone.
///
/// `report` is told once of every port that cannot be listened on; the others work meanwhile.
pub async fn serve_health_checks(
    family: Family,
    mut wanted: watch::Receiver<HealthChecks>,
    health: Arc<Health>,
    metrics: Metrics,
    report: impl Fn(&ServiceName, &BindError) + Send,
) {
    let unbound = metrics.own.health_check_node_ports_unbound.of(family);
    let mut listeners = Listeners::default();
    loop {
        let sockets = wanted.borrow_and_update().sockets();
        listeners.close_others(&sockets).await;
        listeners.open(&sockets, &wanted, &health, &report);
        unbound.set(listeners.refused.len().try_into().unwrap_or(i64::MAX));
        let changed = if listeners.refused.is_empty() {
            wanted.changed().await
        } else {
            tokio::select! {
                changed = wanted.changed() => changed,
                () = sleep(RETRY) => Ok(()),
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Listeners {
    open: BTreeMap<Socket, Task>,
    /// What was reported already.
    refused: BTreeMap<Socket, io::ErrorKind>,
}

impl Listeners {
    /// Waits until they are closed: another Service may have the port already.
    async fn close_others(&mut self, sockets: &BTreeSet<Socket>) {
        self.refused.retain(|socket, _| sockets.contains(socket));
        let others: Vec<Socket> =
            self.open.keys().filter(|socket| !sockets.contains(socket)).cloned().collect();
        for socket in others {
            if let Some(task) = self.open.remove(&socket) {
                task.close().await;
                let (service, address) = (&socket.service, socket.address);
                tracing::info!(%service, %address, "Closed health check node port");
            }
        }
    }

    fn open(
        &mut self,
        sockets: &BTreeSet<Socket>,
        wanted: &watch::Receiver<HealthChecks>,
        health: &Arc<Health>,
        report: &impl Fn(&ServiceName, &BindError),
    ) {
        for socket in sockets {
            if self.open.contains_key(socket) {
                continue;
            }
            match listen(socket.address, Families::One) {
                Ok(listener) => {
                    let (service, address) = (&socket.service, socket.address);
                    tracing::info!(%service, %address, "Opened health check node port");
                    self.refused.remove(socket);
                    let task = start(listener, service.clone(), wanted.clone(), Arc::clone(health));
                    self.open.insert(socket.clone(), task);
                }
                Err(error) => self.note_refusal(socket, &error, report),
            }
        }
    }

    fn note_refusal(
        &mut self,
        socket: &Socket,
        error: &BindError,
        report: &impl Fn(&ServiceName, &BindError),
    ) {
        let kind = error.source.kind();
        if self.refused.insert(socket.clone(), kind) != Some(kind) {
            let (service, address) = (&socket.service, socket.address);
            tracing::warn!(%service, %address, error = %error.source, "Cannot open health check node port");
            report(service, error);
        }
    }
}

fn start(
    listener: TcpListener,
    service: ServiceName,
    wanted: watch::Receiver<HealthChecks>,
    health: Arc<Health>,
) -> Task {
    let answer = move |_: &http::Request<_>| respond(&service, &wanted, &health);
    Task(tokio::spawn(async move {
        serve(listener, Limits::default(), answer).await;
    }))
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Task {
    async fn close(mut self) {
        self.0.abort();
        // It was told to end, so that this says "cancelled".
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn respond(service: &ServiceName, wanted: &watch::Receiver<HealthChecks>, health: &Health) -> Answer {
    let endpoints = wanted.borrow().services.get(service).map_or(0, |check| check.local_endpoints);
    let proxy_healthy = health.is_healthy(Instant::now());
    let is_ok = endpoints > 0 && proxy_healthy && !health.is_node_leaving();
    let mut answer = answer::json(answer::status(is_ok), body(service, endpoints, proxy_healthy));
    answer.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(endpoints));
    answer
}

/// Byte for byte what kube-proxy answers: some load balancers look for parts of it.
fn body(service: &ServiceName, endpoints: usize, proxy_healthy: bool) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\
         \"serviceProxyHealthy\": {proxy_healthy}\n}}",
        quoted(&service.namespace),
        quoted(&service.name),
    )
}

#[cfg(test)]
mod tests;
