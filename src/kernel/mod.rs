//! The doors to the kernel, one per facility. Nothing else executes programs, opens netlink or writes to /proc.

pub mod alarm;
pub mod boot;
pub mod conntrack;
pub mod descriptors;
pub mod directories;
pub mod ipset;
pub mod iptables;
pub mod ipvs;
pub mod links;
pub mod local_delivery;
pub mod netlink;
pub mod netns;
pub mod nftables;
pub mod routes;
pub mod rtnetlink;
pub mod scheduling;
pub mod sysctl;
pub mod uplink;
pub mod virtual_addresses;
