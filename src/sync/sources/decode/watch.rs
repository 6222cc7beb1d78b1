//! What the API server sends: pages of a list, and lines of a watch.

use serde::Deserialize;

use crate::sync::objects::Kind;

use super::interner::Interner;
use super::lenient::{Field, Map, Text};
use super::metadata::Metadata;
use super::node::WireNode;
use super::service::WireService;
use super::service_cidr::WireServiceCidr;
use super::slice::WireSlice;
use super::{Decoded, Wire, fold};

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    pub resource_version: Option<String>,
    /// Asks for the next page.
    pub next: Option<String>,
    pub items: Vec<Decoded>,
}

/// One line of a watch.
#[derive(Debug)]
pub enum Line {
    Item(Item),
    Bookmark {
        resource_version: Option<String>,
        /// All objects that existed when the watch began have been sent (KEP-3157).
        initial_events_end: bool,
    },
    Error(WatchStatus),
}

#[derive(Debug)]
pub struct Item {
    pub change: Change,
    pub resource_version: Option<String>,
    pub decoded: Decoded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Applied,
    Deleted,
}

/// The error that ends a watch, usually 410: the version to go on from is no longer known.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchStatus {
    pub code: u16,
    pub reason: String,
    pub message: String,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, W: Deserialize<'de>"))]
struct WireLine<'a, W> {
    #[serde(rename = "type", borrow)]
    change: Text<'a>,
    object: W,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, W: Deserialize<'de>"))]
struct WirePage<'a, W> {
    #[serde(borrow)]
    metadata: ListMetadata<'a>,
    /// null where there are none.
    #[serde(default)]
    items: Option<Vec<Field<Map<W>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ListMetadata<'a> {
    #[serde(default)]
    resource_version: Field<Text<'a>>,
    #[serde(default, rename = "continue")]
    next: Field<Text<'a>>,
}

pub fn page(kind: Kind, body: &str, names: &mut Interner) -> Result<Page, serde_json::Error> {
    match kind {
        Kind::Service => read_page::<WireService<'_>>(body, names),
        Kind::EndpointSlice => read_page::<WireSlice<'_>>(body, names),
        Kind::Node => read_page::<WireNode<'_>>(body, names),
        Kind::ServiceCidr => read_page::<WireServiceCidr<'_>>(body, names),
    }
}

pub fn watch_line(kind: Kind, line: &[u8], names: &mut Interner) -> Result<Line, serde_json::Error> {
    match kind {
        Kind::Service => read_line::<WireService<'_>>(line, names),
        Kind::EndpointSlice => read_line::<WireSlice<'_>>(line, names),
        Kind::Node => read_line::<WireNode<'_>>(line, names),
        Kind::ServiceCidr => read_line::<WireServiceCidr<'_>>(line, names),
    }
}

fn read_page<'a, W: Wire<'a>>(body: &'a str, names: &mut Interner) -> Result<Page, serde_json::Error> {
    let page: WirePage<'a, W> = serde_json::from_str(body)?;
    Ok(Page {
        resource_version: non_empty(page.metadata.resource_version),
        next: non_empty(page.metadata.next),
        items: page.items.unwrap_or_default().into_iter().map(|item| fold(item, names)).collect(),
    })
}

fn read_line<'a, W: Wire<'a>>(line: &'a [u8], names: &mut Interner) -> Result<Line, serde_json::Error> {
    let wire: WireLine<'a, Field<Map<W>>> = serde_json::from_slice(line)?;
    let change = match &*wire.change {
        "ADDED" | "MODIFIED" => Change::Applied,
        "DELETED" => Change::Deleted,
        "BOOKMARK" => return Ok(bookmark(wire.object)),
        _ => {
            let error: WireLine<'a, WatchStatus> = serde_json::from_slice(line)?;
            return Ok(Line::Error(error.object));
        }
    };
    let resource_version = metadata(&wire.object).and_then(|metadata| metadata.resource_version());
    let resource_version = resource_version.map(str::to_owned);
    Ok(Line::Item(Item { change, resource_version, decoded: fold(wire.object, names) }))
}

fn bookmark<'a, W: Wire<'a>>(object: Field<Map<W>>) -> Line {
    let metadata = metadata(&object);
    let annotations = metadata.and_then(Metadata::annotations);
    Line::Bookmark {
        resource_version: metadata.and_then(Metadata::resource_version).map(str::to_owned),
        initial_events_end: annotations
            .and_then(|annotations| annotations.initial_events_end.as_given())
            .is_some_and(|end| end == "true"),
    }
}

fn metadata<'f, 'a, W: Wire<'a> + 'f>(object: &'f Field<Map<W>>) -> Option<&'f Metadata<'a>> {
    object.as_given().and_then(|Map(wire)| wire.metadata())
}

fn non_empty(field: Field<Text<'_>>) -> Option<String> {
    field.given().filter(|text| !text.is_empty()).map(Text::into_owned)
}
