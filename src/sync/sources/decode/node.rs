//! core/v1 Node.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::sync::objects::{Node, Object, PodNetworkNotes};

use super::interner::Interner;
use super::lenient::{Field, Map, Text};
use super::metadata::{Annotations, Metadata, Scope};
use super::{Decoded, Wire, text};

/// Cluster autoscaler is about to remove the node (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct WireNode<'a> {
    metadata: Field<Map<Metadata<'a>>>,
    spec: Field<Map<Spec<'a>>>,
    status: Field<Map<Status<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    #[serde(rename = "podCIDR")]
    pod_cidr: Field<Text<'a>>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Field<Vec<Field<Text<'a>>>>,
    taints: Field<Vec<Field<Map<Taint<'a>>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Taint<'a> {
    key: Field<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Status<'a> {
    addresses: Field<Vec<Field<Map<Address<'a>>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Address<'a> {
    #[serde(rename = "type")]
    kind: Field<Text<'a>>,
    address: Field<Text<'a>>,
}

impl<'a> Wire<'a> for WireNode<'a> {
    const SCOPE: Scope = Scope::Cluster;

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_given().map(|metadata| &metadata.0)
    }

    fn fold(self, names: &mut Interner) -> Decoded {
        let metadata = self.metadata.given().unwrap_or_default().0;
        let name = match metadata.identity(Self::SCOPE, names) {
            Ok(name) => name.name,
            Err(error) => return Decoded::nameless(&metadata, error),
        };
        let spec = self.spec.given().unwrap_or_default().0;
        let status = self.status.given().unwrap_or_default().0;
        let zone = metadata.labels().and_then(|labels| labels.zone.as_given());
        let deleted = metadata.deletion_timestamp.as_given().is_some();
        let created = metadata.creation_timestamp.as_given().and_then(|time| text::time(time).ok());
        let internal = addresses(&status, "InternalIP");
        Decoded::Object(Object::Node(Box::new(Node {
            name,
            uid: metadata.uid.as_given().map_or("", |uid| uid).into(),
            created: created.map_or(0, |time| time.as_second()),
            addresses: [&internal[..], &addresses(&status, "ExternalIP")].concat().into(),
            internal_addresses: internal,
            zone: zone.filter(|zone| !zone.is_empty()).map(|zone| names.name(zone)),
            leaving: deleted || spec.is_to_be_deleted(),
            pod_network: metadata.annotations().map(|notes| pod_network(notes, names)).unwrap_or_default(),
            pod_cidrs: spec.pod_cidrs(),
        })))
    }
}

/// The same on all nodes, or nearly.
fn pod_network(annotations: &Annotations<'_>, names: &mut Interner) -> PodNetworkNotes {
    let mut text = |field: &Field<Text<'_>>| field.as_given().map(|text| names.name(text));
    PodNetworkNotes {
        kind: text(&annotations.pod_network),
        interface: text(&annotations.pod_network_interface),
        mtu: text(&annotations.pod_network_mtu),
    }
}

/// Host names stand here too, so what is no address is passed over in silence.
fn addresses(status: &Status<'_>, kind: &str) -> Box<[IpAddr]> {
    let list = status.addresses.as_given().map_or(&[][..], |list| list);
    list.iter()
        .filter_map(Field::as_given)
        .filter(|Map(address)| address.kind.as_given().is_some_and(|given| given == kind))
        .filter_map(|Map(address)| text::address(address.address.as_given()?).ok())
        .collect()
}

impl Spec<'_> {
    fn is_to_be_deleted(&self) -> bool {
        let taints = self.taints.as_given().map_or(&[][..], |taints| taints);
        taints
            .iter()
            .filter_map(Field::as_given)
            .any(|Map(taint)| taint.key.as_given().is_some_and(|key| key == TO_BE_DELETED))
    }

    fn pod_cidrs(self) -> Box<[IpNet]> {
        let list = self.pod_cidrs.given().unwrap_or_default();
        let mut written: Vec<_> = list.into_iter().filter_map(Field::given).collect();
        if written.is_empty() {
            written.extend(self.pod_cidr.given());
        }
        written.iter().filter_map(|network| text::network(network).ok()).collect()
    }
}
