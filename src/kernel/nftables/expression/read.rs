//! Expressions from attributes. What has an attribute, a number or a name that is not known here stays as it is: a newer
//! kernel or somebody else's rule must not keep anything from being read (k8s#136786).

use std::time::Duration;

use super::super::table::Name;
use super::super::verdict::Verdict;
use super::super::wire::Fields;
use super::write::{
    ADDRESS_TYPE, COMPARISONS, COUNTER, CT_KEYS, DATA, FAMILIES, FIB_LOOKUPS, HEADERS, META_KEYS, NAME,
    NUMBERINGS, SET_CHANGES, TRANSLATIONS, TRANSPARENT, VALUE, VERDICT, VERDICT_REGISTER,
};
use super::{CtDirection, Expression, Membership, MetaKey, NatFlags, Register, Rejection};
use crate::kernel::netlink::Attributes;

/// A list of expressions, each in a nested attribute.
pub fn parse_list(bytes: &[u8]) -> Vec<Expression> {
    Attributes(bytes).filter_map(|(_, expression)| parse(expression)).collect()
}

/// `None` for what has no name.
fn parse(bytes: &[u8]) -> Option<Expression> {
    let outer = Fields::of(bytes);
    let (name, content) = (outer.text(NAME)?, outer.get(DATA).unwrap_or_default());
    let unknown = || Expression::Unknown { name: name.into(), bytes: content.into() };
    Some(known(name, Fields::of(content)).unwrap_or_else(unknown))
}

fn known(name: &str, fields: Fields<'_>) -> Option<Expression> {
    match name {
        "payload" => payload(&fields.only(&[1, 2, 3, 4])?),
        "meta" => meta(&fields.only(&[1, 2, 3])?),
        "ct" => ct(&fields.only(&[1, 2, 3, 4])?),
        "fib" => fib(&fields.only(&[1, 2, 3])?),
        "socket" => socket(&fields.only(&[1, 2])?),
        "cmp" => compare(&fields.only(&[1, 2, 3])?),
        "bitwise" => bitwise(&fields.only(&[1, 2, 3, 4, 5, 6])?),
        "immediate" => immediate(&fields.only(&[1, 2])?),
        "lookup" => lookup(&fields.only(&[1, 2, 3, 4, 5])?),
        "numgen" => numgen(&fields.only(&[1, 2, 3, 4])?),
        "hash" => hash(&fields.only(&[1, 2, 3, 4, 5, 6, 7])?),
        "nat" => nat(&fields.only(&[1, 2, 3, 4, 5, 6, 7])?),
        "masq" => fields.only(&[1]).and_then(|fields| masquerade(&fields)),
        "redir" => redirect(&fields.only(&[1, 2, 3])?),
        "tproxy" => transparent_proxy(&fields.only(&[1, 2, 3])?),
        "reject" => reject(&fields.only(&[1, 2])?),
        "counter" => fields.only(&[1, 2, 3]).map(|_| Expression::Counter),
        "objref" => objref(&fields.only(&[1, 2, 3, 4, 5])?),
        "dynset" => dynset(&fields.only(&[1, 2, 3, 4, 5, 6, 8, 9])?),
        _ => None,
    }
}

fn value_of<T: Copy>(table: &[(T, u32)], fields: &Fields<'_>, kind: u16) -> Option<T> {
    let number = fields.u32(kind)?;
    table.iter().find(|(_, known)| *known == number).map(|(value, _)| *value)
}

fn register(fields: &Fields<'_>, kind: u16) -> Option<Register> {
    fields.u32(kind).map(Register)
}

fn data(fields: &Fields<'_>, kind: u16) -> Option<Box<[u8]>> {
    Some(fields.nested(kind)?.only(&[VALUE])?.get(VALUE)?.into())
}

fn name(fields: &Fields<'_>, kind: u16) -> Option<Name> {
    fields.text(kind).map(Name::from)
}

fn payload(fields: &Fields<'_>) -> Option<Expression> {
    Some(Expression::Payload {
        header: value_of(&HEADERS, fields, 2)?,
        offset: fields.u32(3)?,
        length: fields.u32(4)?,
        into: register(fields, 1)?,
    })
}

fn meta(fields: &Fields<'_>) -> Option<Expression> {
    let key: MetaKey = value_of(&META_KEYS, fields, 2)?;
    Some(match register(fields, 1) {
        Some(into) => Expression::Meta { key, into },
        None => Expression::SetMeta { key, from: register(fields, 3)? },
    })
}

fn ct(fields: &Fields<'_>) -> Option<Expression> {
    let key = value_of(&CT_KEYS, fields, 2)?;
    let direction = match fields.u8(3) {
        None => None,
        Some(0) => Some(CtDirection::Original),
        Some(1) => Some(CtDirection::Reply),
        Some(_) => return None,
    };
    Some(match register(fields, 1) {
        Some(into) => Expression::Ct { key, direction, into },
        None => Expression::SetCt { key, from: register(fields, 4)? },
    })
}

fn fib(fields: &Fields<'_>) -> Option<Expression> {
    let lookup = value_of(&FIB_LOOKUPS, fields, 3)?;
    let is_address_type = fields.u32(2) == Some(ADDRESS_TYPE);
    is_address_type.then_some(Expression::Fib { lookup, into: register(fields, 1)? })
}

