//! discovery.k8s.io/v1 EndpointSlice.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::model::{Family, Few};
use crate::sync::objects::{EndpointPort, EndpointSlice, Hints, Object, SliceEndpoint};

use super::interner::Interner;
use super::lenient::{Field, Map, Text, quoted};
use super::metadata::{Metadata, Scope};
use super::problems::Problems;
use super::{Decoded, Wire, protocol, text};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct WireSlice<'a> {
    metadata: Field<Map<Metadata<'a>>>,
    address_type: Field<Text<'a>>,
    endpoints: Field<Vec<Field<Map<Endpoint<'a>>>>>,
    ports: Field<Vec<Field<Map<Port<'a>>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Endpoint<'a> {
    addresses: Field<Vec<Field<Text<'a>>>>,
    conditions: Field<Map<Conditions>>,
    node_name: Field<Text<'a>>,
    hints: Field<Map<WireHints<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Field<bool>,
    serving: Field<bool>,
    terminating: Field<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct WireHints<'a> {
    for_zones: Field<Vec<Field<Map<Named<'a>>>>>,
    for_nodes: Field<Vec<Field<Map<Named<'a>>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Named<'a> {
    name: Field<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Port<'a> {
    name: Field<Text<'a>>,
    protocol: Field<Text<'a>>,
    port: Field<i64>,
}

impl<'a> Wire<'a> for WireSlice<'a> {
    const SCOPE: Scope = Scope::Subdomain;

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_given().map(|metadata| &metadata.0)
    }

    fn fold(self, names: &mut Interner) -> Decoded {
        let metadata = self.metadata.given().unwrap_or_default().0;
        let name = match metadata.identity(Self::SCOPE, names) {
            Ok(name) => name,
            Err(error) => return Decoded::nameless(&metadata, error),
        };
        let Some(service) = proxied_service(&metadata) else { return Decoded::Ignored(name) };
        let family = match family(self.address_type) {
            Ok(Some(family)) => family,
            Ok(None) => return Decoded::Ignored(name),
            Err(error) => return Decoded::undecodable(name, error),
        };
        for (path, wrong) in [("endpoints", wrong(&self.endpoints)), ("ports", wrong(&self.ports))] {
            if let Some(found) = wrong {
                return Decoded::undecodable(name, format!("{path}: {found} is not a list"));
            }
        }
        let mut problems = Problems::default();
        Decoded::Object(Object::EndpointSlice(Box::new(EndpointSlice {
            name,
            service: names.name(service),
            family,
            weight: weight(&metadata, &mut problems),
            ports: ports(self.ports, names, &mut problems),
            endpoints: endpoints(self.endpoints, family, names, &mut problems),
            triggered: metadata
                .annotations()
                .and_then(|annotations| annotations.triggered.as_given())
                .and_then(|time| text::system_time(time)),
            problems: problems.into_list(),
        })))
    }
}

fn wrong<T>(field: &Field<T>) -> Option<&str> {
    match field {
        Field::Wrong(found) => Some(found),
        Field::Absent | Field::Given(_) => None,
    }
}

/// The Service that a slice belongs to, unless it has none or a headless one.
fn proxied_service<'m>(metadata: &'m Metadata<'_>) -> Option<&'m str> {
    let labels = metadata.labels()?;
    match labels.headless {
        Field::Absent => labels.service.as_given().map(|service| &**service).filter(|name| !name.is_empty()),
        Field::Given(_) | Field::Wrong(_) => None,
    }
}

/// The weight of every endpoint of a slice that says it.
fn weight(metadata: &Metadata<'_>, problems: &mut Problems) -> u16 {
    const DEFAULT: u16 = 1;
    const PATH: &str = "metadata.annotations[ferrovia.dev/weight]";
    let read = match metadata.annotations().map(|annotations| &annotations.weight) {
        None | Some(Field::Absent) => return DEFAULT,
        Some(Field::Given(text)) => text.trim().parse().ok().filter(|&weight| weight > 0).ok_or_else(|| {
            format!("{} is not a number from 1 to {}; {DEFAULT} is used", quoted(text), u16::MAX)
        }),
        Some(Field::Wrong(found)) => Err(format!("{found} is not a string; {DEFAULT} is used")),
    };
    problems.check(PATH, read).unwrap_or(DEFAULT)
}

