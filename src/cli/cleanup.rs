//! `ferrovia cleanup`: takes everything out again.

use std::process::ExitCode;

use clap::Args;

use crate::kernel::iptables::Programs;
use crate::model::Family;
use crate::modes::Mode;
use crate::modes::iptables::{Iptables, Settings, remove_kube_proxy};

#[derive(Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> anyhow::Result<ExitCode> {
    match cleanup() {
        0 => Ok(ExitCode::SUCCESS),
        errors => anyhow::bail!("{errors} of the removals failed; what could be removed is gone"),
    }
}

/// Removes everything that any mode of this program or kube-proxy may have written, both families and both flavours.
/// Goes on after an error; returns how many there were.
pub fn cleanup() -> usize {
    let doors = Family::ALL.into_iter().flat_map(Programs::installed);
    doors.map(|door| clean_iptables(door).len()).sum()
}

fn clean_iptables(mut door: Programs) -> Vec<String> {
    let kube_proxy = remove_kube_proxy(&mut door).map_err(|error| error.to_string());
    let ours = Iptables::new(door, Settings::default()).cleanup().map_err(|error| error.to_string());
    let errors: Vec<String> = [kube_proxy, ours].into_iter().filter_map(Result::err).collect();
    errors.iter().for_each(|error| eprintln!("Error: {error}"));
    errors
}
