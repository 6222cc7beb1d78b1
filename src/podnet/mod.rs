//! Pod networking: every pod of this node at the end of a link of its own, with an address that everybody sees as it is.
//!
//! `README.md` in this directory tells the way of a packet and what is kept on disk.

pub mod cni;
pub mod files;
pub mod state;

/// What the routes from this node to its pods carry as their protocol, to be told from anybody else's. `iproute2` has no
/// name for it.
pub const POD_ROUTE_PROTOCOL: u8 = 103;
