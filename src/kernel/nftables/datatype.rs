//! Types of values, as nft numbers them (`enum datatypes` in its `datatype.h`). The kernel keeps the numbers for nft.

use std::fmt;

/// Bits that each type has in the type of a concatenation (`TYPE_BITS`).
const BITS: u32 = 6;

/// The type of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Datatype {
    Integer,
    Ipv4Address,
    Ipv6Address,
    Protocol,
    Port,
    Mark,
    /// A class of traffic control, major and minor number.
    Priority,
    InterfaceName,
    /// One that is not used here.
    Other(u8),
}

const KNOWN: [Datatype; 8] = [
    Datatype::Integer,
    Datatype::Ipv4Address,
    Datatype::Ipv6Address,
    Datatype::Protocol,
    Datatype::Port,
    Datatype::Mark,
    Datatype::Priority,
    Datatype::InterfaceName,
];

impl Datatype {
    fn number(self) -> u32 {
        match self {
            Datatype::Integer => 4,
            Datatype::Ipv4Address => 7,
            Datatype::Ipv6Address => 8,
            Datatype::Protocol => 12,
            Datatype::Port => 13,
            Datatype::Mark => 19,
            Datatype::Priority => 23,
            Datatype::InterfaceName => 41,
            Datatype::Other(number) => u32::from(number),
        }
    }

    fn from_number(number: u32) -> Self {
        let known = KNOWN.into_iter().find(|datatype| datatype.number() == number);
        known.unwrap_or(Datatype::Other(number as u8))
    }

    /// In bytes; 0 where it is not known.
    pub fn length(self) -> usize {
        match self {
            Datatype::Integer | Datatype::Ipv4Address | Datatype::Mark | Datatype::Priority => 4,
            Datatype::Ipv6Address | Datatype::InterfaceName => 16,
            Datatype::Protocol => 1,
            Datatype::Port => 2,
            Datatype::Other(_) => 0,
        }
    }

    /// `enum byteorder`, for the user data of sets.
    pub(super) fn byte_order(self) -> u32 {
        match self {
            Datatype::Integer | Datatype::Mark | Datatype::Priority | Datatype::InterfaceName => 1,
            Datatype::Ipv4Address | Datatype::Ipv6Address | Datatype::Port => 2,
            Datatype::Protocol | Datatype::Other(_) => 0,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Datatype::Integer => "integer",
            Datatype::Ipv4Address => "ipv4_addr",
            Datatype::Ipv6Address => "ipv6_addr",
            Datatype::Protocol => "inet_proto",
            Datatype::Port => "inet_service",
            Datatype::Mark => "mark",
            Datatype::Priority => "classid",
            Datatype::InterfaceName => "ifname",
            Datatype::Other(number) => return write!(f, "type-{number}"),
        })
    }
}

/// The type of a value or of a concatenation of up to five. `ipv4_addr . inet_proto . inet_service`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type(u32);

impl Type {
    pub fn of(fields: &[Datatype]) -> Self {
        Type(fields.iter().fold(0, |all, field| all << BITS | field.number()))
    }

    pub(super) fn from_number(number: u32) -> Self {
        Type(number)
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }

    pub(super) fn followed_by(self, other: Type) -> Self {
        let moved = self.0.checked_shl(BITS * other.count() as u32).unwrap_or_default();
        Type(moved | other.0)
    }

    pub fn count(self) -> usize {
        (32 - self.0.leading_zeros()).div_ceil(BITS) as usize
    }

    pub fn is_concatenated(self) -> bool {
        self.count() > 1
    }

    pub fn fields(self) -> impl DoubleEndedIterator<Item = Datatype> {
        let mask = (1 << BITS) - 1;
        (0..self.count() as u32).rev().map(move |at| Datatype::from_number(self.0 >> (at * BITS) & mask))
    }

    /// In bytes. In concatenations each field fills up to the next register, of 4 bytes.
    pub fn length(self) -> usize {
        match self.is_concatenated() {
            false => self.fields().map(Datatype::length).sum(),
            true => self.fields().map(|field| field.length().next_multiple_of(4)).sum(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, field) in self.fields().enumerate() {
            let separator = if at == 0 { "" } else { " . " };
            write!(f, "{separator}{field}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_are_numbered_as_by_nft() {
        let services = Type::of(&[Datatype::Ipv4Address, Datatype::Protocol, Datatype::Port]);
        assert_eq!((services.number(), services.length(), services.count()), (0x730d, 12, 3));
        assert_eq!(services.to_string(), "ipv4_addr . inet_proto . inet_service");
        let endpoint = Type::of(&[Datatype::Ipv6Address]).followed_by(Type::of(&[Datatype::Port]));
        assert_eq!((endpoint.number(), endpoint.length()), (0x20d, 20));
        assert_eq!(Type::of(&[Datatype::Port]).length(), 2);
        assert_eq!(Type::from_number(u32::MAX).fields().count(), 6);
        assert_eq!(Type::from_number(14).to_string(), "type-14");
    }
}
