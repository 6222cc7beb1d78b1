//! The numbers of `linux/ip_vs.h`.

pub const FAMILY: &str = "IPVS";
pub const VERSION: u8 = 1;

pub mod command {
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DELETE_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DESTINATION: u8 = 5;
    pub const SET_DESTINATION: u8 = 6;
    pub const DELETE_DESTINATION: u8 = 7;
    pub const GET_DESTINATION: u8 = 8;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
    pub const GET_INFO: u8 = 15;
}

/// `IPVS_CMD_ATTR_*`: the first level of every message but information.
pub mod top {
    pub const SERVICE: u16 = 1;
    pub const DESTINATION: u16 = 2;
    pub const TIMEOUT_TCP: u16 = 4;
    pub const TIMEOUT_TCP_FIN: u16 = 5;
    pub const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`
pub mod service {
    pub const FAMILY: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const ADDRESS: u16 = 3;
    pub const PORT: u16 = 4;
    pub const MARK: u16 = 5;
    pub const SCHEDULER: u16 = 6;
    pub const FLAGS: u16 = 7;
    pub const TIMEOUT: u16 = 8;
    pub const NETMASK: u16 = 9;
    pub const STATISTICS: u16 = 10;
    /// Linux 4.1.
    pub const STATISTICS_64: u16 = 12;
}

/// `IPVS_DEST_ATTR_*`
pub mod destination {
    pub const ADDRESS: u16 = 1;
    pub const PORT: u16 = 2;
    pub const METHOD: u16 = 3;
    pub const WEIGHT: u16 = 4;
    pub const UPPER_THRESHOLD: u16 = 5;
    pub const LOWER_THRESHOLD: u16 = 6;
    pub const ACTIVE: u16 = 7;
    pub const INACTIVE: u16 = 8;
    pub const PERSISTENT: u16 = 9;
    pub const STATISTICS: u16 = 10;
    /// Linux 3.18: before, the family of the virtual server.
    pub const FAMILY: u16 = 11;
    /// Linux 4.1.
    pub const STATISTICS_64: u16 = 12;
}

/// `IPVS_STATS_ATTR_*`
pub mod statistics {
    pub const CONNECTIONS: u16 = 1;
    pub const PACKETS_IN: u16 = 2;
    pub const PACKETS_OUT: u16 = 3;
    pub const BYTES_IN: u16 = 4;
    pub const BYTES_OUT: u16 = 5;
}

/// `IPVS_INFO_ATTR_*`
pub mod info {
    pub const VERSION: u16 = 1;
    pub const CONNECTION_TABLE_SIZE: u16 = 2;
}
