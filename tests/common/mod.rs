//! Builders, namespaces, packet flows and an API server, shared by the tests.

pub mod apiserver;
pub mod clients;
pub mod guest;
pub mod listener;
pub mod rig;

/// Makes two tests of each case, one for each flavour of iptables.
macro_rules! in_both_flavours {
    ($($(#[$attribute:meta])* fn $name:ident($flavour:ident: &str) $body:block)*) => {
        $($(#[$attribute])* fn $name($flavour: &str) $body)*
        mod legacy {
            $(#[test] fn $name() { super::$name("legacy") })*
        }
        mod nft {
            $(#[test] fn $name() { super::$name("nft") })*
        }
    };
}

pub(crate) use in_both_flavours;
