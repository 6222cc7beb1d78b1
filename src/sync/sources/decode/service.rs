//! core/v1 Service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

use crate::model::{Few, ServiceName};
use crate::sync::objects::{Object, Seldom, Service, ServiceKind, ServicePortSpec};

use super::interner::Interner;
use super::lenient::{Field, Map, Text, quoted};
use super::metadata::{Metadata, Scope};
use super::problems::Problems;
use super::{Decoded, Wire, protocol, text};

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct WireService<'a> {
    metadata: Field<Map<Metadata<'a>>>,
    spec: Field<Map<Spec<'a>>>,
    status: Field<Map<Status<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    #[serde(rename = "type")]
    kind: Field<Text<'a>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Field<Text<'a>>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Field<Vec<Field<Text<'a>>>>,
    ports: Field<Vec<Field<Map<Port<'a>>>>>,
    #[serde(rename = "externalIPs")]
    external_ips: Field<Vec<Field<Text<'a>>>>,
    load_balancer_source_ranges: Field<Vec<Field<Text<'a>>>>,
    internal_traffic_policy: Field<Text<'a>>,
    external_traffic_policy: Field<Text<'a>>,
    session_affinity: Field<Text<'a>>,
    session_affinity_config: Field<Map<AffinityConfig>>,
    health_check_node_port: Field<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Port<'a> {
    name: Field<Text<'a>>,
    protocol: Field<Text<'a>>,
    port: Field<i64>,
    node_port: Field<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Field<Map<ClientIp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Field<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Status<'a> {
    load_balancer: Field<Map<LoadBalancer<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct LoadBalancer<'a> {
    ingress: Field<Vec<Field<Map<Ingress<'a>>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Ingress<'a> {
    ip: Field<Text<'a>>,
    #[serde(rename = "ipMode")]
    mode: Field<Text<'a>>,
}

impl<'a> Wire<'a> for WireService<'a> {
    const SCOPE: Scope = Scope::Label;

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_given().map(|metadata| &metadata.0)
    }

    fn fold(self, names: &mut Interner) -> Decoded {
        let metadata = self.metadata.given().unwrap_or_default().0;
        let name = match metadata.identity(Self::SCOPE, names) {
            Ok(name) => name,
            Err(error) => return Decoded::nameless(&metadata, error),
        };
        let spec = match self.spec {
            Field::Given(Map(spec)) => spec,
            Field::Absent => return Decoded::undecodable(name, "spec: is missing"),
            Field::Wrong(found) => {
                return Decoded::undecodable(name, format!("spec: {found} is not an object"));
            }
        };
        if let Field::Wrong(found) = &spec.ports {
            return Decoded::undecodable(name, format!("spec.ports: {found} is not a list"));
        }
        if !spec.is_proxied()
            || metadata.labels().is_some_and(|labels| labels.service_proxy.as_given().is_some())
        {
            return Decoded::Ignored(name);
        }
        let annotations = metadata.annotations();
        let mut problems = Problems::default();
        let service = Service {
            created: created(&metadata, &mut problems),
            uid: metadata.uid.as_given().map_or("", |uid| uid).into(),
            scheduler: annotations.and_then(|all| all.scheduler.as_given()).map(|text| names.name(text)),
            scheduler_flags: annotations
                .and_then(|all| all.scheduler_flags.as_given())
                .map(|text| names.name(text)),
            load_balancer_ips: load_balancer_ips(self.status, &mut problems).into(),
            ..spec.fold(name, names, &mut problems)
        };
        Decoded::Object(Object::Service(Box::new(Service { problems: problems.into_list(), ..service })))
    }
}

