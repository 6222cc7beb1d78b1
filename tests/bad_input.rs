//! What tenants and operators get wrong, in the running program: it says what, and everything else goes on working.

use ferrovia::model::Protocol;

use crate::common::data_plane::{DataPlane, in_every_mode};
use crate::common::rig::{Rig, SOON, eventually};

const GOOD: &str = "10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080\n";

fn service(name: &str, address: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {address}, ports: [{ports}]}}\n---\n"
    )
}

fn slice(service: &str, endpoints: &[String]) -> String {
    let endpoints: String = endpoints.iter().map(|address| format!("- addresses: ['{address}']\n")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{name: '', port: 8080, protocol: TCP}}]\nendpoints:\n{endpoints}---\n"
    )
}

fn working(name: &str, address: &str) -> String {
    service(name, address, "{port: 80}") + &slice(name, &["10.244.1.5".to_owned()])
}

/// Writes a bad file beside a good Service and waits for the message; then the good one still works, and so does a new one.
fn survives(plane: DataPlane, bad: &str, message: &[&str]) {
    let rig = Rig::start(plane, &[("good.yaml", &working("good", "10.96.0.10"))]);
    rig.expect(GOOD);
    rig.write("bad.yaml", bad);
    let said = eventually(SOON, || message.iter().all(|part| rig.log().contains(part)));
    assert!(said, "no message with {message:?} in\n{}", rig.log());
    rig.write("new.yaml", &working("new", "10.96.0.77"));
    rig.expect_soon(&format!("{GOOD}10.244.1.9 tcp 10.96.0.77:80 -> to 10.244.1.5:8080\n"));
}

in_every_mode! {
    fn a_malformed_manifest_is_named_with_its_place(plane: DataPlane) {
        survives(plane, "apiVersion: v1\nkind: Service\nmetadata: {name: [}\n", &["bad.yaml: document 1"]);
    }

    fn an_impossible_port_costs_its_service_that_port_alone(plane: DataPlane) {
        let bad = service("ports", "10.96.0.20", "{name: a, port: 70000}, {name: b, port: 80}")
            + &slice("ports", &["10.244.1.5".to_owned()]).replace("name: ''", "name: b");
        let rig = Rig::start(plane, &[("good.yaml", &working("good", "10.96.0.10")), ("bad.yaml", &bad)]);
        rig.expect_soon(&format!("{GOOD}10.244.1.9 tcp 10.96.0.20:80 -> to 10.244.1.5:8080\n"));
        for part in ["Service shop/ports", "spec.ports[0].port", "70000"] {
            assert!(rig.log().contains(part), "{part} is not in\n{}", rig.log());
        }
    }

    fn a_name_of_300_characters_is_refused(plane: DataPlane) {
        survives(plane, &working(&"n".repeat(300), "10.96.0.20"), &["metadata.name", "300 bytes"]);
    }

    fn endpoints_in_forbidden_ranges_get_no_traffic_and_the_others_do(plane: DataPlane) {
        let addresses = ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "10.244.1.6"].map(str::to_owned);
        let bad = service("local", "10.96.0.20", "{port: 80}") + &slice("local", &addresses);
        let rig = Rig::start(plane, &[("good.yaml", &working("good", "10.96.0.10")), ("bad.yaml", &bad)]);
        rig.expect_soon(&format!("{GOOD}10.244.1.9 tcp 10.96.0.20:80 -> to 10.244.1.6:8080\n"));
        for part in ["EndpointSlice shop/local-1", "127.0.0.1"] {
            assert!(rig.log().contains(part), "{part} is not in\n{}", rig.log());
        }
    }

    fn five_thousand_endpoints_harm_nobody(plane: DataPlane) {
        let many: Vec<String> = (0..5000).map(|n| format!("10.{}.{}.{}", 200, n / 250, n % 250 + 1)).collect();
        let rig = Rig::start(plane, &[("good.yaml", &working("good", "10.96.0.10"))]);
        rig.write("many.yaml", &(service("many", "10.96.0.20", "{port: 80}") + &slice("many", &many)));
        let count = || {
            // This mode lists the endpoints of Services that had a client.
            if plane.is_userspace() {
                rig.ask("10.244.1.9", Protocol::Tcp, "10.96.0.20:80");
            }
            rig.forwards_to("10.200.")
        };
        assert!(eventually(SOON * 4, || count() == 5000), "{} endpoints\n{}", count(), rig.log());
        rig.write("new.yaml", &working("new", "10.96.0.77"));
        rig.expect_soon(&format!("{GOOD}10.244.1.9 tcp 10.96.0.77:80 -> to 10.244.1.5:8080\n"));
    }
}
