//! An attachment: one interface of one container in one network, and the names that follow from it.

use std::fmt;
use std::net::IpAddr;

use crate::kernel::rtnetlink::HardwareAddress;

/// What node ends are called: this and a number, `IFNAMSIZ` in all. With `--detect-local-mode=InterfaceNamePrefix` it
/// tells kube-proxy what comes from pods.
pub const NODE_END_PREFIX: &str = "fpod";
/// As many hexadecimal digits as an interface name has left.
const DIGITS: usize = 11;

/// The specification's primary key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentKey {
    pub container_id: String,
    pub interface: String,
}

impl AttachmentKey {
    /// What the node's end of the link is called. It follows from the attachment, so that DEL needs to know nothing.
    pub fn node_end(&self, network: &str) -> String {
        let text = format!("{network}/{self}");
        let number = fnv(text.as_bytes()) & ((1 << (4 * DIGITS)) - 1);
        format!("{NODE_END_PREFIX}{number:0DIGITS$x}")
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.interface)
    }
}

/// 0a:58 and the end of the address, as many CNI plugins have it: one that an address always gets again is not confused
/// with that of its last holder.
pub fn hardware_address(address: IpAddr) -> HardwareAddress {
    let [.., a, b, c, d] = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    HardwareAddress([0x0a, 0x58, a, b, c, d])
}

/// FNV-1a, 64 bits: the same in every release, on every machine.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_attachment_and_fit() {
        let key = |interface: &str| AttachmentKey { container_id: "c1".into(), interface: interface.into() };
        let name = key("eth0").node_end("pods");
        assert_eq!(name.len(), 15, "{name}");
        assert_eq!(name, key("eth0").node_end("pods"));
        assert_ne!(name, key("eth1").node_end("pods"));
        assert_ne!(name, key("eth0").node_end("other"));
    }

    /// From the tables of its authors: what is on disk depends on it.
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn hardware_addresses_are_local_and_follow_from_the_address() {
        assert_eq!(hardware_address([10, 244, 1, 5].into()).to_string(), "0a:58:0a:f4:01:05");
        assert_eq!(hardware_address("fd00::1:5".parse().unwrap()).to_string(), "0a:58:00:01:00:05");
    }
}
