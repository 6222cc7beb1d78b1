//! `ferrovia plan`: what a mode would write, for people.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::{self, Config, Flags, Source};
use crate::kernel::iptables::Programs;
use crate::model::ServiceTable;
use crate::modes::{Mode, iptables, iptables::Iptables};
use crate::sync;

use super::assemble;

#[derive(Args)]
pub struct Arguments {
    /// The node to plan for; its Node object may be among the manifests
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The mode to plan with; the same as --proxy-mode
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut flags = arguments.flags.clone();
    flags.general.hostname_override = arguments.node.clone().or(flags.general.hostname_override);
    flags.data_plane.proxy_mode = arguments.mode.clone().or(flags.data_plane.proxy_mode);
    let config = config::load(&flags)?;
    for warning in &config.warnings {
        eprintln!("Warning: {warning}");
    }
    for table in compile(&config)? {
        println!("# {}: {} ServicePorts", table.family(), table.ports().len());
        print!("{}", iptables::render(&assemble::iptables_settings(&config, None), &table));
    }
    Ok(ExitCode::SUCCESS)
}

fn compile(config: &Config) -> anyhow::Result<Vec<ServiceTable>> {
    let Source::Manifests(directory) = &config.source else {
        bail!("--manifests: name the directory with the Services and EndpointSlices to plan for");
    };
    let listing = sync::sources::manifests::read_once(directory, &config.node_name)
        .with_context(|| format!("cannot read directory {}", directory.display()))?;
    for error in &listing.malformed {
        eprintln!("Warning: {error}");
    }
    let settings = assemble::compile_settings(config, Iptables::<Programs>::SCHEDULERS.into());
    let compiled = sync::compile_once(listing.events, settings);
    for problem in &compiled.problems {
        eprintln!("Warning: {problem}");
    }
    Ok(compiled.tables)
}
