//! The door to iptables: iptables-save and iptables-restore, legacy and nft.
