//! What happens in the demo: which endpoints there are when.

use std::fmt::Write;
use std::net::IpAddr;

use crate::model::Family;

pub const NODES: &str = include_str!("../../../manifests/examples/node.yaml");
pub const SERVICES: &str = include_str!("../../../manifests/examples/services.yaml");
/// What the first scene starts with; the others are written in the same way.
pub const ENDPOINTS: &str = include_str!("../../../manifests/examples/endpoints.yaml");

/// A part of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub title: &'static str,
    /// Pods that serve, by their names in the lab.
    pub endpoints: &'static [&'static str],
}

/// Nothing here interrupts a client: some endpoint that was there before is there after each change.
pub const SCENES: &[Scene] = &[
    Scene { title: "one pod serves on each node", endpoints: &["here/5", "elsewhere/5"] },
    Scene { title: "two more pods come", endpoints: &["here/5", "here/6", "elsewhere/5", "elsewhere/6"] },
    Scene { title: "here/5 goes", endpoints: &["here/6", "elsewhere/5", "elsewhere/6"] },
    Scene { title: "elsewhere/5 goes", endpoints: &["here/6", "elsewhere/6"] },
];

/// Every pod that serves at some time.
pub const PODS: [&str; 4] = ["here/5", "here/6", "elsewhere/5", "elsewhere/6"];

/// The EndpointSlices of a scene; `address_of` knows the pods.
pub fn endpoints(scene: &Scene, address_of: impl Fn(&str, Family) -> Option<IpAddr>) -> String {
    let slices = [
        ("web", Family::V4, "http", "TCP"),
        ("web", Family::V6, "http", "TCP"),
        ("names", Family::V4, "dns", "UDP"),
        ("cart", Family::V4, "http", "TCP"),
    ];
    let slice = |(service, family, port, protocol): (&str, Family, &str, &str)| {
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: demo\n  name: {service}-{}\n  \
             labels:\n    kubernetes.io/service-name: {service}\naddressType: {family}\nports:\n  - {{name: {port}, \
             protocol: {protocol}, port: 8080}}\nendpoints:\n",
            family.to_string().to_lowercase()
        );
        for pod in scene.endpoints {
            let (node, address) = (pod.split('/').next().unwrap_or_default(), address_of(pod, family));
            let Some(address) = address else { continue };
            let conditions = "{ready: true, serving: true, terminating: false}";
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  - {{addresses: [\"{address}\"], nodeName: {node}, conditions: {conditions}}}"
            );
        }
        text
    };
    slices.map(slice).join("---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the lab has it.
    fn address_of(pod: &str, family: Family) -> Option<IpAddr> {
        let (node, number) = pod.split_once('/')?;
        let network = if node == "here" { 1 } else { 2 };
        let text = match family {
            Family::V4 => format!("10.244.{network}.{number}"),
            Family::V6 => format!("fd00:244:{network}::{number}"),
        };
        text.parse().ok()
    }

    #[test]
    fn the_first_scene_is_the_example() {
        let example = ENDPOINTS.split_once('\n').unwrap().1;
        assert_eq!(endpoints(&SCENES[0], address_of), example);
    }

    #[test]
    fn no_change_takes_all_endpoints_away() {
        for pair in SCENES.windows(2) {
            assert!(pair[1].endpoints.iter().any(|pod| pair[0].endpoints.contains(pod)), "{}", pair[1].title);
            assert!(pair[1].endpoints.iter().all(|pod| PODS.contains(pod)));
        }
    }
}
