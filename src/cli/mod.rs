//! The subcommands.

pub mod assemble;
pub mod cleanup;
pub mod demo;
pub mod plan;
pub mod proxy;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flags, is_kube_proxy, normalize};

/// A kube-proxy replacement with interchangeable data planes.
#[derive(Parser)]
#[command(name = "ferrovia", version, max_term_width = 110)]
struct Ferrovia {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the Services of a cluster, or of a directory of manifests, reachable from this node and its pods
    ///
    /// Takes kube-proxy's flags and configuration file. Run under the name kube-proxy, the program behaves as this.
    Proxy(Box<Flags>),
    /// Prints what a mode would write for a directory of manifests; needs no privileges and touches nothing
    Plan(Box<plan::Arguments>),
    /// Removes everything that any mode may have written on this node
    Cleanup(cleanup::Arguments),
    /// Shows the program at work: a cluster of network namespaces, real traffic, endpoints that come and go
    Demo(demo::Arguments),
}

/// The command line under kube-proxy's name.
#[derive(Parser)]
#[command(name = "kube-proxy", version, max_term_width = 110)]
struct KubeProxy {
    #[command(flatten)]
    flags: Flags,
}

/// Runs the command line. An `Err` is for the user; usage errors end the process as clap does.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let arguments = normalize(arguments);
    if arguments.first().is_some_and(|name| is_kube_proxy(name)) {
        return proxy::run(&KubeProxy::parse_from(arguments).flags);
    }
    match Ferrovia::parse_from(arguments).command {
        Command::Proxy(flags) => proxy::run(&flags),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Cleanup(arguments) => cleanup::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}
