//! What IPVS counts and tells of itself.

use std::fmt;

/// The connections of a destination, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established TCP and SCTP connections.
    pub active: u32,
    /// Those in any other state, and every UDP flow.
    pub inactive: u32,
    /// Persistence templates: clients that are kept.
    pub persistent: u32,
}

impl Connections {
    /// Whether the destination can go without anybody noticing. Templates do not count: they only speak of what is to come.
    pub fn are_none(&self) -> bool {
        self.active == 0 && self.inactive == 0
    }
}

/// What a virtual server or a destination has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// How long connections without packets are kept, in seconds. When set, 0 leaves a value as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp: u32,
    pub tcp_fin: u32,
    pub udp: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
    pub patch: u8,
    /// Buckets, not connections.
    pub connection_table_size: u32,
}

/// `1.2.1`
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