impl Spec<'_> {
    /// Headless and ExternalName Services are DNS's affair.
    fn is_proxied(&self) -> bool {
        let none = |ip: &Field<Text<'_>>| ip.as_given().is_some_and(|ip| ip == "None");
        let listed = self.cluster_ips.as_given().and_then(|ips| ips.first());
        let external_name = self.kind.as_given().is_some_and(|kind| kind == "ExternalName");
        !external_name && !none(&self.cluster_ip) && !listed.is_some_and(none)
    }

    fn fold(self, name: ServiceName, names: &mut Interner, problems: &mut Problems) -> Service {
        Service {
            name,
            uid: "".into(),
            created: 0,
            kind: kind(self.kind, problems),
            cluster_ips: cluster_ips(self.cluster_ips, self.cluster_ip, problems),
            ports: ports(self.ports, names, problems),
            external_ips: addresses("spec.externalIPs", self.external_ips, problems),
            load_balancer_ips: Seldom::default(),
            load_balancer_sources: source_ranges(self.load_balancer_source_ranges, problems).into(),
            internal_policy_local: is_local(
                "spec.internalTrafficPolicy",
                self.internal_traffic_policy,
                problems,
            ),
            external_policy_local: is_local(
                "spec.externalTrafficPolicy",
                self.external_traffic_policy,
                problems,
            ),
            affinity_timeout_seconds: affinity(self.session_affinity, self.session_affinity_config, problems),
            health_check_node_port: port_or_none(
                "spec.healthCheckNodePort",
                self.health_check_node_port,
                problems,
            ),
            scheduler: None,
            scheduler_flags: None,
            problems: Seldom::default(),
        }
    }
}

fn created(metadata: &Metadata<'_>, problems: &mut Problems) -> i64 {
    let Some(written) = metadata.creation_timestamp.as_given() else { return 0 };
    let read = problems.check("metadata.creationTimestamp", text::time(written));
    read.map_or(0, |time| time.as_second())
}

fn kind(field: Field<Text<'_>>, problems: &mut Problems) -> ServiceKind {
    match problems.take("spec.type", field).as_deref() {
        None | Some("ClusterIP") => ServiceKind::ClusterIp,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some(other) => {
            problems.add("spec.type", format!("{} is not a type of Service", quoted(other)));
            ServiceKind::ClusterIp
        }
    }
}

fn cluster_ips(
    list: Field<Vec<Field<Text<'_>>>>,
    single: Field<Text<'_>>,
    problems: &mut Problems,
) -> Few<IpAddr> {
    if list.as_given().is_some_and(|ips| !ips.is_empty()) {
        return addresses("spec.clusterIPs", list, problems);
    }
    let single = problems.take("spec.clusterIP", single).filter(|ip| !ip.is_empty());
    single.and_then(|ip| problems.check("spec.clusterIP", text::address(&ip))).into_iter().collect()
}

fn addresses<L: FromIterator<IpAddr>>(
    path: &str,
    list: Field<Vec<Field<Text<'_>>>>,
    problems: &mut Problems,
) -> L {
    let items = problems.items(path, list);
    let read = items
        .into_iter()
        .filter_map(|(i, ip)| problems.check(format_args!("{path}[{i}]"), text::address(&ip)));
    read.collect()
}

fn ports(
    list: Field<Vec<Field<Map<Port<'_>>>>>,
    names: &mut Interner,
    problems: &mut Problems,
) -> Few<ServicePortSpec> {
    let items = problems.items("spec.ports", list);
    items.into_iter().filter_map(|(i, Map(port))| port.fold(i, names, problems)).collect()
}

impl Port<'_> {
    fn fold(self, i: usize, names: &mut Interner, problems: &mut Problems) -> Option<ServicePortSpec> {
        let at = |field: &str| format!("spec.ports[{i}].{field}");
        if matches!(self.port, Field::Absent) {
            problems.add(at("port"), "is missing");
        }
        let number = problems.take(at("port"), self.port);
        let name = problems.take(at("name"), self.name).unwrap_or_default();
        if !name.is_empty() {
            problems.check(at("name"), text::label(&name))?;
        }
        Some(ServicePortSpec {
            name: names.name(&name),
            protocol: protocol(&at("protocol"), self.protocol, problems)?,
            port: problems.check(at("port"), text::port(number?))?,
            node_port: port_or_none(&at("nodePort"), self.node_port, problems),
        })
    }
}

