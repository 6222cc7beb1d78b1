//! The integration tests, one binary. `common` is the harness; every other module is a group of cases.

mod common;

mod bad_input;
mod cluster;
mod cni;
mod conntrack;
mod demo;
mod faults;
mod flows;
mod golden;
mod guest;
mod iptables;
mod ipvs;
mod localhost;
mod manifests;
mod nftables;
mod podnet;
mod proxy;
mod stale_flows;
mod survival;
mod userspace;
