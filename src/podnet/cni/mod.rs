//! The CNI plugin: one call, one process, no daemon needed.
//!
//! | file | what it is |
//! |-|-|
//! | `parameters`, `config`, `version` | what a call says |
//! | `add`, `del`, `check`, `gc`, `status` | one verb each |
//! | `result`, `error` | what is answered |
//! | `link` | the interfaces, addresses, routes and neighbours of an attachment |
//! | `ipam` | which attachment holds which addresses |
//! | `host_ports`, `bandwidth` | what runtimes ask for by capabilities |

mod add;
pub mod attachment;
mod bandwidth;
mod check;
pub mod config;
mod del;
pub mod error;
mod gc;
pub mod host_ports;
pub mod ipam;
mod link;
mod node;
mod parameters;
mod result;
mod status;
#[cfg(test)]
mod tests;
mod version;

use std::env;
use std::io::{self, Read};
use std::process::ExitCode;

use serde::Serialize;

use config::Config;
use error::CniError;
use parameters::{Command, Environment, Parameters};
use version::SupportedVersions;
pub use version::Version;

/// The plugin, from its environment and standard input to its exit code.
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut input);
    let answer = match read {
        Ok(_) => answer(&|name| env::var(name).ok(), &input),
        Err(source) => {
            let error = CniError::Io { attempted: "read the network configuration", source };
            Answer::error(&error, Version::NEWEST)
        }
    };
    if !answer.text.is_empty() {
        println!("{}", answer.text);
    }
    answer.code
}

/// What is printed, and how the process ends.
struct Answer {
    text: String,
    code: ExitCode,
}

impl Answer {
    fn success(text: String) -> Self {
        Answer { text, code: ExitCode::SUCCESS }
    }

    fn error(error: &CniError, version: Version) -> Self {
        Answer { text: json(&error.report(version)), code: ExitCode::FAILURE }
    }
}

fn json(value: &impl Serialize) -> String {
    // Only maps with keys that are no text and failing writers make this fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn answer(environment: Environment<'_>, input: &[u8]) -> Answer {
    let declared = Config::declared_version(input);
    let version = declared.as_deref().and_then(Version::parse).unwrap_or(Version::NEWEST);
    let text = parameters::command(environment).and_then(|command| match command {
        Command::Version => Ok(json(&SupportedVersions::asked_in(declared))),
        command => run(command, environment, &Config::decode(input)?),
    });
    text.map_or_else(|error| Answer::error(&error, version), Answer::success)
}

fn run(command: Command, environment: Environment<'_>, config: &Config) -> Result<String, CniError> {
    require(command, config.version()?)?;
    let parameters = || Parameters::read(command, environment);
    match command {
        Command::Add => return Ok(json(&add::add(config, &parameters()?)?)),
        Command::Del => del::del(config, &parameters()?)?,
        Command::Check => check::check(config, &parameters()?)?,
        Command::Gc => gc::gc(config)?,
        Command::Status => status::status(config)?,
        Command::Version => {}
    }
    Ok(String::new())
}

/// A verb is only as old as the version that brought it.
fn require(command: Command, version: Version) -> Result<(), CniError> {
    let (since, command) = match command {
        Command::Check => (Version::V0_4_0, "CHECK"),
        Command::Gc => (Version::V1_1_0, "GC"),
        Command::Status => (Version::V1_1_0, "STATUS"),
        Command::Add | Command::Del | Command::Version => return Ok(()),
    };
    if version >= since { Ok(()) } else { Err(CniError::Command { command, version }) }
}
