//! Sets and maps: `nft add set`, `nft add map`, `nft delete set`, `nft list sets`.

use std::fmt;
use std::time::Duration;

use super::datatype::{Datatype, Type};
use super::expression::{self, Expression};
use super::message::{self, Kind, NESTED, NEW};
use super::selector::{Concatenation, Selector, type_of as type_of_selectors};
use super::statement::Seconds;
use super::table::{Name, Table};
use super::type_of;
use super::userdata::{self, Comment};
use super::wire::Fields;
use crate::kernel::netlink::Request;

const TABLE: u16 = 1;
pub(super) const NAME: u16 = 2;
const FLAGS: u16 = 3;
const KEY_TYPE: u16 = 4;
const KEY_LENGTH: u16 = 5;
const DATA_TYPE: u16 = 6;
const DATA_LENGTH: u16 = 7;
const DESCRIPTION: u16 = 9;
const ID: u16 = 10;
const TIMEOUT: u16 = 11;
const USERDATA: u16 = 13;
const OBJECT_TYPE: u16 = 15;
const EXPRESSION: u16 = 17;

const DESCRIPTION_SIZE: u16 = 1;
const DESCRIPTION_FIELDS: u16 = 2;
const FIELD: u16 = 1;
const FIELD_LENGTH: u16 = 1;

const FLAG_INTERVAL: u32 = 0x4;
const FLAG_MAP: u32 = 0x8;
const FLAG_TIMEOUT: u32 = 0x10;
/// Packets may change it.
const FLAG_DYNAMIC: u32 = 0x20;
const FLAG_OBJECT: u32 = 0x40;
const FLAG_CONCATENATION: u32 = 0x80;

/// `NFT_DATA_VERDICT`
const VERDICT: u32 = 0xffff_ff00;
const OBJECT_COUNTER: u32 = 1;

/// In the user data, `NFTNL_UDATA_SET_*`.
const NOTE_KEY_BYTE_ORDER: u8 = 0;
const NOTE_DATA_BYTE_ORDER: u8 = 1;
const NOTE_KEY: u8 = 3;
const NOTE_DATA: u8 = 4;
const NOTE_DATA_INTERVAL: u8 = 6;
const NOTE_COMMENT: u8 = 7;

/// What a key or data consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `type ipv4_addr . inet_proto . inet_service`
    Types(Type),
    /// `typeof ip daddr . meta l4proto . th dport . numgen random mod 3`. The only way to have numbers in a key.
    Selectors(Vec<Selector>),
}

impl Shape {
    pub fn types(fields: &[Datatype]) -> Self {
        Shape::Types(Type::of(fields))
    }

    pub fn kind(&self) -> Type {
        match self {
            Shape::Types(kind) => *kind,
            Shape::Selectors(selectors) => type_of_selectors(selectors),
        }
    }

    /// The field lengths in bytes.
    fn byte_order(&self) -> u32 {
        let mut fields = self.kind().fields();
        match (fields.next(), fields.next()) {
            (Some(only), None) => only.byte_order(),
            _ => 0,
        }
    }

    fn note(&self, bytes: &mut Vec<u8>, kind: u8) {
        match self {
            Shape::Selectors(selectors) => type_of::put(bytes, kind, selectors),
            Shape::Types(fields) if fields.is_concatenated() => type_of::put_untold(bytes, kind),
            Shape::Types(_) => {}
        }
    }

    fn parse(kind: u32, note: Option<&[u8]>) -> Self {
        let selectors =
            note.and_then(type_of::parse).filter(|found| type_of_selectors(found).number() == kind);
        selectors.map_or_else(|| Shape::Types(Type::from_number(kind)), Shape::Selectors)
    }
}

/// What belongs to each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// A set.
    Nothing,
    Verdict,
    Value(Shape),
    /// A counter with a name.
    Counter,
    /// Some object of another kind.
    OtherObject(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: Name,
    pub key: Shape,
    pub data: SetData,
    /// Keys are intervals.
    pub intervals: bool,
    /// Packets may add elements.
    pub dynamic: bool,
    /// How long an element stays, unless it says otherwise. Without it elements stay for good.
    pub timeout: Option<Duration>,
    /// At most so many elements. Dynamic sets need it; nft takes 65535.
    pub size: Option<u32>,
    /// Elements count the packets that match them.
    pub counted: bool,
    pub comment: Option<Comment>,
}

impl Set {
    pub fn new(name: &str, key: Shape) -> Self {
        Set {
            name: name.into(),
            key,
            data: SetData::Nothing,
            intervals: false,
            dynamic: false,
            timeout: None,
            size: None,
            counted: false,
            comment: None,
        }
    }

