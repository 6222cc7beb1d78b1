//! Values in registers: keys and data of elements, what packets are compared with.

use std::fmt;
use std::net::IpAddr;

use super::datatype::{Datatype, Type};
use crate::model::Protocol;

/// One value or several that are concatenated: `10.96.0.10 . tcp . 80`. No allocation: there are 100,000 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    bytes: [u8; Value::LIMIT],
    length: u8,
    kind: u32,
}

impl Value {
    /// All registers together, in bytes.
    pub const LIMIT: usize = 64;

    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::single(Datatype::Ipv4Address, &address.octets()),
            IpAddr::V6(address) => Self::single(Datatype::Ipv6Address, &address.octets()),
        }
    }

    pub fn protocol(protocol: Protocol) -> Self {
        Self::single(Datatype::Protocol, &[protocol.number()])
    }

    pub fn port(port: u16) -> Self {
        Self::single(Datatype::Port, &port.to_be_bytes())
    }

    pub fn mark(mark: u32) -> Self {
        Self::single(Datatype::Mark, &mark.to_ne_bytes())
    }

    /// `MAJOR:MINOR` in hexadecimal.
    pub fn priority(number: u32) -> Self {
        Self::single(Datatype::Priority, &number.to_ne_bytes())
    }

    /// In the machine's byte order, as `numgen` and `jhash` produce.
    pub fn integer(number: u32) -> Self {
        Self::single(Datatype::Integer, &number.to_ne_bytes())
    }

    /// The whole name: at most 15 bytes count.
    pub fn interface(name: &str) -> Self {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self::single(Datatype::InterfaceName, &bytes)
    }

    fn single(datatype: Datatype, content: &[u8]) -> Self {
        let mut bytes = [0; Self::LIMIT];
        bytes[..content.len()].copy_from_slice(content);
        Value { bytes, length: content.len() as u8, kind: Type::of(&[datatype]).number() }
    }

    /// A concatenation. What exceeds all registers is cut off; the kernel refuses the result.
    #[must_use]
    pub fn and(mut self, other: Value) -> Self {
        let start = usize::from(self.length).next_multiple_of(4);
        let end = (start + usize::from(other.length)).next_multiple_of(4).min(Self::LIMIT);
        self.bytes[start..end].copy_from_slice(&other.bytes[..end - start]);
        self.length = end as u8;
        self.kind = self.kind().followed_by(other.kind()).number();
        self
    }

    /// From the kernel. `None` if it is too long.
    pub(super) fn from_bytes(kind: Type, content: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::LIMIT];
        bytes.get_mut(..content.len())?.copy_from_slice(content);
        Some(Value { bytes, length: content.len() as u8, kind: kind.number() })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub fn kind(&self) -> Type {
        Type::from_number(self.kind)
    }

    /// The next one in the order of the bytes: where an interval that ends with this one ends for the kernel. `None`
    /// after the last.
    pub(super) fn successor(mut self) -> Option<Self> {
        for byte in self.bytes[..usize::from(self.length)].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(self);
            }
        }
        None
    }

    /// Everything from this value to `last`, field by field as nft does: `10.96.0.10 . tcp . 80 . 10.0.0.0/24`
    pub(super) fn write_interval(&self, f: &mut fmt::Formatter<'_>, last: &Value) -> fmt::Result {
        let (mut first, mut last) = (self.as_bytes(), last.as_bytes());
        if self.kind().length() != first.len() || last.len() != first.len() {
            return write_hexadecimal(f, first);
        }
        for (at, datatype) in self.kind().fields().enumerate() {
            f.write_str(if at == 0 { "" } else { " . " })?;
            let length = datatype.length();
            write_range(f, datatype, &first[..length], &last[..length])?;
            let padded = length.next_multiple_of(4).min(first.len());
            (first, last) = (&first[padded..], &last[padded..]);
        }
        Ok(())
    }

    /// The inverse of [`successor`](Self::successor).
    pub(super) fn predecessor(mut self) -> Option<Self> {
        for byte in self.bytes[..usize::from(self.length)].iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != u8::MAX {
                return Some(self);
            }
        }
        None
    }
}

