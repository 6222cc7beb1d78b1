//! NodePorts on loopback, beside whatever mode was asked for.

use std::sync::Arc;

use crate::config::Config;
use crate::kernel::descriptors;
use crate::model::ServiceTable;
use crate::modes::Mode;
use crate::modes::localhost::{LocalPorts, WithLocalhost};
use crate::modes::userspace::{Engine, EngineError, Limits};

/// Adds them to each family's mode, if the operator wants them. They have a thread of their own.
pub fn add<M: Mode>(
    config: &Config,
    of_families: Vec<(ServiceTable, M)>,
) -> Result<Vec<(ServiceTable, WithLocalhost<M>)>, EngineError> {
    let engine = match config.localhost_node_ports {
        true => {
            let limits = Limits::of_descriptors(descriptors::raise_limit());
            Some(Arc::new(Engine::start_for_loopback(limits)?))
        }
        false => None,
    };
    let with_ports = |(table, mode): (ServiceTable, M)| {
        let ports = engine.as_ref().map(|engine| LocalPorts::new(table.family(), Arc::clone(engine)));
        (table, WithLocalhost::new(mode, ports))
    };
    Ok(of_families.into_iter().map(with_ports).collect())
}
