//! The door to the connection tracking table (ctnetlink).
