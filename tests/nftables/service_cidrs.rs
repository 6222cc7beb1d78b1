//! Addresses that Services may get one day, as an API server tells of them.

use serde_json::json;

use super::*;
use crate::common::apiserver::{ApiServer, Fault, Verb, What};
use crate::common::rig::NODES;

const UNALLOCATED: &str = "10.244.1.9 tcp 10.96.0.11:80 -> drop";
const UNKNOWN: &str = "10.244.1.9 tcp 10.96.0.11:80 -> untouched";

/// A lab without a proxy, and an API server on the node's loopback.
fn cluster() -> (Rig, ApiServer) {
    let rig = Rig::without_proxy(DataPlane::Nftables, &[], &[]);
    let server = rig.lab.here().run(ApiServer::start).unwrap();
    for document in format!("{NODES}{}", web("", &PODS)).split("---\n") {
        if !document.trim().is_empty() {
            server.apply(serde_saphyr::from_str(document).unwrap());
        }
    }
    (rig, server)
}

fn apply(server: &ApiServer, network: &str) {
    server.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [network]},
    }));
}

#[test]
fn unallocated_addresses_follow_the_service_cidrs() {
    let (mut rig, server) = cluster();
    apply(&server, "10.96.0.0/16");
    rig.spawn(rig.command_for(&server.kubeconfig()));
    rig.wait_until_healthy();
    rig.expect(&format!("{UNALLOCATED}\n10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080"));
    apply(&server, "10.98.0.0/16");
    rig.expect_soon(&format!("{UNKNOWN}\n10.244.1.9 tcp 10.98.0.1:80 -> drop"));
    server.delete("servicecidrs", "kubernetes");
    rig.expect_soon("10.244.1.9 tcp 10.98.0.1:80 -> untouched");
}

/// Before Kubernetes 1.33, or with the rights of an older kube-proxy. It is said once.
#[test]
fn a_server_without_service_cidrs_changes_nothing_else() {
    let (mut rig, server) = cluster();
    for verb in [Verb::StreamingList, Verb::List] {
        let (resource, what) = (Some("servicecidrs"), What::Status(404));
        server.fault(Fault { verb, resource, times: usize::MAX, what });
    }
    rig.spawn(rig.command_for(&server.kubeconfig()));
    rig.wait_until_healthy();
    rig.expect(&format!("{UNKNOWN}\n10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080"));
    let log = rig.log();
    assert_eq!(log.matches("going on without this kind").count(), 1, "{log}");
}
