//! ferrovia: a kube-proxy replacement with interchangeable data planes.
//!
//! ```text
//!  API server or manifests           one ordinary thread owns all of this                      kernel
//! ┌─────────┐ Event ┌───────┐ changed ┌─────────┐ ServiceTable ┌───────────┐   Plan   ┌────────────┐
//! │ sources │ ────► │ Store │ ──────► │ compile │ ───────────► │ mode.plan │ ───────► │ mode.apply │
//! └─────────┘       └───────┘         └─────────┘              └───────────┘          └────────────┘
//!    I/O              data               pure                      pure                   I/O
//! ```
//!
//! | module | what it is | may use |
//! |-|-|-|
//! | [`model`] | what a node must forward: plain data | std, ipnet |
//! | [`kernel`] | one door per kernel facility | netlink, processes |
//! | [`modes`] | the data planes | `model`, `kernel` |
//! | [`podnet`] | the pod network: routes to other nodes' pods, the CNI plugin | `model`, `kernel`, `sync::objects` |
//! | [`sync`] | sources, store, compile, the loop | `model`, `modes::Mode`, Kubernetes types |

pub mod cli;
pub mod config;
pub mod health;
#[cfg(test)]
mod held_memory;
pub mod http;
pub mod kernel;
pub mod lab;
pub mod metrics;
pub mod model;
pub mod modes;
pub mod podnet;
pub mod sync;