fn socket(fields: &Fields<'_>) -> Option<Expression> {
    let is_transparent = fields.u32(1) == Some(TRANSPARENT);
    is_transparent.then_some(Expression::SocketTransparent { into: register(fields, 2)? })
}

fn compare(fields: &Fields<'_>) -> Option<Expression> {
    Some(Expression::Compare {
        from: register(fields, 1)?,
        comparison: value_of(&COMPARISONS, fields, 2)?,
        data: data(fields, 3)?,
    })
}

/// Shifts, and since Linux 6.14 operations on two registers, are others.
fn bitwise(fields: &Fields<'_>) -> Option<Expression> {
    let is_mask_and_xor = fields.u32(6).unwrap_or_default() == 0;
    is_mask_and_xor.then_some(Expression::Bitwise {
        from: register(fields, 1)?,
        into: register(fields, 2)?,
        mask: data(fields, 4)?,
        xor: data(fields, 5)?,
    })
}

fn immediate(fields: &Fields<'_>) -> Option<Expression> {
    let into = register(fields, 1)?;
    if into != VERDICT_REGISTER {
        return Some(Expression::Immediate { data: data(fields, 2)?, into });
    }
    let verdict = fields.nested(2)?.only(&[VERDICT])?;
    Some(Expression::Verdict(Verdict::parse(verdict.get(VERDICT)?)?))
}

fn lookup(fields: &Fields<'_>) -> Option<Expression> {
    let (set, from) = (name(fields, 1)?, register(fields, 2)?);
    let membership = match fields.u32(5).unwrap_or_default() {
        0 => Membership::In,
        1 => Membership::NotIn,
        _ => return None,
    };
    Some(match register(fields, 3) {
        None => Expression::Lookup { set, from, membership },
        Some(VERDICT_REGISTER) => Expression::Map { map: set, from, into: None },
        into => Expression::Map { map: set, from, into },
    })
}

fn numgen(fields: &Fields<'_>) -> Option<Expression> {
    Some(Expression::Number {
        numbering: value_of(&NUMBERINGS, fields, 3)?,
        modulus: fields.u32(2)?,
        offset: fields.u32(4).unwrap_or_default(),
        into: register(fields, 1)?,
    })
}

fn hash(fields: &Fields<'_>) -> Option<Expression> {
    let is_jenkins = fields.u32(7).unwrap_or_default() == 0;
    is_jenkins.then_some(Expression::Hash {
        from: register(fields, 1)?,
        length: fields.u32(3)?,
        modulus: fields.u32(4)?,
        seed: fields.u32(5),
        offset: fields.u32(6).unwrap_or_default(),
        into: register(fields, 2)?,
    })
}

/// Ranges of addresses and ports are others.
fn nat(fields: &Fields<'_>) -> Option<Expression> {
    let (address, port) = (register(fields, 3)?, register(fields, 5));
    let is_range = register(fields, 4).is_some_and(|last| last != address)
        || register(fields, 6).is_some_and(|last| Some(last) != port);
    (!is_range).then_some(Expression::Nat {
        translation: value_of(&TRANSLATIONS, fields, 1)?,
        family: value_of(&FAMILIES, fields, 2)?,
        address,
        port,
        flags: NatFlags::from_bits(fields.u32(7).unwrap_or_default())?,
    })
}

fn masquerade(fields: &Fields<'_>) -> Option<Expression> {
    NatFlags::from_bits(fields.u32(1).unwrap_or_default()).map(Expression::Masquerade)
}

fn redirect(fields: &Fields<'_>) -> Option<Expression> {
    let port = register(fields, 1);
    let is_range = register(fields, 2).is_some_and(|last| Some(last) != port);
    let flags = NatFlags::from_bits(fields.u32(3).unwrap_or_default())?;
    (!is_range).then_some(Expression::Redirect { port, flags })
}

fn transparent_proxy(fields: &Fields<'_>) -> Option<Expression> {
    let (address, port) = (register(fields, 2), register(fields, 3));
    Some(Expression::TransparentProxy { family: value_of(&FAMILIES, fields, 1)?, address, port })
}

fn reject(fields: &Fields<'_>) -> Option<Expression> {
    let code = || fields.u8(2);
    Some(Expression::Reject(match fields.u32(1)? {
        0 => Rejection::Icmp(code()?),
        1 => Rejection::TcpReset,
        2 => Rejection::Icmpx(code()?),
        _ => return None,
    }))
}

fn objref(fields: &Fields<'_>) -> Option<Expression> {
    match register(fields, 3) {
        Some(from) => Some(Expression::MappedCounter { map: name(fields, 4)?, from }),
        None if fields.u32(1)? == COUNTER => Some(Expression::NamedCounter(name(fields, 2)?)),
        None => None,
    }
}

/// With expressions for each element, or inverted, it is another.
fn dynset(fields: &Fields<'_>) -> Option<Expression> {
    let is_plain = fields.u32(9).unwrap_or_default() == 0;
    let timeout = fields.u64(6).filter(|milliseconds| *milliseconds != 0).map(Duration::from_millis);
    is_plain.then_some(Expression::ChangeSet {
        change: value_of(&SET_CHANGES, fields, 3)?,
        set: name(fields, 1)?,
        key: register(fields, 4)?,
        data: register(fields, 5),
        timeout,
    })
}
