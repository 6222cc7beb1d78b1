//! The whole program at size, with real connections:
//! `cargo bench --bench scale -- [--mode legacy|nft|nftables|userspace|ipvs]... [--services 10000] [--endpoints 10]`.
//!
//! An API server of the tests' own holds the objects; the proxy runs in a lab of network namespaces. Printed are the
//! figures that an operator sees: how long after its start everything is reachable, how long after an API write traffic
//! follows, what that costs, and what a new connection pays. Needs root.
//!
//! IPVS is measured in the tests' guest kernel, unless `--here` says that this one has it. Everything takes several times
//! as long there, so compare its figures only with others from there.

// Of what the tests share, not all is used here.
#![allow(dead_code, unused_imports, unused_macros)]

#[path = "../../tests/common/apiserver/mod.rs"]
mod apiserver;
mod cluster;
mod connections;
#[path = "../../tests/common/data_plane.rs"]
mod data_plane;
mod figures;
#[path = "../../tests/common/guest.rs"]
mod guest;
mod proxy;
mod run;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use cluster::Size;
use data_plane::DataPlane;
use guest::Guest;

/// Only a guest that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(1200);

#[derive(Parser)]
struct Arguments {
    /// All of them if none is given
    #[arg(long = "mode")]
    modes: Vec<Choice>,
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Boot no guest kernel: this one has IPVS
    #[arg(long)]
    here: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Legacy,
    Nft,
    Nftables,
    Userspace,
    Ipvs,
}

impl Choice {
    fn plane(self) -> DataPlane {
        match self {
            Choice::Legacy => DataPlane::IptablesLegacy,
            Choice::Nft => DataPlane::IptablesNft,
            Choice::Nftables => DataPlane::Nftables,
            Choice::Userspace => DataPlane::Userspace,
            Choice::Ipvs => DataPlane::Ipvs,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Choice::Legacy => "iptables legacy",
            Choice::Nft => "iptables nft",
            Choice::Nftables => "nftables",
            Choice::Userspace => "userspace",
            Choice::Ipvs => "ipvs",
        }
    }
}

fn main() -> Result<()> {
    let Arguments { modes, services, endpoints, here, .. } = Arguments::parse();
    ensure!(services > 0, "without Services there is nothing to measure");
    let size = Size { services, endpoints };
    for mode in if modes.is_empty() { Choice::value_variants() } else { &modes } {
        let result = if *mode == Choice::Ipvs && !here {
            in_guest(size)
        } else {
            println!("{}, {services} Services with {endpoints} endpoints each", mode.title());
            run::run(size, mode.plane())
        };
        result.context(mode.title())?;
    }
    Ok(())
}

/// Runs this program in the guest kernel.
fn in_guest(size: Size) -> Result<()> {
    let program =
        env::current_exe()?.into_os_string().into_string().ok().context("a path that is no text")?;
    let (services, endpoints) = (size.services.to_string(), size.endpoints.to_string());
    let flags = ["--here", "--mode", "ipvs", "--services", &services, "--endpoints", &endpoints];
    let command: Vec<_> = [program].into_iter().chain(flags.map(str::to_owned)).collect();
    let status = Guest::boot(&command, LIMIT).wait(|line| println!("{line}"));
    ensure!(status == 0, "it ended with {status} in the guest kernel");
    Ok(())
}
