//! `/healthz`, `/livez` and `/readyz`, for load balancers and the kubelet.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use super::answer::{self, Answer};
use super::listen::{BindError, listen_at_last};
use super::serve::{Limits, serve};
use crate::config::OnBindFailure;
use crate::health::{Health, Moment, Probe};
use crate::metrics::Metrics;

/// # Errors
/// If the address cannot be listened on, and that is to end the process.
pub async fn serve_healthz(
    address: SocketAddr,
    on_failure: OnBindFailure,
    health: Arc<Health>,
    metrics: Metrics,
) -> Result<Infallible, BindError> {
    let listener = listen_at_last(address, on_failure).await?;
    tracing::info!(%address, "Serving /healthz, /livez and /readyz");
    let answer =
        move |request: &http::Request<_>| respond(request.uri().path(), &health, &metrics, Moment::now());
    Ok(serve(listener, Limits::default(), answer).await)
}

fn respond(path: &str, health: &Health, metrics: &Metrics, now: Moment) -> Answer {
    let probe = match path {
        "/readyz" => {
            let readiness = health.readiness(now.instant);
            // Plain structs with text keys cannot fail to become JSON.
            let body = serde_json::to_string(&readiness).unwrap_or_default();
            return answer::json(answer::status(readiness.ready), body);
        }
        "/healthz" => Probe::Ready,
        "/livez" => Probe::Live,
        _ => return answer::not_found(),
    };
    let report = health.report(probe, now);
    let status = answer::status(report.is_ok());
    match probe {
        Probe::Ready => metrics.kube_proxy.count_healthz(status.as_u16()),
        Probe::Live => metrics.kube_proxy.count_livez(status.as_u16()),
    }
    answer::json(status, report.to_json())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::testing::{free_port, get, on_loopback, within};
    use super::*;
    use crate::health::{NodeEligibility, PodNetwork};
    use crate::model::Family;

    async fn start() -> (SocketAddr, Arc<Health>, Metrics) {
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Metrics::new(Instant::now()).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        tokio::spawn(serve_healthz(address, OnBindFailure::Exit, Arc::clone(&health), metrics.clone()));
        tokio::task::yield_now().await;
        (address, health, metrics)
    }

    #[tokio::test]
    async fn both_endpoints_answer_as_kube_proxy_does() {
        let (address, health, metrics) = start().await;
        health.set_node(Some(NodeEligibility::Leaving));
        let (healthz, livez) = (get(address, "/healthz").await, get(address, "/livez").await);
        assert_eq!((healthz.status, livez.status), (503, 200));
        for answer in [&healthz, &livez] {
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        let body: serde_json::Value = serde_json::from_str(&healthz.body).unwrap();
        assert_eq!((&body["nodeEligible"], &body["healthy"]), (&false.into(), &true.into()));
        health.set_node(Some(NodeEligibility::Eligible));
        assert_eq!(get(address, "/healthz").await.status, 200);
        health.degraded(Family::V4, "broken");
        assert_eq!(get(address, "/healthz").await.status, 503);
        assert_eq!(get(address, "/livez").await.status, 503);
        let text = metrics.encode(Instant::now()).unwrap();
        for line in [
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 2",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[tokio::test]
    async fn readiness_waits_for_services_and_for_the_pod_network() {
        let (address, health, _) = start().await;
        assert_eq!(get(address, "/readyz").await.status, 503, "nothing is programmed yet");
        health.synced(Family::V4, std::time::SystemTime::now());
        assert_eq!(get(address, "/readyz").await.body, r#"{"ready":true}"#);
        health.set_pod_network(PodNetwork::NotReady("no routes yet".into()));
        let answer = get(address, "/readyz").await;
        assert_eq!((answer.status, get(address, "/livez").await.status), (503, 200));
        assert_eq!(answer.body, r#"{"ready":false,"reason":"pod network: no routes yet"}"#);
        health.set_pod_network(PodNetwork::Ready);
        assert_eq!(get(address, "/readyz").await.status, 200);
    }

    #[tokio::test]
    async fn there_is_nothing_else() {
        let (address, _, _) = start().await;
        let answer = get(address, "/metrics").await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));
    }

    #[tokio::test]
    async fn an_address_in_use_ends_the_process_only_where_that_is_wanted() {
        let (_taken, address) = on_loopback();
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Metrics::new(Instant::now()).unwrap();
        let exit = serve_healthz(address, OnBindFailure::Exit, Arc::clone(&health), metrics.clone());
        let error = within(exit).await.unwrap_err();
        assert_eq!(error.address, address);
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        let retry = serve_healthz(address, OnBindFailure::Retry, health, metrics);
        assert!(tokio::time::timeout(Duration::from_millis(100), retry).await.is_err(), "it gave up");
    }

    /// The clock is stopped, so that the wait of five seconds takes none.
    #[tokio::test(start_paused = true)]
    async fn a_freed_address_is_taken_at_the_next_attempt() {
        let (taken, address) = on_loopback();
        let free = async {
            tokio::time::sleep(Duration::from_secs(12)).await;
            drop(taken);
        };
        let (listener, ()) = tokio::join!(listen_at_last(address, OnBindFailure::Retry), free);
        assert_eq!(listener.unwrap().local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn ipv6_addresses_are_served() {
        let health = Arc::new(Health::new(Duration::from_secs(30)));
        let metrics = Metrics::new(Instant::now()).unwrap();
        let address: SocketAddr = format!("[::1]:{}", free_port()).parse().unwrap();
        tokio::spawn(serve_healthz(address, OnBindFailure::Exit, health, metrics));
        tokio::task::yield_now().await;
        assert_eq!(get(address, "/livez").await.status, 200);
    }
}
