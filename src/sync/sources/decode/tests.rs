use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::Family;
use crate::sync::objects::{EndpointSlice, Node, Service, ServiceKind};

fn decode(kind: Kind, value: &Value) -> Decoded {
    let text = value.to_string();
    let mut input = serde_json::Deserializer::from_str(&text);
    object(kind, &mut input, &mut Interner::default()).expect("JSON is read whatever it says")
}

fn service(spec: Value) -> Service {
    match decode(Kind::Service, &json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})) {
        Decoded::Object(Object::Service(service)) => *service,
        other => panic!("not a Service: {other:?}"),
    }
}

fn slice_of(value: &Value) -> EndpointSlice {
    match decode(Kind::EndpointSlice, value) {
        Decoded::Object(Object::EndpointSlice(slice)) => *slice,
        other => panic!("not an EndpointSlice: {other:?}"),
    }
}

fn raw_slice(address_type: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": address_type,
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn slice(endpoints: Value) -> EndpointSlice {
    slice_of(&raw_slice("IPv4", endpoints))
}

/// `field: message` of each problem.
fn said(problems: &[crate::sync::objects::FieldProblem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

#[test]
fn a_service_as_an_api_server_sends_it() {
    let decoded = decode(
        Kind::Service,
        &json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {"ferrovia.dev/scheduler": "mh", "ferrovia.dev/scheduler-flags": "mh-port"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
            },
            "spec": {
                "type": "LoadBalancer",
                "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::10"],
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080},
                    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                ],
                "externalIPs": ["203.0.113.5"],
                "loadBalancerSourceRanges": [" 192.0.2.0/24 "],
                "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "healthCheckNodePort": 32000,
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "198.51.100.2"},
                {"ip": "198.51.100.3", "ipMode": "Proxy"}, {"hostname": "lb.example.org"},
            ]}},
        }),
    );
    let Decoded::Object(Object::Service(service)) = decoded else { panic!("not a Service: {decoded:?}") };
    assert_eq!((service.name.to_string(), service.uid.to_string()), ("shop/web".into(), "u-1".into()));
    assert_eq!(service.created, 1_767_323_045);
    assert_eq!(service.kind, ServiceKind::LoadBalancer);
    assert_eq!(service.cluster_ips.len(), 2);
    let ports: Vec<_> =
        service.ports.iter().map(|port| (&*port.name, port.protocol, port.port, port.node_port)).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 80, 30080), ("dns", Protocol::Udp, 53, 0)]);
    assert_eq!(*service.external_ips, [IpAddr::from([203, 0, 113, 5])]);
    assert_eq!(service.load_balancer_sources[0].to_string(), "192.0.2.0/24");
    assert_eq!(*service.load_balancer_ips, [IpAddr::from([198, 51, 100, 1]), [198, 51, 100, 2].into()]);
    assert!(service.internal_policy_local && service.external_policy_local);
    assert_eq!(service.affinity_timeout_seconds, Some(60));
    assert_eq!(service.health_check_node_port, 32000);
    assert_eq!(service.scheduler.as_deref(), Some("mh"));
    assert_eq!(service.scheduler_flags.as_deref(), Some("mh-port"));
    assert_eq!(said(&service.problems), [""; 0]);
}

/// What an API server would have filled in, and kubectl the namespace.
#[test]
fn defaults_are_filled_in_for_manifests() {
    let decoded =
        decode(Kind::Service, &json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}));
    let Decoded::Object(Object::Service(service)) = decoded else { panic!("not a Service: {decoded:?}") };
    assert_eq!(service.name.to_string(), "default/web");
    assert_eq!((service.created, service.kind), (0, ServiceKind::ClusterIp));
    assert_eq!((&*service.ports[0].name, service.ports[0].protocol), ("", Protocol::Tcp));
    assert!(!service.internal_policy_local && !service.external_policy_local);
    assert_eq!(service.affinity_timeout_seconds, None);
    assert!(service.problems.is_empty());
}

#[test]
fn cluster_ips_come_from_the_single_field_where_the_list_is_empty() {
    assert_eq!(*service(json!({"clusterIP": "10.96.0.1"})).cluster_ips, [IpAddr::from([10, 96, 0, 1])]);
    assert!(service(json!({"clusterIP": ""})).cluster_ips.is_empty());
}

