//! When to sync.