fn port_or_none(path: &str, field: Field<i64>, problems: &mut Problems) -> u16 {
    let number = problems.take(path, field).filter(|&number| number != 0);
    number.and_then(|number| problems.check(path, text::port(number))).unwrap_or(0)
}

/// Where ranges were given and none can be read, nobody is let in: an empty list would admit everybody.
fn source_ranges(list: Field<Vec<Field<Text<'_>>>>, problems: &mut Problems) -> Box<[IpNet]> {
    const PATH: &str = "spec.loadBalancerSourceRanges";
    let given = match &list {
        Field::Absent => false,
        Field::Given(ranges) => !ranges.is_empty(),
        Field::Wrong(_) => true,
    };
    let items = problems.items(PATH, list);
    let mut ranges: Vec<IpNet> = items
        .into_iter()
        .filter_map(|(i, range)| problems.check(format_args!("{PATH}[{i}]"), text::network(&range)))
        .collect();
    if given && ranges.is_empty() {
        let nobody = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        ranges.extend(nobody.map(IpNet::from));
    }
    ranges.into_boxed_slice()
}

fn is_local(path: &str, field: Field<Text<'_>>, problems: &mut Problems) -> bool {
    match problems.take(path, field).as_deref() {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            problems.add(path, format!("{} is neither Cluster nor Local", quoted(other)));
            false
        }
    }
}

fn affinity(
    field: Field<Text<'_>>,
    config: Field<Map<AffinityConfig>>,
    problems: &mut Problems,
) -> Option<u32> {
    match problems.take("spec.sessionAffinity", field).as_deref() {
        None | Some("" | "None") => None,
        Some("ClientIP") => Some(affinity_timeout(config, problems)),
        Some(other) => {
            problems.add("spec.sessionAffinity", format!("{} is neither None nor ClientIP", quoted(other)));
            None
        }
    }
}

fn affinity_timeout(config: Field<Map<AffinityConfig>>, problems: &mut Problems) -> u32 {
    const DEFAULT: u32 = 3 * 60 * 60;
    const LONGEST: i64 = 24 * 60 * 60;
    const PATH: &str = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let config = problems.take("spec.sessionAffinityConfig", config).unwrap_or_default().0;
    let client = problems.take("spec.sessionAffinityConfig.clientIP", config.client_ip).unwrap_or_default().0;
    match problems.take(PATH, client.timeout_seconds) {
        None => DEFAULT,
        Some(seconds @ 1..=LONGEST) => u32::try_from(seconds).unwrap_or(DEFAULT),
        Some(seconds) => {
            problems.add(PATH, format!("{seconds} is not between 1 and {LONGEST} seconds"));
            DEFAULT
        }
    }
}

fn load_balancer_ips(status: Field<Map<Status<'_>>>, problems: &mut Problems) -> Box<[IpAddr]> {
    const PATH: &str = "status.loadBalancer.ingress";
    let status = problems.take("status", status).unwrap_or_default().0;
    let load_balancer = problems.take("status.loadBalancer", status.load_balancer).unwrap_or_default().0;
    let items = problems.items(PATH, load_balancer.ingress);
    let read = items.into_iter().filter_map(|(i, Map(ingress))| {
        let ip = problems.take(format_args!("{PATH}[{i}].ip"), ingress.ip)?;
        match problems.take(format_args!("{PATH}[{i}].ipMode"), ingress.mode).as_deref() {
            None | Some("VIP") => problems.check(format_args!("{PATH}[{i}].ip"), text::address(&ip)),
            // KEP-1860: the load balancer delivers to NodePorts and must see the traffic itself.
            Some("Proxy") => None,
            Some(other) => {
                problems.add(
                    format_args!("{PATH}[{i}].ipMode"),
                    format!("{} is neither VIP nor Proxy", quoted(other)),
                );
                None
            }
        }
    });
    read.collect()
}
