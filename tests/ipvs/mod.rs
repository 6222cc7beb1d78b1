//! What needs IPVS in the kernel. `tests/guest.rs` runs these cases in a guest kernel.

mod by_hand;
mod codec;
mod configured;
mod draining;
pub mod lab;
pub mod life;
mod node;
mod pyroute2;
mod refusals;
mod reuse;
mod schedulers;
mod skeleton;
mod switching;
