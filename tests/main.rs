//! The integration tests, one binary. `common` is the harness; every other module is a group of cases.

mod common;

mod cluster;
mod faults;
mod flows;
mod golden;
mod iptables;
mod manifests;
mod proxy;
