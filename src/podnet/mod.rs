//! Pod networking: plain routes between nodes, and every pod of this node at the end of a link of its own, so that everybody
//! sees its address as it is.
//!
//! ```text
//!  API server or manifests        a thread of its own                                    kernel
//! ┌─────────┐ Nodes ┌───────┐ changed ┌────────┐ owners ┌────────┐ Plan ┌───────┐
//! │ sources │ ────► │ Nodes │ ──────► │ Claims │ ─────► │ HostGw │ ───► │ apply │ ───► routes
//! └─────────┘       └───────┘         └────────┘        └────────┘      └───────┘
//!                                                            │ Policy
//!                                                            └──────► masquerade, forwarding, CNI configuration
//! ```
//!
//! `docs/pod-network.md` says what is written where; `README.md` in this directory tells the way of a packet between a pod and
//! its node, and what the plugin keeps on disk.

pub mod claims;
mod cleanup;
pub mod cni;
pub mod conflist;
pub mod drive;
pub mod files;
pub mod firewall;
pub mod host_gw;
pub mod node;
pub mod nodes;
pub mod plan;
pub mod problem;
pub mod report;
pub mod state;
pub mod sysctls;
#[cfg(test)]
mod tests;

pub use claims::Claims;
pub use cleanup::cleanup;
pub use host_gw::HostGw;
pub use node::Peer;
pub use nodes::Nodes;
pub use plan::Plan;
pub use problem::{Obstacle, Problem};

/// What the routes from this node to its pods carry as their protocol, to be told from anybody else's. `iproute2` has no
/// name for it.
pub const POD_ROUTE_PROTOCOL: u8 = 103;
