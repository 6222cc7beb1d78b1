//! Elements of sets and maps: `nft add element`, `nft delete element`, `nft list set`, `nft get element`.

use std::fmt;
use std::time::Duration;

use super::datatype::Type;
use super::message::{self, Kind, NESTED, NEW};
use super::set::Set;
use super::statement::Seconds;
use super::table::{Name, Table};
use super::userdata::{self, Comment};
use super::value::Value;
use super::verdict::Verdict;
use super::wire::Fields;
use crate::kernel::netlink::{Attributes, Request};

/// `NFTA_SET_ELEM_LIST_*`
const TABLE: u16 = 1;
const SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`
const ELEMENT: u16 = 1;
/// `NFTA_SET_ELEM_*`
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const USERDATA: u16 = 6;
const EXPRESSION: u16 = 7;
const OBJECT: u16 = 9;
const KEY_END: u16 = 10;
/// `NFTA_DATA_*`
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;
/// Attributes cannot be longer than 64 KiB, and a list of elements is one.
const LIST_LIMIT: usize = 60_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Value,
    /// The last value of an interval that begins with `key`.
    pub last: Option<Value>,
    pub data: ElementValue,
    /// How long it stays in all, if it does not as long as the set says.
    pub timeout: Option<Duration>,
    pub comment: Option<Comment>,
    /// What is left of its time. Read only.
    pub expires: Option<Duration>,
    /// What it has counted. Read only.
    pub count: Option<Count>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementValue {
    Nothing,
    Value(Value),
    Verdict(Verdict),
    Counter(Name),
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

impl Count {
    /// `NFTA_COUNTER_*`
    pub(super) fn parse(fields: &Fields<'_>) -> Option<Self> {
        Some(Count { bytes: fields.u64(1)?, packets: fields.u64(2)? })
    }
}

impl Element {
    pub fn of_set(key: Value) -> Self {
        let data = ElementValue::Nothing;
        Element { key, last: None, data, timeout: None, comment: None, expires: None, count: None }
    }

    pub fn of_map(key: Value, data: Value) -> Self {
        Element { data: ElementValue::Value(data), ..Element::of_set(key) }
    }

    pub fn of_verdict_map(key: Value, verdict: Verdict) -> Self {
        Element { data: ElementValue::Verdict(verdict), ..Element::of_set(key) }
    }

    /// All values from `first` to `last`.
    pub fn interval(first: Value, last: Value) -> Self {
        Element { last: Some(last), ..Element::of_set(first) }
    }

    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Element { comment: Some(Comment::new(comment)), ..self }
    }
}

/// `10.96.0.10 . tcp . 80 comment "default/web:http" : goto pick-3`
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.write_interval(f, self.last.as_ref().unwrap_or(&self.key))?;
        self.timeout.map_or(Ok(()), |timeout| write!(f, " timeout {}", Seconds(timeout)))?;
        self.expires.map_or(Ok(()), |expires| write!(f, " expires {}", Seconds(expires)))?;
        self.comment.as_ref().map_or(Ok(()), |comment| write!(f, " {comment}"))?;
        match &self.data {
            ElementValue::Nothing => Ok(()),
            ElementValue::Value(value) => write!(f, " : {value}"),
            ElementValue::Verdict(verdict) => write!(f, " : {verdict}"),
            ElementValue::Counter(name) => write!(f, " : \"{name}\""),
        }
    }
}

/// Elements of one set in the form in which the kernel takes them: 100,000 of them are one piece of memory.
#[derive(Clone, Debug)]
pub struct Elements {
    list: Request,
    count: usize,
    key: Option<Type>,
    data: Option<Type>,
}

impl Default for Elements {
    fn default() -> Self {
        Elements { list: Request::bare(), count: 0, key: None, data: None }
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        self.list.as_bytes() == other.list.as_bytes() && (self.key, self.data) == (other.key, other.data)
    }
}

impl Elements {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn push(&mut self, element: &Element) {
        self.key.get_or_insert(element.key.kind());
        if let ElementValue::Value(value) = &element.data {
            self.data.get_or_insert(value.kind());
        }
        self.count += 1;
        let concatenated = element.key.kind().is_concatenated();
        self.list.nested(ELEMENT | NESTED, |to| put(to, element, concatenated));
        if let Some(end) = element.last.filter(|_| !concatenated).and_then(Value::successor) {
            self.list.nested(ELEMENT | NESTED, |to| {
                to.attribute(FLAGS, &INTERVAL_END.to_be_bytes());
                put_value(to, KEY, &end);
            });
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Element> {
        let mut entries = self.entries().peekable();
        std::iter::from_fn(move || {
            let mut entry = entries.next()?;
            if let Some(end) = entries.next_if(|next| next.is_end) {
                entry.element.last = end.element.key.predecessor();
            }
            Some(entry.element)
        })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        Attributes(self.list.as_bytes()).filter_map(|(_, value)| self.parse(value))
    }

    /// One entry, as in this list or in a message made of it.
    pub(super) fn parse(&self, value: &[u8]) -> Option<Entry> {
        parse_entry(value, self.key?, self.data)
    }

    /// In pieces that fit into a message each.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.list.as_bytes();
        std::iter::from_fn(move || {
            let mut end = 0;
            while let Some(length) = entry_length(&rest[end..])
                && (end == 0 || end + length <= LIST_LIMIT)
            {
                end += length;
            }
            let (piece, after) = rest.split_at(end);
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl<'a> FromIterator<&'a Element> for Elements {
    fn from_iter<T: IntoIterator<Item = &'a Element>>(elements: T) -> Self {
        let mut list = Elements::default();
        elements.into_iter().for_each(|element| list.push(element));
        list
    }
}

/// With its header and padding. The list is well-formed: it was written here.
fn entry_length(list: &[u8]) -> Option<usize> {
    let length = u16::from_ne_bytes(list.get(..2)?.try_into().ok()?);
    Some(usize::from(length).next_multiple_of(4).min(list.len()))
}

fn put_value(to: &mut Request, kind: u16, value: &Value) {
    to.nested(kind | NESTED, |to| {
        to.attribute(VALUE, value.as_bytes());
    });
}

fn put(to: &mut Request, element: &Element, concatenated: bool) {
    if let Some(timeout) = element.timeout {
        to.attribute(TIMEOUT, &(timeout.as_millis() as u64).to_be_bytes());
    }
    put_value(to, KEY, &element.key);
    if let Some(last) = element.last.filter(|_| concatenated) {
        put_value(to, KEY_END, &last);
    }
    match &element.data {
        ElementValue::Nothing => {}
        ElementValue::Value(value) => put_value(to, DATA, value),
        ElementValue::Verdict(verdict) => {
            to.nested(DATA | NESTED, |to| verdict.put(to, VERDICT));
        }
        ElementValue::Counter(name) => {
            to.text(OBJECT, name);
        }
    }
    if let Some(comment) = &element.comment {
        to.attribute(USERDATA, &userdata::with_comment(comment));
    }
}

/// One entry of a list of elements. The end of an interval is an entry of its own.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub element: Element,
    pub is_end: bool,
}

fn parse_entry(value: &[u8], key: Type, data: Option<Type>) -> Option<Entry> {
    let fields = Fields::of(value);
    let bytes = |kind| fields.nested(kind)?.get(VALUE);
    let count = fields.nested(EXPRESSION).and_then(|counter| Count::parse(&counter.nested(2)?));
    let element = Element {
        key: Value::from_bytes(key, bytes(KEY)?)?,
        last: bytes(KEY_END).and_then(|bytes| Value::from_bytes(key, bytes)),
        data: parse_data(&fields, data),
        timeout: fields.u64(TIMEOUT).map(Duration::from_millis),
        comment: fields.get(USERDATA).and_then(userdata::comment),
        expires: fields.u64(EXPIRATION).map(Duration::from_millis),
        count,
    };
    let is_end = fields.u32(FLAGS).unwrap_or_default() & INTERVAL_END != 0;
    Some(Entry { element, is_end })
}

fn parse_data(fields: &Fields<'_>, kind: Option<Type>) -> ElementValue {
    if let Some(name) = fields.text(OBJECT) {
        return ElementValue::Counter(name.into());
    }
    let Some(data) = fields.nested(DATA) else { return ElementValue::Nothing };
    if let Some(verdict) = data.get(VERDICT).and_then(Verdict::parse) {
        return ElementValue::Verdict(verdict);
    }
    let value = data.get(VALUE).and_then(|bytes| Value::from_bytes(kind.unwrap_or(Type::of(&[])), bytes));
    value.map_or(ElementValue::Nothing, ElementValue::Value)
}

fn of_set(kind: Kind, table: &Table, set: &str, flags: i32) -> Request {
    let mut request = message::request(kind, table.family, flags);
    request.text(TABLE, &table.name).text(SET, set);
    request
}

/// `nft add element FAMILY TABLE SET { ... }`
pub(super) fn add(table: &Table, set: &str, piece: &[u8]) -> Request {
    let mut request = of_set(Kind::NewElements, table, set, NEW);
    request.attribute(ELEMENTS | NESTED, piece);
    request
}

/// `nft delete element FAMILY TABLE SET { ... }`
pub(super) fn delete(table: &Table, set: &str, piece: &[u8]) -> Request {
    let mut request = of_set(Kind::DeleteElements, table, set, 0);
    request.attribute(ELEMENTS | NESTED, piece);
    request
}

/// `nft flush set FAMILY TABLE SET`
pub(super) fn flush(table: &Table, set: &str) -> Request {
    of_set(Kind::DeleteElements, table, set, 0)
}

/// `nft list set FAMILY TABLE SET`
pub(super) fn list(table: &Table, set: &str) -> Request {
    of_set(Kind::GetElements, table, set, 0)
}

/// `nft get element FAMILY TABLE SET { KEY }`
pub(super) fn get(table: &Table, set: &str, key: &Value) -> Request {
    let mut elements = Elements::default();
    elements.push(&Element::of_set(*key));
    let mut request = of_set(Kind::GetElements, table, set, 0);
    request.attribute(ELEMENTS | NESTED, elements.list.as_bytes());
    request
}

/// The entries in a message about elements of a set.
pub(super) fn parse<'a>(payload: &'a [u8], set: &Set) -> impl Iterator<Item = Entry> + use<'a> {
    let (key, data) = (set.key.kind(), set.data_type());
    let list = Fields::after_header(payload).get(ELEMENTS).unwrap_or_default();
    Attributes(list).filter_map(move |(_, value)| parse_entry(value, key, data))
}

/// The set in a message about elements.
pub(super) fn set_of(payload: &[u8]) -> Option<Name> {
    Fields::after_header(payload).text(SET).map(Name::from)
}

/// Intervals from their ends. The kernel gives them out in an order of its own.
pub(super) fn join(mut entries: Vec<Entry>) -> Vec<Element> {
    entries.sort_by(|a, b| (a.element.key.as_bytes(), !a.is_end).cmp(&(b.element.key.as_bytes(), !b.is_end)));
    let mut elements: Vec<Element> = Vec::with_capacity(entries.len() / 2);
    let mut open = false;
    for Entry { element, is_end } in entries {
        match (is_end, elements.last_mut()) {
            (true, Some(start)) if open => start.last = element.key.predecessor(),
            (true, _) => {}
            (false, _) => elements.push(element),
        }
        open = !is_end;
    }
    elements
}
