//! The door to sysctls.
