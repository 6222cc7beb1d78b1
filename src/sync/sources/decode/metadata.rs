//! The part that all objects have.

use std::sync::Arc;

use serde::Deserialize;

use crate::model::ServiceName;

use super::interner::Interner;
use super::lenient::{Field, Map, Text, quoted};
use super::text;

/// `metadata`, without the managedFields that are often half of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct Metadata<'a> {
    pub name: Field<Text<'a>>,
    pub namespace: Field<Text<'a>>,
    pub uid: Field<Text<'a>>,
    pub resource_version: Field<Text<'a>>,
    pub creation_timestamp: Field<Text<'a>>,
    pub deletion_timestamp: Field<Text<'a>>,
    pub labels: Field<Map<Labels<'a>>>,
    pub annotations: Field<Map<Annotations<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Labels<'a> {
    #[serde(rename = "kubernetes.io/service-name")]
    pub service: Field<Text<'a>>,
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    pub service_proxy: Field<Text<'a>>,
    #[serde(rename = "service.kubernetes.io/headless")]
    pub headless: Field<Text<'a>>,
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub zone: Field<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Annotations<'a> {
    #[serde(rename = "ferrovia.dev/scheduler")]
    pub scheduler: Field<Text<'a>>,
    #[serde(rename = "ferrovia.dev/scheduler-flags")]
    pub scheduler_flags: Field<Text<'a>>,
    #[serde(rename = "ferrovia.dev/weight")]
    pub weight: Field<Text<'a>>,
    #[serde(rename = "ferrovia.dev/pod-network")]
    pub pod_network: Field<Text<'a>>,
    #[serde(rename = "ferrovia.dev/pod-network-interface")]
    pub pod_network_interface: Field<Text<'a>>,
    #[serde(rename = "ferrovia.dev/pod-network-mtu")]
    pub pod_network_mtu: Field<Text<'a>>,
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub triggered: Field<Text<'a>>,
    #[serde(rename = "k8s.io/initial-events-end")]
    pub initial_events_end: Field<Text<'a>>,
}

/// Where objects of a kind live, and what names they can have.
#[derive(Clone, Copy)]
pub enum Scope {
    /// A namespace, and names that are DNS labels.
    Label,
    /// A namespace, and names that are DNS subdomains.
    Subdomain,
    Cluster,
}

impl Metadata<'_> {
    /// The key of the object, or what keeps it from having one.
    pub fn identity(&self, scope: Scope, names: &mut Interner) -> Result<ServiceName, String> {
        let name = match &self.name {
            Field::Given(name) => name,
            Field::Absent => return Err("metadata.name: is missing".to_owned()),
            Field::Wrong(found) => return Err(format!("metadata.name: {found} is not a string")),
        };
        let checked = match scope {
            Scope::Label => text::label(name),
            Scope::Subdomain | Scope::Cluster => text::subdomain(name),
        };
        checked.map_err(|message| format!("metadata.name: {message}"))?;
        let name = match scope {
            // EndpointSlices name their Service, endpoints their node: these are shared, slice names are not.
            Scope::Label | Scope::Cluster => names.name(name),
            Scope::Subdomain => Arc::from(&**name),
        };
        Ok(ServiceName { namespace: self.namespace(scope, names)?, name })
    }

    fn namespace(&self, scope: Scope, names: &mut Interner) -> Result<Arc<str>, String> {
        match (&self.namespace, scope) {
            (_, Scope::Cluster) => Ok(names.name("")),
            (Field::Absent, _) => Ok(names.name("default")),
            (Field::Given(namespace), _) => {
                text::label(namespace).map_err(|message| format!("metadata.namespace: {message}"))?;
                Ok(names.name(namespace))
            }
            (Field::Wrong(found), _) => Err(format!("metadata.namespace: {found} is not a string")),
        }
    }

    /// What to call the object in a message about its identity.
    pub fn described(&self) -> String {
        match (&self.namespace, &self.name) {
            (Field::Given(namespace), Field::Given(name)) => {
                format!("{}/{}", quoted(namespace), quoted(name))
            }
            (_, Field::Given(name)) => quoted(name),
            (Field::Given(namespace), _) => format!("one in namespace {}", quoted(namespace)),
            _ => "one without name".to_owned(),
        }
    }

    pub fn labels(&self) -> Option<&Labels<'_>> {
        self.labels.as_given().map(|labels| &labels.0)
    }

    pub fn annotations(&self) -> Option<&Annotations<'_>> {
        self.annotations.as_given().map(|annotations| &annotations.0)
    }

    pub fn resource_version(&self) -> Option<&str> {
        self.resource_version.as_given().map(|version| &**version).filter(|version| !version.is_empty())
    }
}
