//! `ferrovia plan`: what a mode would write, for people.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::{self, CaptureBy, Config, Flags, ModeName, Source};
use crate::kernel::iptables::Programs;
use crate::kernel::nftables::KernelNftables;
use crate::model::ServiceTable;
use crate::modes::Mode;
use crate::modes::iptables::{self, Iptables};
use crate::modes::ipvs::{self, Ipvs};
use crate::modes::nftables::{self, Nftables};
use crate::modes::userspace::{self, ByNftables, Listeners, Userspace};
use crate::sync;

use super::assemble;
use super::proxy::Schedulers;

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
    match config.mode {
        ModeName::Iptables => {
            let settings = assemble::iptables_settings(&config, None);
            let schedulers = Schedulers::of_mode::<Iptables<Programs>>(&config)?;
            print(&config, schedulers, |table| iptables::render(&settings, table))?;
        }
        ModeName::Ipvs => {
            let settings = assemble::ipvs_settings(&config, None);
            // Nothing is known of the kernel that it is for.
            let schedulers = Schedulers::all(Ipvs::<Programs>::SCHEDULERS, config.ipvs.scheduler);
            print(&config, schedulers, |table| ipvs::render(&settings, table))?;
        }
        ModeName::Nftables => {
            let settings = assemble::nftables_settings(&config, assemble::Node::Any);
            let schedulers = Schedulers::of_mode::<Nftables<KernelNftables>>(&config)?;
            print(&config, schedulers, |table| nftables::render(&settings, table))?;
        }
        ModeName::Userspace => {
            let settings = assemble::userspace_settings(&config, Listeners::default());
            let render = match config.userspace.capture {
                CaptureBy::Iptables => userspace::render_for_iptables,
                CaptureBy::Auto | CaptureBy::Nftables => userspace::render,
            };
            let schedulers = Schedulers::of_mode::<Userspace<ByNftables<KernelNftables>>>(&config)?;
            print(&config, schedulers, |table| render(&settings, table))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(
    config: &Config,
    schedulers: Schedulers,
    render: impl Fn(&ServiceTable) -> String,
) -> anyhow::Result<()> {
    for table in compile(config, schedulers)? {
        println!("# {}: {} ServicePorts", table.family(), table.ports().len());
        print!("{}", render(&table));
    }
    Ok(())
}

fn compile(config: &Config, schedulers: Schedulers) -> anyhow::Result<Vec<ServiceTable>> {
    let Source::Manifests(directory) = &config.source else {
        bail!("--manifests: name the directory with the Services and EndpointSlices to plan for");
    };
    let listing = sync::sources::manifests::read_once(directory, &config.node_name)
        .with_context(|| format!("cannot read directory {}", directory.display()))?;
    for error in &listing.malformed {
        eprintln!("Warning: {error}");
    }
    let settings = assemble::compile_settings(config, schedulers);
    let compiled = sync::compile_once(listing.events, settings);
    for problem in &compiled.problems {
        eprintln!("Warning: {problem}");
    }
    Ok(compiled.tables)
}
