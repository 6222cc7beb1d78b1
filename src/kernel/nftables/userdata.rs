//! User data: what nft notes down for itself at an object, as type, length and value in one byte each (libnftnl's `udata`).
//! The kernel keeps it and does not look at it.

use std::fmt;

/// The first in the user data of tables, chains, rules, elements and objects: `NFTNL_UDATA_*_COMMENT`.
const COMMENT: u8 = 0;

/// A comment as nft shows it. At most 128 bytes by construction: nft refuses longer ones, and with them the whole
/// transaction (k8s#139515).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comment(Box<str>);

impl Comment {
    /// In bytes.
    pub const LIMIT: usize = 128;

    /// Shortens what is too long. Quotes and control characters would end the comment when the listing is loaded again,
    /// and become underscores.
    pub fn new(text: &str) -> Self {
        let end =
            (0..=text.len().min(Self::LIMIT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let harmless = |c: char| if c == '"' || c == '\\' || c.is_control() { '_' } else { c };
        Comment(text[..end].chars().map(harmless).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `comment "default/web:http"`
impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "comment \"{}\"", self.0)
    }
}

/// Writes type, length, value.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.extend([kind, value.len() as u8]);
    bytes.extend_from_slice(value);
}

/// Writes a nested value.
pub(super) fn nest(bytes: &mut Vec<u8>, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend([kind, 0]);
    let start = bytes.len();
    content(bytes);
    bytes[start - 1] = (bytes.len() - start) as u8;
}

/// A string with its closing zero.
pub(super) fn put_text(bytes: &mut Vec<u8>, kind: u8, text: &str) {
    nest(bytes, kind, |bytes| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    });
}

/// The user data of an object with a comment.
pub(super) fn with_comment(comment: &Comment) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(comment.0.len() + 3);
    put_text(&mut bytes, COMMENT, &comment.0);
    bytes
}

/// The comment in the user data of an object.
pub(super) fn comment(bytes: &[u8]) -> Option<Comment> {
    text(bytes, COMMENT).map(Comment::new)
}

pub(super) fn text(bytes: &[u8], kind: u8) -> Option<&str> {
    let value = find(bytes, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    entries(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A little-endian number on this machine: user data never leaves it.
pub(super) fn number(bytes: &[u8], kind: u8) -> Option<u32> {
    Some(u32::from_ne_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// Up to the first that is cut off.
pub(super) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length, rest @ ..] = bytes else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        bytes = rest;
        Some((*kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_comments_are_never_longer_than_nft_can_bear() {
        let name = format!("{}/{}:http", "n".repeat(62), "s".repeat(63));
        assert_eq!(name.len(), 131);
        assert_eq!(Comment::new(&name).as_str(), &name[..128]);
        assert_eq!(Comment::new(&"ß".repeat(65)).as_str(), "ß".repeat(64));
        assert_eq!(Comment::new(&format!("x{}", "ß".repeat(65))).as_str(), format!("x{}", "ß".repeat(63)));
        assert_eq!(Comment::new("a\"b\\c\nd").to_string(), "comment \"a_b_c_d\"");
    }

    #[test]
    fn what_is_cut_off_ends_the_entries() {
        let bytes = with_comment(&Comment::new("default/web:http"));
        assert_eq!(comment(&bytes), Some(Comment::new("default/web:http")));
        for length in 0..bytes.len() {
            assert_eq!(comment(&bytes[..length]), None);
        }
    }
}
