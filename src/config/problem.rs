//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::PathBuf;

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub setting: Setting,
    /// As the user wrote it.
    pub value: String,
    pub message: String,
}

/// Where a setting comes from, by the name that its author knows it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `--iptables-masquerade-bit`, here without the dashes.
    Flag(&'static str),
    /// `iptables.masqueradeBit`.
    Field(&'static str),
}

/// `--flag=value: message` or `field.path: value: message`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.setting {
            Setting::Flag(name) => write!(f, "--{name}={}: {}", self.value, self.message),
            Setting::Field(path) => write!(f, "{path}: {:?}: {}", self.value, self.message),
        }
    }
}

/// Every problem of one configuration, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot use configuration file {path}")]
    Decode { path: PathBuf, source: DecodeError },
    #[error("cannot read this machine's host name; --hostname-override gives the node's name")]
    Hostname(#[source] std::io::Error),
    #[error("cannot write the configuration to {path}")]
    Write { path: PathBuf, source: std::io::Error },
    /// One line for each.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Why a configuration file cannot be understood at all.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("it is no YAML: {0}")]
    Yaml(String),
    #[error("it has no {expected} document")]
    Missing { expected: &'static str },
    #[error("it has two {kind} documents")]
    Repeated { kind: &'static str },
    #[error(
        "document {index}: apiVersion {api_version:?} and kind {kind:?} are not known; known are {known}"
    )]
    UnknownKind { index: usize, api_version: String, kind: String, known: String },
    #[error("{kind}: {path}: {message}")]
    Field { kind: &'static str, path: String, message: String },
}
