//! Where objects come from.

pub mod decode;
pub mod manifests;
mod stats;

pub use manifests::Manifests;
pub use stats::{Gone, SourceStats};
