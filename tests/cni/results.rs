//! What is answered, in each version of the specification.

use serde_json::{Value, json};

use super::rig::{Node, PLUGIN, Pod};

/// SPEC.md of each version, section "Result types" or "Result": the fields and their types.
fn assert_schema(version: &str, result: &Value) {
    let is_old = version < "1.0.0";
    assert_eq!(result["cniVersion"], version);
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 2);
    for interface in interfaces {
        assert!(interface["name"].is_string() && interface["mac"].is_string(), "{interface}");
        assert_eq!(interface["mtu"].is_u64(), version >= "1.1.0", "{interface}");
    }
    assert!(interfaces[0].get("sandbox").is_none() && interfaces[1]["sandbox"].is_string());
    for (ip, family) in result["ips"].as_array().unwrap().iter().zip(["4", "6"]) {
        let version = is_old.then(|| json!(family));
        assert_eq!(ip.get("version").cloned(), version, "{ip}");
        assert_eq!(ip["interface"], 1);
        assert!(ip["address"].as_str().unwrap().contains('/') && ip["gateway"].is_string(), "{ip}");
    }
    for route in result["routes"].as_array().unwrap() {
        assert!(route["dst"].as_str().unwrap().contains('/'), "{route}");
        assert!(route.get("gw").is_none_or(Value::is_string), "{route}");
    }
    let known = ["cniVersion", "interfaces", "ips", "routes", "dns"];
    let unknown: Vec<_> =
        result.as_object().unwrap().keys().filter(|key| !known.contains(&&***key)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn results_are_of_the_version_of_the_configuration() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut node = Node::new();
        node.config["cniVersion"] = json!(version);
        node.config["dns"] = json!({"nameservers": ["10.96.0.10"]});
        let pod = Pod::new("a");
        let result = node.add(&pod).success();
        assert_schema(version, &result);
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
        if version != "0.3.1" {
            node.check(&pod, &result).success();
        }
        node.del(&pod).success();
        node.assert_empty();
    }
}

#[test]
fn a_result_tells_all_that_was_done() {
    let node = Node::new();
    let pod = Pod::new("a");
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": pod.node_end(), "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1500},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:01", "mtu": 1500, "sandbox": pod.path()},
        ],
        "ips": [
            {"address": "10.244.1.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00:244:1::1/128", "gateway": "fe80::ecee:eeff:feee:eeee", "interface": 1},
        ],
        "routes": [
            {"dst": "169.254.1.1/32"},
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "fe80::ecee:eeff:feee:eeee/128"},
            {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
        ],
    });
    assert_eq!(node.add(&pod).success(), expected);
    assert_eq!(pod.addresses(), ["10.244.1.1/32", "fd00:244:1::1/128"]);
}

/// A plugin that comes later in a chain says what those before it said, and adds to it.
#[test]
fn an_earlier_result_is_handed_on() {
    let node = Node::with_ranges(&["10.244.1.0/24"]);
    let pod = Pod::new("a");
    let earlier = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "sandbox": pod.path(), "socketPath": "/run/socket"}],
        "ips": [{"address": "198.51.100.7/24", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24", "priority": 7}],
        "dns": {"domain": "example.org"},
        "later": 1,
    });
    let result = node.call("ADD", &pod, &node.with(json!({"prevResult": earlier}))).success();
    for (field, count) in [("interfaces", 3), ("ips", 2), ("routes", 3)] {
        assert_eq!(result[field].as_array().unwrap().len(), count, "{result}");
        assert_eq!(result[field][0], earlier[field][0]);
    }
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!((&result["dns"], &result["later"]), (&earlier["dns"], &earlier["later"]));
}

#[test]
fn errors_have_the_codes_of_the_specification() {
    let node = Node::new();
    let pod = Pod::new("a");
    let code = |fields: Value| node.call("ADD", &pod, &node.with(fields)).failure().0;
    assert_eq!(code(json!({"cniVersion": "2.0.0"})), 1);
    let mapping = json!([{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]);
    assert_eq!(code(json!({"runtimeConfig": {"portMappings": mapping}})), 2);
    assert_eq!(code(json!({"ranges": "10.0.0.0/24"})), 6);
    assert_eq!(code(json!({"ranges": []})), 7);
    assert_eq!(code(json!({"stateFile": node.path("absent")})), 11);
    let gone =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/absent")];
    let (code, message) = node.run_plugin(PLUGIN, &gone, &node.config).failure();
    assert!(code == 4 && message.contains("CNI_NETNS"), "{message}");
    let own = gone.map(|(name, value)| (name, if name == "CNI_NETNS" { "/proc/self/ns/net" } else { value }));
    let (code, message) = node.run_plugin(PLUGIN, &own, &node.config).failure();
    assert!(code == 4 && message.contains("own"), "{message}");
    node.assert_empty();
}
