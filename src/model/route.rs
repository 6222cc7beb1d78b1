//! What becomes of one packet: the oracle.
