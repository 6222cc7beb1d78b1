//! The objects as last seen.
