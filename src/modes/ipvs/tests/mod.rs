//! The mode against a kernel in memory.