/// `None` for FQDN, which no proxy can forward to.
fn family(address_type: Field<Text<'_>>) -> Result<Option<Family>, String> {
    match address_type {
        Field::Given(text) => match &*text {
            "IPv4" => Ok(Some(Family::V4)),
            "IPv6" => Ok(Some(Family::V6)),
            "FQDN" => Ok(None),
            other => Err(format!("addressType: {} is not IPv4, IPv6 or FQDN", quoted(other))),
        },
        Field::Absent => Err("addressType: is missing".to_owned()),
        Field::Wrong(found) => Err(format!("addressType: {found} is not a string")),
    }
}

fn ports(
    list: Field<Vec<Field<Map<Port<'_>>>>>,
    names: &mut Interner,
    problems: &mut Problems,
) -> Few<EndpointPort> {
    let items = problems.items("ports", list);
    items.into_iter().filter_map(|(i, Map(port))| port.fold(i, names, problems)).collect()
}

impl Port<'_> {
    /// `None` also for a port without number: "all ports" means nothing to a proxy.
    fn fold(self, i: usize, names: &mut Interner, problems: &mut Problems) -> Option<EndpointPort> {
        let at = |field: &str| format!("ports[{i}].{field}");
        let name = problems.take(at("name"), self.name).unwrap_or_default();
        if !name.is_empty() {
            problems.check(at("name"), text::label(&name))?;
        }
        let number = problems.take(at("port"), self.port).filter(|&number| number != 0)?;
        Some(EndpointPort {
            name: names.name(&name),
            protocol: protocol(&at("protocol"), self.protocol, problems)?,
            port: problems.check(at("port"), text::port(number))?,
        })
    }
}

fn endpoints(
    list: Field<Vec<Field<Map<Endpoint<'_>>>>>,
    family: Family,
    names: &mut Interner,
    problems: &mut Problems,
) -> Box<[SliceEndpoint]> {
    let items = problems.items("endpoints", list);
    items.into_iter().filter_map(|(i, Map(endpoint))| endpoint.fold(i, family, names, problems)).collect()
}

impl Endpoint<'_> {
    fn fold(
        self,
        i: usize,
        family: Family,
        names: &mut Interner,
        problems: &mut Problems,
    ) -> Option<SliceEndpoint> {
        let address = first_address(self.addresses, i, family, problems)?;
        let conditions = self.conditions.given().unwrap_or_default().0;
        let ready = conditions.ready.given().unwrap_or(true);
        let node = problems.take(Index(i, "nodeName"), self.node_name).filter(|node| !node.is_empty());
        let hints = problems.take(Index(i, "hints"), self.hints);
        Some(SliceEndpoint {
            address,
            ready,
            serving: conditions.serving.given().unwrap_or(ready),
            terminating: conditions.terminating.given().unwrap_or(false),
            node: node.map(|node| names.name(&node)),
            hints: hints.and_then(|Map(hints)| hints.fold(names)),
        })
    }
}

/// The path of a field of one endpoint, written only where there is a problem: endpoints are many.
struct Index(usize, &'static str);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoints[{}].{}", self.0, self.1)
    }
}

fn first_address(
    list: Field<Vec<Field<Text<'_>>>>,
    i: usize,
    family: Family,
    problems: &mut Problems,
) -> Option<IpAddr> {
    const FIRST: &str = "addresses[0]";
    let Some(first) = problems.take(Index(i, "addresses"), list)?.into_iter().next() else {
        problems.add(Index(i, "addresses"), "is empty");
        return None;
    };
    let written = problems.take(Index(i, FIRST), first)?;
    let address = problems.check(Index(i, FIRST), text::address(&written))?;
    if Family::of(address) != family {
        problems.add(Index(i, FIRST), format!("{address} is not an {family} address, as addressType says"));
        return None;
    }
    Some(address)
}

impl WireHints<'_> {
    fn fold(self, names: &mut Interner) -> Option<Arc<Hints>> {
        let zones = hinted(self.for_zones, names);
        let nodes = hinted(self.for_nodes, names);
        let given = !zones.is_empty() || !nodes.is_empty();
        given.then(|| names.hints(Hints { zones, nodes }))
    }
}

/// Hints only optimise: what cannot be read counts as not hinted.
fn hinted(list: Field<Vec<Field<Map<Named<'_>>>>>, names: &mut Interner) -> Box<[Arc<str>]> {
    let list = list.given().unwrap_or_default();
    let given = list.into_iter().filter_map(|item| item.given()?.0.name.given());
    given.filter(|name| !name.is_empty()).map(|name| names.name(&name)).collect()
}
