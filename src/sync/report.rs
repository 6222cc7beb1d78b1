//! What the loop tells the outside: log, metrics, health, Events.
