//! Builders, namespaces, packet flows, an API server and a guest kernel, shared by the tests.

pub mod apiserver;
pub mod clients;
pub mod data_plane;
pub mod echo;
pub mod guest;
pub mod listener;
pub mod rig;
