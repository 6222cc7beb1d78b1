//! Taking everything out again.

use std::path::Path;

use super::cni::attachment::NODE_END_PREFIX;
use super::cni::host_ports;
use super::{conflist, firewall};
use crate::kernel::routes::{KernelRoutes, RouteChange, Routes, RoutesError};
use crate::kernel::rtnetlink::Network;
use crate::model::Family;

/// Removes routes, rules, the network configuration, the state that the plugin reads, and the plugin where it has nothing left
/// to do. Links and ports of pods that run belong to the plugin, which takes them away with the pod; sysctls may be others'
/// by now. Goes on after an error; returns all in words.
pub fn cleanup(configurations: &Path, plugins: &Path, state: &Path) -> Vec<String> {
    let configuration = conflist::remove(configurations, state).err().map(anyhow::Error::from);
    let plugin = remove_plugin(plugins).err();
    let routes =
        KernelRoutes::open().and_then(|mut door| remove_routes(&mut door)).err().map(anyhow::Error::from);
    let rules = firewall::cleanup().into_iter().map(anyhow::Error::from);
    let ports = host_ports::cleanup().err().map(anyhow::Error::from);
    configuration
        .into_iter()
        .chain(plugin)
        .chain(routes)
        .chain(rules)
        .chain(ports)
        .map(|error| format!("{error:#}"))
        .collect()
}

/// No pod can be detached without it, so that it stays while there is one.
fn remove_plugin(plugins: &Path) -> anyhow::Result<()> {
    let links = Network::open()?.links()?;
    match links.iter().any(|link| link.name.starts_with(NODE_END_PREFIX)) {
        true => Ok(()),
        false => Ok(conflist::uninstall(plugins)?),
    }
}

fn remove_routes(door: &mut impl Routes) -> Result<(), RoutesError> {
    for family in Family::ALL {
        let changes: Vec<_> = door.list(family)?.into_iter().map(RouteChange::Remove).collect();
        if !changes.is_empty() {
            let refusals = door.change(&changes)?;
            if let Some(refusal) = refusals.into_iter().next() {
                return Err(RoutesError::Change(refusal.source));
            }
        }
    }
    Ok(())
}
