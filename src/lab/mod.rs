//! A cluster of network namespaces on one machine, for the demo and the tests.

pub mod flows;
