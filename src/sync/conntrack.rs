//! Which tracked flows are stale.
