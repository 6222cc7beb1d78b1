//! The HTTP endpoints: health, metrics and health check node ports.
