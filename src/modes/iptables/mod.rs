//! The iptables mode.