#[test]
fn affinity_lasts_three_hours_unless_told() {
    assert_eq!(service(json!({"sessionAffinity": "ClientIP"})).affinity_timeout_seconds, Some(10_800));
    let far = service(
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
    );
    assert_eq!(far.affinity_timeout_seconds, Some(10_800));
    assert_eq!(
        said(&far.problems),
        ["spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not between 1 and 86400 seconds"]
    );
}

#[test]
fn services_that_nobody_proxies_are_ignored() {
    for (labels, spec) in [
        (json!({}), json!({"clusterIP": "None"})),
        (json!({}), json!({"clusterIPs": ["None"]})),
        (json!({}), json!({"type": "ExternalName", "externalName": "example.org"})),
        (json!({"service.kubernetes.io/service-proxy-name": "other"}), json!({"clusterIP": "10.96.0.1"})),
        (json!({"service.kubernetes.io/service-proxy-name": ""}), json!({"clusterIP": "10.96.0.1"})),
    ] {
        let value = json!({"metadata": {"name": "web", "labels": labels}, "spec": spec});
        assert!(matches!(decode(Kind::Service, &value), Decoded::Ignored(_)), "{value}");
    }
}

/// Y1: each bad field is named, and every other one counts.
#[test]
fn y1_one_bad_field_does_not_lose_the_service() {
    let service = service(json!({
        "type": "Loadbalancer",
        "clusterIPs": ["10.96.0.1", "010.0.0.1", 7],
        "ports": [
            {"port": 80}, "http", {"name": "big", "port": 70000}, {"name": "UPPER", "port": 81},
            {"name": "proto", "port": 82, "protocol": "QUIC"}, {"name": "node", "port": 83, "nodePort": -1},
            {"name": "none"}, {"name": "text", "port": "84"},
        ],
        "externalIPs": "203.0.113.5",
        "internalTrafficPolicy": "local",
        "sessionAffinity": ["ClientIP"],
        "healthCheckNodePort": 99999,
    }));
    assert_eq!(*service.cluster_ips, [IpAddr::from([10, 96, 0, 1])]);
    assert_eq!(service.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [80, 83]);
    assert_eq!(
        said(&service.problems),
        [
            r#"spec.type: "Loadbalancer" is not a type of Service"#,
            "spec.clusterIPs[2]: 7 is not a string",
            r#"spec.clusterIPs[1]: "010.0.0.1" is not an IP address"#,
            r#"spec.ports[1]: "http" is not an object"#,
            "spec.ports[2].port: 70000 is not a port number",
            r#"spec.ports[3].name: "UPPER" is not a name of letters a-z, digits and '-', a letter or digit at both ends"#,
            r#"spec.ports[4].protocol: "QUIC" is not TCP, UDP or SCTP"#,
            "spec.ports[5].nodePort: -1 is not a port number",
            "spec.ports[6].port: is missing",
            r#"spec.ports[7].port: "84" is not a whole number"#,
            r#"spec.externalIPs: "203.0.113.5" is not a list"#,
            r#"spec.internalTrafficPolicy: "local" is neither Cluster nor Local"#,
            "spec.sessionAffinity: a list is not a string",
            "spec.healthCheckNodePort: 99999 is not a port number",
        ]
    );
}

/// S5: a mistyped allow-list must not open the load balancer to everybody.
#[test]
fn s5_unreadable_source_ranges_admit_nobody() {
    for ranges in [json!(["10.0.0.0/8x"]), json!("10.0.0.0/8"), json!([7])] {
        let service = service(json!({"loadBalancerSourceRanges": ranges}));
        let allowed: Vec<_> = service.load_balancer_sources.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["0.0.0.0/32", "::/128"]);
        assert_eq!(service.problems.len(), 1);
    }
    let service = service(json!({"loadBalancerSourceRanges": ["nonsense", "192.0.2.0/24"]}));
    assert_eq!(service.load_balancer_sources.len(), 1);
}

