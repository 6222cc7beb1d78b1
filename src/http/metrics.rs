//! Metrics and the other pages for operators. kube-proxy serves these on loopback, without authentication.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::answer::{self, Answer};
use super::listen::{BindError, listen_at_last};
use super::serve::{Limits, serve};
use crate::config::{ModeName, OnBindFailure};
use crate::metrics::Metrics;

/// What there is to show.
#[derive(Clone, Debug)]
pub struct Pages {
    pub metrics: Metrics,
    pub mode: ModeName,
    /// The body of `/configz`.
    pub config_z: Arc<str>,
}

/// # Errors
/// If the address cannot be listened on, and that is to end the process.
pub async fn serve_metrics(
    address: SocketAddr,
    on_failure: OnBindFailure,
    pages: Pages,
) -> Result<Infallible, BindError> {
    let listener = listen_at_last(address, on_failure).await?;
    tracing::info!(%address, "Serving /metrics");
    let answer = move |request: &http::Request<_>| respond(request.uri().path(), &pages);
    Ok(serve(listener, Limits::default(), answer).await)
}

fn respond(path: &str, pages: &Pages) -> Answer {
    match path {
        "/metrics" => metrics(&pages.metrics),
        "/healthz" => answer::text(StatusCode::OK, "ok"),
        "/proxyMode" => answer::text(StatusCode::OK, pages.mode.name()),
        "/configz" => answer::json(StatusCode::OK, pages.config_z.to_string()),
        _ => answer::not_found(),
    }
}

fn metrics(metrics: &Metrics) -> Answer {
    match metrics.encode(Instant::now()) {
        Ok(text) => answer::typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{free_port, get};
    use super::*;

    #[tokio::test]
    async fn each_page_has_its_body_and_type() {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config_z = Arc::from(r#"{"kubeproxy.config.k8s.io":{}}"#);
        let pages =
            Pages { metrics: Metrics::new(Instant::now()).unwrap(), mode: ModeName::Iptables, config_z };
        tokio::spawn(serve_metrics(address, OnBindFailure::Exit, pages));
        tokio::task::yield_now().await;
        let plain = "text/plain; charset=utf-8";
        for (path, status, content_type, body) in [
            ("/healthz", 200, plain, "ok"),
            ("/proxyMode", 200, plain, "iptables"),
            ("/proxyMode?verbose", 200, plain, "iptables"),
            ("/configz", 200, "application/json", r#"{"kubeproxy.config.k8s.io":{}}"#),
            ("/livez", 404, plain, "404 page not found\n"),
            ("/debug/pprof/", 404, plain, "404 page not found\n"),
        ] {
            let answer = get(address, path).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
            assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        }
        let answer = get(address, "/metrics").await;
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        for name in ["kubeproxy_sync_proxy_rules_service_changes_total", "process_resident_memory_bytes"] {
            assert!(answer.body.contains(&format!("\n{name} ")), "{name}");
        }
    }
}
