//! What is measured, under the names that dashboards know.

mod kube_proxy;
mod own;
mod register;
mod traffic;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, Result, TextEncoder};

pub use kube_proxy::{KubeProxy, Policy};
pub use own::{Own, Stage};
pub use register::PerFamily;
pub use traffic::{MOST, ServiceTraffic};

use register::Register;

/// Every metric of this process. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub kube_proxy: KubeProxy,
    pub own: Own,
    pub traffic: ServiceTraffic,
    last_event: Arc<Mutex<Instant>>,
}

impl Metrics {
    /// `now` counts as the time of the first event.
    ///
    /// # Errors
    /// Only if two metrics had the same name or one an impossible one.
    pub fn new(now: Instant) -> Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let register = Register(&registry);
        let (kube_proxy, own) = (KubeProxy::new(&register)?, Own::new(&register)?);
        let traffic = ServiceTraffic::new(&register)?;
        Ok(Metrics { registry, kube_proxy, own, traffic, last_event: Arc::new(Mutex::new(now)) })
    }

    /// Adds what a mode counts.
    ///
    /// # Errors
    /// If there are metrics of those names already.
    pub fn add(&self, figures: Box<dyn Collector>) -> Result<()> {
        self.registry.register(figures)
    }

    /// The source said something: it is alive (k8s#76338).
    pub fn note_event(&self, now: Instant) {
        *self.last_event.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Everything, in Prometheus' text format.
    pub fn encode(&self, now: Instant) -> Result<String> {
        let last_event = *self.last_event.lock().unwrap_or_else(PoisonError::into_inner);
        self.own.last_event_age.set(now.saturating_duration_since(last_event).as_secs_f64());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests;
