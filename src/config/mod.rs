//! Flags as typed and files as written, made into one configuration as meant.

pub mod decode;
pub mod duration;
pub mod file;
pub mod problem;