#[test]
fn objects_without_a_usable_name_are_undecodable() {
    let long = "n".repeat(300);
    for (metadata, words) in [
        (json!({}), "one without name: metadata.name: is missing"),
        (json!({"name": 7}), "metadata.name: 7 is not a string"),
        (json!({"name": long}), "(300 bytes) is longer than 63 characters"),
        (json!({"name": "a\nb"}), r#"metadata.name: "a\nb" is not a name"#),
        (json!({"name": "web", "namespace": "../x"}), r#"metadata.namespace: "../x" is not a name"#),
        (json!("web"), "metadata.name: is missing"),
    ] {
        let decoded = decode(Kind::Service, &json!({"metadata": metadata, "spec": {}}));
        let Decoded::Undecodable { name: None, error } = decoded else { panic!("{metadata}: {decoded:?}") };
        assert!(error.contains(words), "{error}");
    }
    for value in [json!(null), json!([1]), json!("web"), json!(3)] {
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
            assert!(matches!(decode(kind, &value), Decoded::Undecodable { name: None, .. }), "{value}");
        }
    }
}

/// What was known of such an object stays in force, so the name must be told.
#[test]
fn an_object_whose_core_is_unreadable_is_undecodable_by_name() {
    for (kind, value, words) in [
        (Kind::Service, json!({"metadata": {"name": "web"}}), "spec: is missing"),
        (Kind::Service, json!({"metadata": {"name": "web"}, "spec": 1}), "spec: 1 is not an object"),
        (
            Kind::Service,
            json!({"metadata": {"name": "web"}, "spec": {"ports": {}}}),
            "spec.ports: an object is not a list",
        ),
        (
            Kind::EndpointSlice,
            raw_slice("IPv5", json!([])),
            r#"addressType: "IPv5" is not IPv4, IPv6 or FQDN"#,
        ),
        (Kind::EndpointSlice, raw_slice("IPv4", json!("all")), r#"endpoints: "all" is not a list"#),
        (Kind::ServiceCidr, json!({"metadata": {"name": "web"}}), "spec.cidrs: is missing"),
        (
            Kind::ServiceCidr,
            json!({"metadata": {"name": "web"}, "spec": {"cidrs": ["10.96.0.0/16", 7]}}),
            "spec.cidrs[1]: 7 is not a string",
        ),
    ] {
        let decoded = decode(kind, &value);
        let Decoded::Undecodable { name: Some(_), error } = decoded else { panic!("{value}: {decoded:?}") };
        assert_eq!(error, words);
    }
}

#[test]
fn conditions_default_as_the_api_says() {
    for (conditions, expected) in [
        (json!(null), (true, true, false)),
        (json!({}), (true, true, false)),
        (json!({"ready": null, "serving": null, "terminating": null}), (true, true, false)),
        (json!({"ready": false}), (false, false, false)),
        (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
        (json!({"ready": true, "serving": false}), (true, false, false)),
    ] {
        let slice = slice(json!([{"addresses": ["10.244.1.5"], "conditions": conditions}]));
        let endpoint = &slice.endpoints[0];
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), expected, "{conditions}");
    }
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    let slice = slice(json!([{"addresses": ["10.244.1.5", "10.244.1.6", "rubbish"]}]));
    assert_eq!(slice.endpoints.len(), 1);
    assert_eq!(slice.endpoints[0].address.to_string(), "10.244.1.5");
    assert!(slice.problems.is_empty());
}

#[test]
fn endpoints_of_the_wrong_family_or_without_address_are_problems() {
    let slice = slice(json!([
        {"addresses": ["fd00::5"]}, {"addresses": []}, {"addresses": ["::ffff:10.0.0.1"]},
        {"addresses": ["10.244.1.5"], "nodeName": "here"}, {"addresses": [5]}, 5,
    ]));
    assert_eq!(slice.endpoints.len(), 1);
    assert_eq!(slice.endpoints[0].node.as_deref(), Some("here"));
    assert_eq!(
        said(&slice.problems),
        [
            "endpoints[5]: 5 is not an object",
            "endpoints[0].addresses[0]: fd00::5 is not an IPv4 address, as addressType says",
            "endpoints[1].addresses: is empty",
            r#"endpoints[2].addresses[0]: "::ffff:10.0.0.1" is an IPv4 address in IPv6 form"#,
            "endpoints[4].addresses[0]: 5 is not a string",
        ]
    );
}

#[test]
fn slices_that_lead_nowhere_are_ignored() {
    let mut headless = raw_slice("IPv4", json!([]));
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    let mut orphan = raw_slice("IPv4", json!([]));
    orphan["metadata"]["labels"] = json!({});
    for value in [headless, orphan, raw_slice("FQDN", json!([{"addresses": ["example.org"]}]))] {
        assert!(matches!(decode(Kind::EndpointSlice, &value), Decoded::Ignored(_)), "{value}");
    }
}

#[test]
fn slice_ports_without_number_are_left_out() {
    let mut value = raw_slice("IPv6", json!(null));
    value["ports"] = json!([{"name": "all"}, {"port": 80}, {"name": "null", "port": null}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let slice = slice_of(&value);
    assert_eq!(slice.family, Family::V6);
    let ports: Vec<_> = slice.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
    assert_eq!(ports, [("", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
    assert!(slice.problems.is_empty());
}

#[test]
fn hints_are_read_and_shared() {
    let hints = json!({"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "here"}]});
    let slice = slice(json!([
        {"addresses": ["10.244.1.5"], "hints": hints}, {"addresses": ["10.244.1.6"], "hints": hints},
        {"addresses": ["10.244.1.7"], "hints": {}},
    ]));
    let [first, second, none] = &*slice.endpoints else { panic!("three endpoints") };
    let (Some(first), Some(second)) = (&first.hints, &second.hints) else { panic!("hints") };
    assert!(std::sync::Arc::ptr_eq(first, second));
    assert_eq!((&*first.zones[0], &*first.nodes[0]), ("zone-a", "here"));
    assert_eq!(none.hints, None);
}

#[test]
fn a_slice_may_give_its_endpoints_a_weight() {
    let weighed = |weight: Value| {
        let mut value = raw_slice("IPv4", json!([]));
        value["metadata"]["annotations"] = json!({"ferrovia.dev/weight": weight});
        let slice = slice_of(&value);
        (slice.weight, said(&slice.problems))
    };
    assert_eq!(slice(json!([])).weight, 1);
    assert_eq!(weighed(json!("1")), (1, vec![]));
    assert_eq!(weighed(json!(" 65535 ")), (65_535, vec![]));
    let field = "metadata.annotations[ferrovia.dev/weight]";
    for bad in ["0", "65536", "-1", "many", ""] {
        let problem = format!("{field}: {bad:?} is not a number from 1 to 65535; 1 is used");
        assert_eq!(weighed(json!(bad)), (1, vec![problem]));
    }
    // In a manifest, quotes are easily forgotten.
    assert_eq!(weighed(json!(5)), (1, vec![format!("{field}: 5 is not a string; 1 is used")]));
}

#[test]
fn the_trigger_time_is_read() {
    let mut value = raw_slice("IPv4", json!([]));
    value["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.5Z"});
    let triggered = slice_of(&value).triggered.expect("a time");
    let since = triggered.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert_eq!(since.as_millis(), 1_767_323_045_500);
}

#[test]
fn a_node_with_all_that_matters() {
    let node = |extra: Value| -> Node {
        let mut value = json!({
            "metadata": {"name": "here", "uid": "8a", "creationTimestamp": "1970-01-01T00:01:00Z",
                "labels": {"topology.kubernetes.io/zone": "zone-a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "198.51.100.7"}, {"type": "Hostname", "address": "here"},
                {"type": "InternalIP", "address": "172.18.0.2"}, {"type": "InternalIP", "address": "fd00:18::2"},
            ]},
        });
        for (key, more) in extra.as_object().expect("an object") {
            for (field, more) in more.as_object().expect("an object") {
                value[key][field] = more.clone();
            }
        }
        match decode(Kind::Node, &value) {
            Decoded::Object(Object::Node(node)) => *node,
            other => panic!("not a Node: {other:?}"),
        }
    };
    let plain = node(json!({}));
    let addresses: Vec<_> = plain.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.18.0.2", "fd00:18::2", "198.51.100.7"]);
    assert_eq!((&*plain.internal_addresses, &*plain.uid, plain.created), (&plain.addresses[..2], "8a", 60));
    assert_eq!((plain.zone.as_deref(), plain.pod_cidrs.len(), plain.leaving), (Some("zone-a"), 2, false));
    assert!(node(json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})).leaving);
    assert!(node(json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}})).leaving);
    assert!(!node(json!({"spec": {"taints": [{"key": "other"}]}})).leaving);
}

#[test]
fn a_page_keeps_what_can_be_read_of_it() {
    let body = json!({
        "metadata": {"resourceVersion": "41", "continue": "more"},
        "items": [raw_slice("IPv4", json!([])), {"metadata": {}}, raw_slice("IPv5", json!([]))],
    });
    let page = page(Kind::EndpointSlice, &body.to_string(), &mut Interner::default()).expect("a page");
    assert_eq!((page.resource_version.as_deref(), page.next.as_deref()), (Some("41"), Some("more")));
    assert!(matches!(
        &page.items[..],
        [
            Decoded::Object(_),
            Decoded::Undecodable { name: None, .. },
            Decoded::Undecodable { name: Some(_), .. }
        ]
    ));
    let empty = r#"{"metadata": {"resourceVersion": "1", "continue": ""}, "items": null}"#;
    let empty = super::page(Kind::Node, empty, &mut Interner::default()).expect("a page");
    assert!(empty.items.is_empty() && empty.next.is_none());
}

#[test]
fn watch_lines_of_every_type_are_read_in_any_order_of_fields() {
    let line = |value: &str| watch_line(Kind::Service, value.as_bytes(), &mut Interner::default());
    let added =
        r#"{"object": {"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {}}, "type": "ADDED"}"#;
    let Ok(Line::Item(item)) = line(added) else { panic!("an item") };
    assert_eq!((item.change, item.resource_version.as_deref()), (Change::Applied, Some("5")));
    let deleted =
        r#"{"type": "DELETED", "object": {"metadata": {"name": "a", "resourceVersion": "6"}, "spec": {}}}"#;
    assert!(matches!(line(deleted), Ok(Line::Item(Item { change: Change::Deleted, .. }))));
    let bookmark = r#"{"type": "BOOKMARK", "object": {"kind": "Service", "metadata": {"resourceVersion": "9",
        "annotations": {"k8s.io/initial-events-end": "true"}}}}"#;
    let Ok(Line::Bookmark { resource_version, initial_events_end }) = line(bookmark) else {
        panic!("a bookmark")
    };
    assert_eq!((resource_version.as_deref(), initial_events_end), (Some("9"), true));
    let error = r#"{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}"#;
    let Ok(Line::Error(status)) = line(error) else { panic!("an error") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(line(r#"{"type": "ADDED", "object": {"meta"#).is_err());
}

/// Any JSON at all, small.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-999..999i32).prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        "\\PC{0,8}".prop_map(Value::from),
        "[a-z0-9:./%-]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Where values stand in an object, as JSON pointers.
fn places(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter()
                .for_each(|(key, value)| self::places(value, &format!("{at}/{}", escaped(key)), places));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| self::places(value, &format!("{at}/{i}"), places));
        }
        _ => {}
    }
}

