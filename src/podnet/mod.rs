//! Pod networking: plain routes between nodes, so that every pod has an address that everybody sees as it is.
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
//! `docs/pod-network.md` says what is written where.

pub mod claims;
mod cleanup;
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
