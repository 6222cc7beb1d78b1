//! From Kubernetes objects to a data plane.

#[cfg(test)]
pub mod builders;
pub mod compile;
pub mod conntrack;
pub mod objects;
pub mod schedule;
pub mod sources;
pub mod store;