    pub fn map(name: &str, key: Shape, data: SetData) -> Self {
        Set { data, ..Set::new(name, key) }
    }

    #[must_use]
    pub fn intervals(self) -> Self {
        Set { intervals: true, ..self }
    }

    /// Elements come from packets and go after `timeout`.
    #[must_use]
    pub fn dynamic(self, timeout: Duration, size: u32) -> Self {
        Set { dynamic: true, timeout: Some(timeout), size: Some(size), ..self }
    }

    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Set { comment: Some(Comment::new(comment)), ..self }
    }

    pub(super) fn is_map(&self) -> bool {
        self.data != SetData::Nothing
    }

    /// Intervals as pairs of elements, start and end. Those of concatenations are one element each.
    pub(super) fn has_end_elements(&self) -> bool {
        self.intervals && !self.key.kind().is_concatenated()
    }

    pub(super) fn data_type(&self) -> Option<Type> {
        match &self.data {
            SetData::Value(shape) => Some(shape.kind()),
            _ => None,
        }
    }

    fn flags(&self) -> u32 {
        let flag = |set, flag| if set { flag } else { 0 };
        let object = matches!(self.data, SetData::Counter | SetData::OtherObject(_));
        flag(self.intervals, FLAG_INTERVAL)
            | flag(self.intervals && self.key.kind().is_concatenated(), FLAG_CONCATENATION)
            | flag(self.is_map() && !object, FLAG_MAP)
            | flag(object, FLAG_OBJECT)
            | flag(self.timeout.is_some(), FLAG_TIMEOUT)
            | flag(self.dynamic, FLAG_DYNAMIC)
    }

    /// What nft notes down for itself.
    fn userdata(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        userdata::put(&mut bytes, NOTE_KEY_BYTE_ORDER, &self.key.byte_order().to_ne_bytes());
        match &self.data {
            SetData::Verdict => userdata::put(&mut bytes, NOTE_DATA_BYTE_ORDER, &[0; 4]),
            SetData::Value(shape) => {
                userdata::put(&mut bytes, NOTE_DATA_BYTE_ORDER, &shape.byte_order().to_ne_bytes());
            }
            _ => {}
        }
        self.key.note(&mut bytes, NOTE_KEY);
        if let SetData::Value(shape) = &self.data {
            shape.note(&mut bytes, NOTE_DATA);
        }
        if self.is_map() {
            userdata::put(&mut bytes, NOTE_DATA_INTERVAL, &[0; 4]);
        }
        if let Some(comment) = &self.comment {
            userdata::put_text(&mut bytes, NOTE_COMMENT, comment.as_str());
        }
        bytes
    }
}

/// `nft add set FAMILY TABLE NAME { ... }`, `nft add map ...`. The kernel wants an id for each set of a transaction.
pub(super) fn add(table: &Table, set: &Set, id: u32) -> Request {
    let mut request = message::request(Kind::NewSet, table.family, NEW);
    let kind = set.key.kind();
    request
        .text(TABLE, &table.name)
        .text(NAME, &set.name)
        .attribute(FLAGS, &set.flags().to_be_bytes())
        .attribute(KEY_TYPE, &kind.number().to_be_bytes())
        .attribute(KEY_LENGTH, &(kind.length() as u32).to_be_bytes());
    put_data(&mut request, &set.data);
    request.attribute(ID, &id.to_be_bytes());
    put_description(&mut request, set);
    if let Some(timeout) = set.timeout {
        request.attribute(TIMEOUT, &(timeout.as_millis() as u64).to_be_bytes());
    }
    request.attribute(USERDATA, &set.userdata());
    if set.counted {
        expression::put(&mut request, EXPRESSION, &Expression::Counter);
    }
    request
}

fn put_data(request: &mut Request, data: &SetData) {
    let (number, length) = match data {
        SetData::Nothing => return,
        SetData::Verdict => (VERDICT, 0),
        SetData::Value(shape) => (shape.kind().number(), shape.kind().length() as u32),
        SetData::Counter | SetData::OtherObject(_) => {
            let object = if let SetData::OtherObject(number) = data { *number } else { OBJECT_COUNTER };
            request.attribute(OBJECT_TYPE, &object.to_be_bytes());
            return;
        }
    };
    request.attribute(DATA_TYPE, &number.to_be_bytes()).attribute(DATA_LENGTH, &length.to_be_bytes());
}

