//! Flags as typed and files as written, made into one configuration as meant.
