//! Kubernetes objects as written -> as the rest of the program knows them.
//!
//! Only the fields that a proxy needs are read, in one pass and tolerantly: a field that makes no sense becomes a
//! [`FieldProblem`](crate::sync::objects::FieldProblem), and the rest of the object counts. What an API server fills in
//! by default is filled in here too, for manifests.

mod interner;
mod lenient;
mod metadata;
mod node;
mod problems;
mod service;
mod service_cidr;
mod slice;
mod text;
mod watch;

#[cfg(test)]
mod tests;

pub use interner::Interner;
pub use watch::{Change, Item, Line, Page, WatchStatus, page, watch_line};

use serde::de::{Deserialize, Deserializer};

use crate::model::{Protocol, ServiceName};
use crate::sync::objects::{Event, Kind, Object};

use lenient::{Field, Map, Text, quoted};
use metadata::{Metadata, Scope};
use node::WireNode;
use problems::Problems;
use service::WireService;
use service_cidr::WireServiceCidr;
use slice::WireSlice;

/// What an object turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Object(Object),
    /// There, but not for a proxy.
    Ignored(ServiceName),
    Undecodable {
        name: Option<ServiceName>,
        error: String,
    },
}

impl Decoded {
    fn undecodable(name: ServiceName, error: impl Into<String>) -> Decoded {
        Decoded::Undecodable { name: Some(name), error: error.into() }
    }

    fn nameless(metadata: &Metadata<'_>, error: String) -> Decoded {
        Decoded::Undecodable { name: None, error: format!("{}: {error}", metadata.described()) }
    }

    pub fn name(&self) -> Option<ServiceName> {
        match self {
            Decoded::Object(object) => Some(name_of(object)),
            Decoded::Ignored(name) => Some(name.clone()),
            Decoded::Undecodable { name, .. } => name.clone(),
        }
    }

    /// The event that tells of this object's being there.
    pub fn into_event(self, kind: Kind) -> Event {
        match self {
            Decoded::Object(object) => Event::Applied(object),
            Decoded::Ignored(name) => Event::Deleted(kind, name),
            Decoded::Undecodable { name, error } => Event::Undecodable { kind, name, error },
        }
    }
}

/// The name of what is in no namespace stands in the empty one.
pub fn name_of(object: &Object) -> ServiceName {
    match object {
        Object::Service(service) => service.name.clone(),
        Object::EndpointSlice(slice) => slice.name.clone(),
        Object::Node(node) => ServiceName { namespace: "".into(), name: node.name.clone() },
        Object::ServiceCidr(cidr) => ServiceName { namespace: "".into(), name: cidr.name.clone() },
    }
}

/// Reads one object of a kind. Fails only where the input is not of the format at all.
pub fn object<'de, D: Deserializer<'de>>(
    kind: Kind,
    input: D,
    names: &mut Interner,
) -> Result<Decoded, D::Error> {
    match kind {
        Kind::Service => read::<WireService<'de>, D>(input, names),
        Kind::EndpointSlice => read::<WireSlice<'de>, D>(input, names),
        Kind::Node => read::<WireNode<'de>, D>(input, names),
        Kind::ServiceCidr => read::<WireServiceCidr<'de>, D>(input, names),
    }
}

fn read<'de, W: Wire<'de>, D: Deserializer<'de>>(
    input: D,
    names: &mut Interner,
) -> Result<Decoded, D::Error> {
    Ok(fold(Field::<Map<W>>::deserialize(input)?, names))
}

/// The fields of one kind of object.
trait Wire<'a>: Deserialize<'a> + Default {
    const SCOPE: Scope;

    fn metadata(&self) -> Option<&Metadata<'a>>;
    fn fold(self, names: &mut Interner) -> Decoded;
}

fn fold<'a, W: Wire<'a>>(field: Field<Map<W>>, names: &mut Interner) -> Decoded {
    match field {
        Field::Given(Map(wire)) => wire.fold(names),
        Field::Absent => Decoded::Undecodable { name: None, error: "null is not an object".to_owned() },
        Field::Wrong(found) => {
            Decoded::Undecodable { name: None, error: format!("{found} is not an object") }
        }
    }
}

fn protocol(path: &str, field: Field<Text<'_>>, problems: &mut Problems) -> Option<Protocol> {
    let wrong = matches!(field, Field::Wrong(_));
    match problems.take(path, field).as_deref() {
        None if wrong => None,
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            problems.add(path, format!("{} is not TCP, UDP or SCTP", quoted(other)));
            None
        }
    }
}
