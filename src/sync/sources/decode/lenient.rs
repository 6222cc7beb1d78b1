//! Reading without ever failing: a value of the wrong shape is noted and skipped, and what stands around it is read.
//!
//! The whole of an object is read in one pass, without a tree of values in between. Only text that is no JSON at all
//! makes `Deserialize` fail.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What stands in a field.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    Given(T),
    /// Something else, in words: `"abc"`, `a list`.
    Wrong(Cow<'static, str>),
}

impl<T> Field<T> {
    pub fn given(self) -> Option<T> {
        match self {
            Field::Given(value) => Some(value),
            Field::Absent | Field::Wrong(_) => None,
        }
    }

    pub fn as_given(&self) -> Option<&T> {
        match self {
            Field::Given(value) => Some(value),
            Field::Absent | Field::Wrong(_) => None,
        }
    }
}

/// A type that a field can have. Each says which JSON shapes it takes; all others are [`Field::Wrong`].
pub trait Shape<'de>: Sized {
    /// As in `3 is not a string`.
    const NAME: &'static str;

    fn text(_: Cow<'de, str>) -> Option<Self> {
        None
    }

    fn number(_: i64) -> Option<Self> {
        None
    }

    fn flag(_: bool) -> Option<Self> {
        None
    }

    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Field<Self>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Wrong("a list".into()))
    }

    fn map<A: MapAccess<'de>>(mut entries: A) -> Result<Field<Self>, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Wrong("an object".into()))
    }
}

pub type Text<'a> = Cow<'a, str>;

impl<'de: 'a, 'a> Shape<'de> for Text<'a> {
    const NAME: &'static str = "a string";

    fn text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
}

impl<'de> Shape<'de> for i64 {
    const NAME: &'static str = "a whole number";

    fn number(number: i64) -> Option<Self> {
        Some(number)
    }
}

impl<'de> Shape<'de> for bool {
    const NAME: &'static str = "true or false";

    fn flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

impl<'de, T: Shape<'de>> Shape<'de> for Vec<Field<T>> {
    const NAME: &'static str = "a list";

    fn list<A: SeqAccess<'de>>(mut items: A) -> Result<Field<Self>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Field::Given(list))
    }
}

/// An object whose fields are all [`Field`]s.
#[derive(Debug, Default)]
pub struct Map<T>(pub T);

impl<'de, T: Deserialize<'de>> Shape<'de> for Map<T> {
    const NAME: &'static str = "an object";

    fn map<A: MapAccess<'de>>(entries: A) -> Result<Field<Self>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(|value| Field::Given(Map(value)))
    }
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<T> FieldVisitor<T> {
    fn given_or(self, value: Option<T>, found: impl FnOnce() -> String) -> Field<T> {
        value.map_or_else(|| Field::Wrong(found().into()), Field::Given)
    }
}

impl<'de, T: Shape<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }

    fn visit_unit<E: Error>(self) -> Result<Field<T>, E> {
        Ok(Field::Absent)
    }

    fn visit_none<E: Error>(self) -> Result<Field<T>, E> {
        Ok(Field::Absent)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Field<T>, E> {
        Ok(self.given_or(T::flag(flag), || flag.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Field<T>, E> {
        Ok(self.given_or(T::number(number), || number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Field<T>, E> {
        let value = i64::try_from(number).ok().and_then(T::number);
        Ok(self.given_or(value, || number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Field<T>, E> {
        Ok(Field::Wrong(number.to_string().into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field<T>, E> {
        Ok(self.given_or(T::text(Cow::Owned(text.to_owned())), || quoted(text)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Field<T>, E> {
        Ok(self.given_or(T::text(Cow::Borrowed(text)), || quoted(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Field<T>, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Field<T>, A::Error> {
        T::map(entries)
    }
}

/// `text` in quotes, control characters escaped, and cut where it is too long for a message.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a, T: Shape<'a>>(json: &'a str) -> Field<T> {
        serde_json::from_str(json).expect("fields read any JSON")
    }

    #[test]
    fn a_field_of_its_shape_is_given() {
        assert_eq!(read::<Text>(r#""abc""#).given().as_deref(), Some("abc"));
        assert_eq!(read::<i64>("70000").given(), Some(70_000));
        assert_eq!(read::<bool>("false").given(), Some(false));
        assert_eq!(read::<Vec<Field<i64>>>("[1, 2]").given().map(|list| list.len()), Some(2));
    }

    #[test]
    fn null_is_absence() {
        assert!(matches!(read::<Text>("null"), Field::Absent));
        assert!(matches!(read::<Vec<Field<i64>>>("null"), Field::Absent));
    }

    #[test]
    fn every_other_shape_is_described_and_skipped() {
        for (json, words) in [
            ("true", "true"),
            ("3.5", "3.5"),
            (r#""x\ny""#, r#""x\ny""#),
            (r#"[1, {"a": []}]"#, "a list"),
            (r#"{"a": {"b": 1}}"#, "an object"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            match read::<i64>(json) {
                Field::Wrong(found) => assert_eq!(found, words),
                other => panic!("{json} was read as {other:?}"),
            }
        }
    }

    #[test]
    fn one_wrong_item_leaves_the_others() {
        let list = read::<Vec<Field<i64>>>(r#"[1, "two", 3]"#).given().expect("a list");
        let numbers: Vec<_> = list.into_iter().filter_map(Field::given).collect();
        assert_eq!(numbers, [1, 3]);
    }

    #[test]
    fn long_text_is_cut_in_messages() {
        let shown = quoted(&"é".repeat(300));
        assert!(shown.len() < 180, "{shown}");
        assert!(shown.ends_with("(600 bytes)"), "{shown}");
    }
}
