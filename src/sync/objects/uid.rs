//! `metadata.uid`.

use std::cmp::Ordering;
use std::fmt;

/// What tells an object from an earlier one of its name. API servers give out UUIDs, of which the 16 bytes are kept; in
/// manifests there may be any text, or none. In the order of the texts.
#[derive(Clone, PartialEq, Eq)]
pub struct Uid(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Uuid([u8; 16]),
    Other(Box<str>),
}

/// Where a UUID as text has hyphens (RFC 9562).
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const LENGTH: usize = 36;

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Uid(parse(text).map_or_else(|| Form::Other(text.into()), Form::Uuid))
    }
}

/// `None` unless it is written just like this again.
fn parse(text: &str) -> Option<[u8; 16]> {
    let hyphened = |at: usize, c: u8| HYPHENS.contains(&at) == (c == b'-');
    if text.len() != LENGTH || !text.bytes().enumerate().all(|(at, c)| hyphened(at, c)) {
        return None;
    }
    let mut digits = text.bytes().filter(|c| *c != b'-').map(|c| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    });
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(uuid)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Other(text) => f.write_str(text),
            Form::Uuid(uuid) => uuid.iter().enumerate().try_for_each(|(at, byte)| {
                let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(f, "{hyphen}{byte:02x}")
            }),
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Ord for Uid {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Form::Uuid(a), Form::Uuid(b)) => a.cmp(b),
            (Form::Other(a), Form::Other(b)) => a.cmp(b),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

impl PartialOrd for Uid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 9] = [
        "",
        "00000000-0000-0000-0000-000000000000",
        "00000000-0000-0000-0000-00000000000",
        "00000000-0000-0000-0000_000000000000",
        "0f6b1c1e-9b5d-4a7e-8d0c-3f2e1a0b9c8d",
        "0F6B1C1E-9B5D-4A7E-8D0C-3F2E1A0B9C8D",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "u-1",
        "é",
    ];

    #[test]
    fn it_is_the_text_that_it_was_in_the_order_of_the_texts() {
        for a in TEXTS {
            assert_eq!(Uid::from(a).to_string(), a);
            for b in TEXTS {
                assert_eq!(Uid::from(a).cmp(&Uid::from(b)), a.cmp(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn that_of_an_api_server_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Uid>(), 24);
        let is_uuid = |text: &str| matches!(Uid::from(text).0, Form::Uuid(_));
        assert_eq!(TEXTS.map(is_uuid), [false, true, false, false, true, false, true, false, false]);
    }
}