fn whole_objects() -> [(Kind, Value); 4] {
    let service = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"a": "b"}, "annotations": {"ferrovia.dev/scheduler": "rr", "ferrovia.dev/scheduler-flags": "sh-port"}},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30080, "protocol": "TCP"}], "externalIPs": ["192.0.2.1"],
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}, "healthCheckNodePort": 1},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}},
    });
    let endpoint = json!({"addresses": ["10.0.0.1"], "nodeName": "here", "conditions": {"ready": true},
        "hints": {"forZones": [{"name": "z"}]}});
    let node = json!({"metadata": {"name": "here", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "a"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    let slice = raw_slice("IPv4", json!([endpoint.clone(), endpoint]));
    let cidr =
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}});
    [(Kind::Service, service), (Kind::EndpointSlice, slice), (Kind::Node, node), (Kind::ServiceCidr, cidr)]
}

proptest! {
    /// Whatever stands in one place, the object is read, or it is told why not, and its name is kept.
    #[test]
    fn any_value_in_any_place_is_survived(kind in 0..4usize, place in any::<prop::sample::Index>(), value in anything()) {
        let (kind, mut object) = whole_objects()[kind].clone();
        let mut all = Vec::new();
        places(&object, "", &mut all);
        let place = place.get(&all);
        *object.pointer_mut(place).expect("a place in it") = value;
        let decoded = decode(kind, &object);
        if !place.is_empty() && !place.starts_with("/metadata") {
            prop_assert!(decoded.name().is_some(), "{place}: {decoded:?}");
        }
        let from_value = super::object(kind, &object, &mut Interner::default()).expect("values are read too");
        prop_assert_eq!(from_value, decoded, "JSON text and manifests are read alike");
    }
}