/// The kernel needs the fields of a concatenation only for intervals.
fn put_description(request: &mut Request, set: &Set) {
    let has_fields = set.intervals && set.key.kind().is_concatenated();
    if !has_fields && set.size.is_none() {
        return;
    }
    request.nested(DESCRIPTION | NESTED, |description| {
        if let Some(size) = set.size {
            description.attribute(DESCRIPTION_SIZE, &size.to_be_bytes());
        }
        if has_fields {
            description.nested(DESCRIPTION_FIELDS | NESTED, |fields| put_fields(fields, set.key.kind()));
        }
    });
}

fn put_fields(to: &mut Request, kind: Type) {
    for field in kind.fields() {
        to.nested(FIELD | NESTED, |to| {
            to.attribute(FIELD_LENGTH, &(field.length() as u32).to_be_bytes());
        });
    }
}

/// `nft delete set FAMILY TABLE NAME`
pub(super) fn delete(table: &Table, name: &str) -> Request {
    let mut request = message::request(Kind::DeleteSet, table.family, 0);
    request.text(TABLE, &table.name).text(NAME, name);
    request
}

/// `nft list sets` and `nft list maps`, of one table
pub(super) fn list(table: &Table) -> Request {
    let mut request = message::request(Kind::GetSet, table.family, 0);
    request.text(TABLE, &table.name);
    request
}

pub(super) fn parse(payload: &[u8]) -> Option<(&str, Set)> {
    let fields = Fields::after_header(payload);
    let flags = fields.u32(FLAGS).unwrap_or_default();
    let notes = fields.get(USERDATA).unwrap_or_default();
    let size = fields.nested(DESCRIPTION).and_then(|description| description.u32(DESCRIPTION_SIZE));
    let set = Set {
        name: fields.text(NAME)?.into(),
        key: Shape::parse(fields.u32(KEY_TYPE).unwrap_or_default(), userdata::find(notes, NOTE_KEY)),
        data: parse_data(&fields, notes),
        intervals: flags & FLAG_INTERVAL != 0,
        dynamic: flags & FLAG_DYNAMIC != 0,
        timeout: fields.u64(TIMEOUT).map(Duration::from_millis),
        size,
        counted: fields.get(EXPRESSION).is_some(),
        comment: userdata::text(notes, NOTE_COMMENT).map(Comment::new),
    };
    Some((fields.text(TABLE)?, set))
}

fn parse_data(fields: &Fields<'_>, notes: &[u8]) -> SetData {
    match (fields.u32(DATA_TYPE), fields.u32(OBJECT_TYPE)) {
        (_, Some(OBJECT_COUNTER)) => SetData::Counter,
        (_, Some(other)) => SetData::OtherObject(other),
        (Some(VERDICT), None) => SetData::Verdict,
        (Some(kind), None) => SetData::Value(Shape::parse(kind, userdata::find(notes, NOTE_DATA))),
        (None, None) => SetData::Nothing,
    }
}

/// What follows `add` in nft's syntax, with the table in the middle.
pub(super) fn write_declaration(f: &mut fmt::Formatter<'_>, table: &Table, set: &Set) -> fmt::Result {
    let (kind, name) = (if set.is_map() { "map" } else { "set" }, &set.name);
    write!(f, "{kind} {table} {name} {{ {}", set.key)?;
    match &set.data {
        SetData::Nothing => {}
        SetData::Verdict => f.write_str(" : verdict")?,
        SetData::Value(Shape::Types(kind)) => write!(f, " : {kind}")?,
        SetData::Value(Shape::Selectors(selectors)) => write!(f, " : {}", Concatenation(selectors))?,
        SetData::Counter => f.write_str(" : counter")?,
        SetData::OtherObject(number) => write!(f, " : object-{number}")?,
    }
    f.write_str(" ;")?;
    write_properties(f, set)?;
    f.write_str(" }")
}

fn write_properties(f: &mut fmt::Formatter<'_>, set: &Set) -> fmt::Result {
    let flags = [(set.intervals, "interval"), (set.dynamic, "dynamic"), (set.timeout.is_some(), "timeout")];
    let names: Vec<&str> = flags.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    if !names.is_empty() {
        write!(f, " flags {} ;", names.join(", "))?;
    }
    set.timeout.map_or(Ok(()), |timeout| write!(f, " timeout {} ;", Seconds(timeout)))?;
    set.size.map_or(Ok(()), |size| write!(f, " size {size} ;"))?;
    f.write_str(if set.counted { " counter ;" } else { "" })?;
    set.comment.as_ref().map_or(Ok(()), |comment| write!(f, " {comment} ;"))
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Types(kind) => write!(f, "type {kind}"),
            Shape::Selectors(selectors) => write!(f, "typeof {}", Concatenation(selectors)),
        }
    }
}
