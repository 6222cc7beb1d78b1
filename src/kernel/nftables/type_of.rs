//! `typeof` in declarations of sets: selectors in the user data of a set, from which nft shows what a field is.
//!
//! Needed for numbers of `numgen`, which have no type that could be named in a declaration. Numbers are those of nft's
//! `enum expr_types`, `enum proto_desc_id` and of the fields within a protocol.

use super::expression::Numbering;
use super::selector::{Generator, Selector};
use super::userdata;
use crate::model::Family;

const EXPRESSION_KIND: u8 = 0;
const EXPRESSION_DATA: u8 = 1;
const KIND_PAYLOAD: u32 = 7;
const KIND_META: u32 = 9;
const KIND_CONCATENATION: u32 = 13;
const KIND_NUMGEN: u32 = 23;

/// Selectors with the protocol and field by which nft knows them.
const PAYLOADS: [(Selector, u32, u32); 6] = [
    (Selector::SourceAddress(Family::V4), 12, 11),
    (Selector::DestinationAddress(Family::V4), 12, 12),
    (Selector::SourceAddress(Family::V6), 13, 8),
    (Selector::DestinationAddress(Family::V6), 13, 9),
    (Selector::SourcePort, 11, 1),
    (Selector::DestinationPort, 11, 2),
];
const METAS: [(Selector, u32); 2] = [(Selector::Mark, 3), (Selector::Protocol, 16)];

fn put_number(bytes: &mut Vec<u8>, kind: u8, number: u32) {
    userdata::put(bytes, kind, &number.to_ne_bytes());
}

/// What nft writes for a concatenation whose fields are given by their types.
pub(super) fn put_untold(bytes: &mut Vec<u8>, kind: u8) {
    userdata::nest(bytes, kind, |bytes| {
        put_number(bytes, EXPRESSION_KIND, KIND_CONCATENATION);
        userdata::nest(bytes, EXPRESSION_DATA, |_| {});
    });
}

pub(super) fn put(bytes: &mut Vec<u8>, kind: u8, selectors: &[Selector]) {
    userdata::nest(bytes, kind, |bytes| match selectors {
        [only] => put_selector(bytes, only),
        several => {
            put_number(bytes, EXPRESSION_KIND, KIND_CONCATENATION);
            userdata::nest(bytes, EXPRESSION_DATA, |bytes| {
                for (at, selector) in several.iter().enumerate() {
                    userdata::nest(bytes, at as u8, |bytes| put_selector(bytes, selector));
                }
            });
        }
    });
}

/// What has no number here is left out; nft then falls back to the types.
fn put_selector(bytes: &mut Vec<u8>, selector: &Selector) {
    if let Some((_, protocol, field)) = PAYLOADS.iter().find(|(known, ..)| known == selector) {
        put_expression(bytes, KIND_PAYLOAD, &[*protocol, *field]);
    } else if let Some((_, key)) = METAS.iter().find(|(known, _)| known == selector) {
        put_expression(bytes, KIND_META, &[*key]);
    } else if let Selector::Number(Generator { numbering, modulus, offset }) = selector {
        let numbering = u32::from(*numbering == Numbering::Random);
        put_expression(bytes, KIND_NUMGEN, &[numbering, *modulus, *offset]);
    }
}

fn put_expression(bytes: &mut Vec<u8>, kind: u32, numbers: &[u32]) {
    put_number(bytes, EXPRESSION_KIND, kind);
    userdata::nest(bytes, EXPRESSION_DATA, |bytes| {
        for (at, number) in numbers.iter().enumerate() {
            put_number(bytes, at as u8, *number);
        }
    });
}

/// `None` where a selector is not known, or the fields are given by their types.
pub(super) fn parse(bytes: &[u8]) -> Option<Vec<Selector>> {
    if userdata::number(bytes, EXPRESSION_KIND)? != KIND_CONCATENATION {
        return Some(vec![parse_selector(bytes)?]);
    }
    let fields = userdata::find(bytes, EXPRESSION_DATA)?;
    let selectors: Option<Vec<_>> =
        userdata::entries(fields).map(|(_, field)| parse_selector(field)).collect();
    selectors.filter(|selectors| !selectors.is_empty())
}

fn parse_selector(bytes: &[u8]) -> Option<Selector> {
    let data = userdata::find(bytes, EXPRESSION_DATA)?;
    let number = |kind| userdata::number(data, kind);
    match userdata::number(bytes, EXPRESSION_KIND)? {
        KIND_PAYLOAD => {
            let (protocol, field) = (number(0)?, number(1)?);
            let known = PAYLOADS.into_iter().find(|(_, p, f)| (*p, *f) == (protocol, field));
            known.map(|(selector, ..)| selector)
        }
        KIND_META => {
            let key = number(0)?;
            METAS.into_iter().find(|(_, known)| *known == key).map(|(selector, _)| selector)
        }
        KIND_NUMGEN => {
            let numbering = if number(0)? == 0 { Numbering::Incremental } else { Numbering::Random };
            let (modulus, offset) = (number(1)?, number(2)?);
            Some(Selector::Number(Generator { numbering, modulus, offset }))
        }
        _ => None,
    }
}
