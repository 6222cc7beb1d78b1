//! What the running kernel's nf_tables can do.
