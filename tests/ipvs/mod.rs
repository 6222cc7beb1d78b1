//! What needs a kernel with IPVS.

mod codec;
