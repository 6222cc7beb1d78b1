//! From Kubernetes objects to a data plane.

pub mod compile;
pub mod conntrack;
pub mod objects;
pub mod plane;
pub mod schedule;
pub mod sources;
pub mod store;
