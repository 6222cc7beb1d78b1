//! How netlink messages of every subsystem write addresses and families.

use std::net::IpAddr;

use crate::model::Family;

/// In the order of the network, as everywhere in messages.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `None` if it is neither 4 nor 16 bytes.
pub fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// `AF_INET` or `AF_INET6`
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_as_they_are_written() {
        for address in ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()) {
            assert_eq!(from_octets(&octets(address)), Some(address));
            assert_eq!(from_octets(&octets(address)[1..]), None);
        }
    }
}
