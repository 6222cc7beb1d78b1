//! The CNI plugin, called as container runtimes call it: the program itself, in network namespaces.

mod addresses;
mod chain;
mod disk;
mod killing;
mod limits;
mod packets;
mod ports;
mod results;
mod rig;
mod verbs;
