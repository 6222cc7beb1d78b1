//! STATUS: whether an ADD could succeed.

use super::add::check_ranges;
use super::config::Config;
use super::error::CniError;
use super::node::Node;
use crate::podnet::state::{Condition, NodeState};

pub fn status(config: &Config) -> Result<(), CniError> {
    config.validate().map_err(|error| CniError::NotAvailable(error.to_string()))?;
    let limited = check_state(config)?;
    match Node::open(config)?.exhausted()? {
        Some(family) => Err(CniError::NotAvailable(format!("no {family} address is free"))),
        None => limited.map_or(Ok(()), |reason| Err(CniError::Limited(reason))),
    }
}

/// The reason for which pods have limited connectivity, if they have.
fn check_state(config: &Config) -> Result<Option<String>, CniError> {
    let Some(path) = &config.state_file else { return Ok(None) };
    let state = NodeState::read(path).map_err(|error| CniError::NotAvailable(error.to_string()))?;
    let Some(state) = state else {
        let reason = "the node's pod network has not been set up since the boot";
        return Err(CniError::NotAvailable(reason.into()));
    };
    check_ranges(config, &state).map_err(|error| CniError::NotAvailable(error.to_string()))?;
    match state.condition {
        Condition::Ready => Ok(None),
        Condition::Limited => Ok(Some(state.reason)),
        Condition::Starting => Err(CniError::NotAvailable(format!("routes are not ready. {}", state.reason))),
    }
}
