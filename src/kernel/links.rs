//! The door to interface addresses (rtnetlink).
