//! NodePorts on loopback, beside whatever mode was asked for.

use std::sync::Arc;

use crate::cli::assemble;
use crate::config::Config;
use crate::kernel::descriptors;
use crate::model::{Family, ServiceTable};
use crate::modes::Mode;
use crate::modes::localhost::{LocalPorts, Services, WithLocalhost};
use crate::modes::userspace::handover::{self, Group};
use crate::modes::userspace::{Engine, EngineError};

/// Starts what listens for them, if the operator wants them: a thread of their own. `of_mode` is the userspace mode's.
pub fn start(
    config: &Config,
    families: Vec<Family>,
    of_mode: Option<&Engine>,
) -> Result<Option<Arc<Engine>>, EngineError> {
    if !config.localhost_node_ports {
        return Ok(None);
    }
    let (inherited, predecessor) = handover::ask(Group::Loopback).unzip();
    let inherited = inherited.unwrap_or_default();
    let engine = match of_mode {
        Some(of_mode) => of_mode.start_loopback_beside(inherited)?,
        None => {
            let limits = assemble::userspace_limits(config, descriptors::raise_limit());
            Engine::start_for_loopback(limits, families, inherited)?
        }
    };
    engine.prepare_handover(predecessor)?;
    Ok(Some(Arc::new(engine)))
}

/// Adds them to each family's mode.
pub fn add<M: Mode>(
    of_families: Vec<(ServiceTable, M)>,
    engine: Option<&Arc<Engine>>,
    services: Services,
) -> Vec<(ServiceTable, WithLocalhost<M>)> {
    let with_ports = |(table, mode): (ServiceTable, M)| {
        let ports = engine.map(|engine| LocalPorts::new(table.family(), Arc::clone(engine), services));
        (table, WithLocalhost::new(mode, ports))
    };
    of_families.into_iter().map(with_ports).collect()
}
