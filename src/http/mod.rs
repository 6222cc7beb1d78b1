//! The HTTP endpoints: health, metrics and health check node ports.
//!
//! Each `serve_*` is a future that never ends by itself; it wants a tokio runtime with time and network, and one thread is
//! enough. None asks for the sync loop: what they say stands in [`Health`](crate::health::Health),
//! [`Metrics`](crate::metrics::Metrics) and a watch channel.

mod answer;
mod health_checks;
mod healthz;
mod listen;
mod metrics;
mod serve;
#[cfg(test)]
mod testing;

pub use health_checks::{HealthChecks, serve_health_checks};
pub use healthz::serve_healthz;
pub use listen::BindError;
pub use metrics::{Pages, serve_metrics};
