//! What a node must forward, as plain data: no Kubernetes types, no kernel.
//!
//! [`ServiceTable`] is the one value between the half of the program that decides what Services mean
//! (`sync::compile`) and the half that writes it into a kernel (`modes`).
//! [`route`] answers what becomes of one packet and is the oracle that every mode is tested against.

mod address;
mod by_name;
mod few;
mod hashing;
mod index;
mod node;
pub mod route;
mod scheduler;
mod service_port;
mod table;

pub use address::{Family, Protocol, network_of_host};
pub use by_name::{ByName, Named};
pub use few::Few;
pub use hashing::{Hashing, HashingError};
pub use index::Role;
pub use node::{DetectLocal, LocalTraffic, NodePolicy, NodePortAddresses, NodePortSetting};
pub use scheduler::{ParseSchedulerError, Scheduler};
pub use service_port::{
    Affinity, Destination, Endpoint, Frontend, FrontendKey, Locality, ServicePort, ServicePortName,
    TrafficPolicy, Verdict,
};
pub use table::{Change, Changes, HealthCheck, ServiceName, ServiceTable};
