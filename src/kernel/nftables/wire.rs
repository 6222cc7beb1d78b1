//! Reading attributes. Numbers in messages of nf_tables are big-endian.

use super::message::FIXED;
use crate::kernel::netlink::Attributes;

/// No kind of attribute that is read here has a higher number.
const KINDS: usize = 24;

/// The attributes of one message or nested attribute, by their kind. Of several of a kind the last one counts.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    values: [Option<&'a [u8]>; KINDS],
    present: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let mut fields = Fields { values: [None; KINDS], present: 0 };
        for (kind, value) in Attributes(bytes) {
            fields.present |= 1u64.checked_shl(kind.into()).unwrap_or(1 << 63);
            if let Some(slot) = fields.values.get_mut(usize::from(kind)) {
                *slot = Some(value);
            }
        }
        fields
    }

    pub(super) fn after_header(payload: &'a [u8]) -> Self {
        Self::of(payload.get(FIXED..).unwrap_or_default())
    }

    /// Nothing but attributes of these kinds: whoever knows them knows everything.
    pub(super) fn only(self, kinds: &[u16]) -> Option<Self> {
        let known = kinds.iter().fold(0, |known, kind| known | 1u64 << kind);
        (self.present & !known == 0).then_some(self)
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.values[usize::from(kind)]
    }

    pub(super) fn nested(&self, kind: u16) -> Option<Fields<'a>> {
        self.get(kind).map(Fields::of)
    }

    pub(super) fn u8(&self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub(super) fn u64(&self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A string, with or without its closing zero.
    pub(super) fn text(&self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..length]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Request;

    #[test]
    fn attributes_are_found_by_kind_and_strangers_are_noticed() {
        let mut request = Request::bare();
        request.text(1, "ferrovia").attribute(2, &7u32.to_be_bytes()).attribute(3, &[5]);
        let fields = Fields::of(request.as_bytes());
        assert_eq!((fields.text(1), fields.u32(2), fields.u8(3)), (Some("ferrovia"), Some(7), Some(5)));
        assert_eq!((fields.u32(1), fields.u64(2), fields.get(4)), (None, None, None));
        assert!(fields.clone().only(&[1, 2, 3, 4]).is_some());
        assert!(fields.only(&[1, 2]).is_none());
    }

    #[test]
    fn kinds_from_the_future_are_strangers() {
        let mut request = Request::bare();
        request.attribute(23, &[1]).attribute(24, &[1]).attribute(400, &[1]);
        let fields = Fields::of(request.as_bytes());
        assert_eq!(fields.get(23), Some(&[1u8][..]));
        assert!(fields.only(&[23, 24]).is_none());
    }
}
