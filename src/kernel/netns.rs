//! The door to network namespaces.
