//! networking.k8s.io/v1 ServiceCIDR.

use ipnet::IpNet;
use serde::Deserialize;

use crate::sync::objects::{Object, ServiceCidr};

use super::interner::Interner;
use super::lenient::{Field, Map, Text};
use super::metadata::{Metadata, Scope};
use super::{Decoded, Wire, text};

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct WireServiceCidr<'a> {
    metadata: Field<Map<Metadata<'a>>>,
    spec: Field<Map<Spec<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    cidrs: Field<Vec<Field<Text<'a>>>>,
}

impl<'a> Wire<'a> for WireServiceCidr<'a> {
    const SCOPE: Scope = Scope::Cluster;

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_given().map(|metadata| &metadata.0)
    }

    /// A network that cannot be read spoils the object: what it was before may still be right, and a part of it is not.
    fn fold(self, names: &mut Interner) -> Decoded {
        let metadata = self.metadata.given().unwrap_or_default().0;
        let name = match metadata.identity(Self::SCOPE, names) {
            Ok(name) => name,
            Err(error) => return Decoded::nameless(&metadata, error),
        };
        let spec = self.spec.given().unwrap_or_default().0;
        match networks(spec.cidrs) {
            Ok(networks) => {
                Decoded::Object(Object::ServiceCidr(Box::new(ServiceCidr { name: name.name, networks })))
            }
            Err(error) => Decoded::undecodable(name, error),
        }
    }
}

fn networks(cidrs: Field<Vec<Field<Text<'_>>>>) -> Result<Box<[IpNet]>, String> {
    let written = match cidrs {
        Field::Given(written) => written,
        Field::Absent => return Err("spec.cidrs: is missing".to_owned()),
        Field::Wrong(found) => return Err(format!("spec.cidrs: {found} is not a list")),
    };
    let read = |(at, field): (usize, Field<Text<'_>>)| {
        let network = match &field {
            Field::Given(network) => text::network(network),
            Field::Absent => Err("is missing".to_owned()),
            Field::Wrong(found) => Err(format!("{found} is not a string")),
        };
        network.map_err(|error| format!("spec.cidrs[{at}]: {error}"))
    };
    written.into_iter().enumerate().map(read).collect()
}
