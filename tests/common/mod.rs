//! Builders, namespaces, packet flows and an API server, shared by the tests.

pub mod apiserver;
pub mod clients;
pub mod listener;
pub mod rig;