/// As nft writes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_interval(f, self)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn write_field(f: &mut fmt::Formatter<'_>, datatype: Datatype, bytes: &[u8]) -> fmt::Result {
    match (datatype, bytes) {
        (Datatype::Ipv4Address, &[a, b, c, d]) => write!(f, "{}", IpAddr::from([a, b, c, d])),
        (Datatype::Protocol, &[number]) => write_protocol(f, number),
        (Datatype::Port, &[high, low]) => write!(f, "{}", u16::from_be_bytes([high, low])),
        (Datatype::Integer, &[a, b, c, d]) => write!(f, "{}", u32::from_ne_bytes([a, b, c, d])),
        (Datatype::Mark, &[a, b, c, d]) => write!(f, "{:#010x}", u32::from_ne_bytes([a, b, c, d])),
        (Datatype::Priority, &[a, b, c, d]) => write_priority(f, u32::from_ne_bytes([a, b, c, d])),
        (Datatype::Ipv6Address, bytes) => match <[u8; 16]>::try_from(bytes) {
            Ok(octets) => write!(f, "{}", IpAddr::from(octets)),
            Err(_) => write_hexadecimal(f, bytes),
        },
        (Datatype::InterfaceName, bytes) => {
            let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            write!(f, "\"{}\"", String::from_utf8_lossy(&bytes[..length]))
        }
        (_, bytes) => write_hexadecimal(f, bytes),
    }
}

fn write_range(f: &mut fmt::Formatter<'_>, datatype: Datatype, first: &[u8], last: &[u8]) -> fmt::Result {
    write_field(f, datatype, first)?;
    if first == last {
        return Ok(());
    }
    match prefix_length(first, last) {
        Some(bits) => write!(f, "/{bits}"),
        None => {
            f.write_str("-")?;
            write_field(f, datatype, last)
        }
    }
}

/// If the range is a whole network: the last bits are all zero in the one and all one in the other.
fn prefix_length(first: &[u8], last: &[u8]) -> Option<u32> {
    let bits = first.len() as u32 * 8;
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    let (first, differing) = (number(first), number(first) ^ number(last));
    let is_suffix = differing & differing.wrapping_add(1) == 0;
    (is_suffix && first & differing == 0).then(|| bits - differing.count_ones())
}

/// `TC_H_UNSPEC` and `TC_H_ROOT` have names.
fn write_priority(f: &mut fmt::Formatter<'_>, number: u32) -> fmt::Result {
    match number {
        0 => f.write_str("none"),
        u32::MAX => f.write_str("root"),
        _ => write!(f, "{:x}:{:x}", number >> 16, number & 0xffff),
    }
}

fn write_protocol(f: &mut fmt::Formatter<'_>, number: u8) -> fmt::Result {
    match [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.number() == number) {
        Some(known) => f.write_str(known.lowercase()),
        None => write!(f, "{number}"),
    }
}

pub(super) fn write_hexadecimal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("0x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_laid_out_and_printed_as_by_nft() {
        let address = Value::address([10, 96, 0, 10].into());
        let key = address.and(Value::protocol(Protocol::Tcp)).and(Value::port(80));
        assert_eq!(key.as_bytes(), [10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(key.to_string(), "10.96.0.10 . tcp . 80");
        assert_eq!(key.and(Value::integer(2)).to_string(), "10.96.0.10 . tcp . 80 . 2");
        assert_eq!(key.and(Value::mark(2)).to_string(), "10.96.0.10 . tcp . 80 . 0x00000002");
        assert_eq!(Value::port(80).as_bytes(), [0, 80], "alone it is not padded");
        let endpoint = Value::address("fd00:244::5".parse().unwrap()).and(Value::port(8080));
        assert_eq!(endpoint.to_string(), "fd00:244::5 . 8080");
        assert_eq!(Value::interface("eth0").to_string(), "\"eth0\"");
        assert_eq!(Value::from_bytes(Type::from_number(14), &[1, 2]).unwrap().to_string(), "0x0102");
        assert_eq!(Value::from_bytes(key.kind(), &[1, 2]).unwrap().to_string(), "0x0102", "cut off");
        assert_eq!(Value::from_bytes(key.kind(), &[0; 65]), None);
    }

    #[test]
    fn intervals_end_one_further() {
        let last = Value::address([10, 255, 255, 255].into());
        let end = last.successor().unwrap();
        assert_eq!(end.to_string(), "11.0.0.0");
        assert_eq!(end.predecessor(), Some(last));
        assert_eq!(Value::address([255; 4].into()).successor(), None);
        assert_eq!(Value::address([0; 4].into()).predecessor(), None);
    }

    #[test]
    fn nothing_is_written_beyond_the_registers() {
        let address = Value::address("fd00::1".parse().unwrap());
        let long = address.and(address).and(address).and(address).and(address);
        assert_eq!(long.as_bytes().len(), Value::LIMIT);
    }
}
