//! Errors, and the codes that the specification has for them.

use std::error::Error;
use std::io;

use serde::Serialize;

use super::host_ports::HostPortError;
use super::ipam::IpamError;
use super::version::Version;
use crate::kernel::netns::NamespaceError;
use crate::kernel::rtnetlink::NetworkError;
use crate::podnet::state::StateError;

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("version {0:?} of the specification is not supported")]
    Version(String),
    #[error("{command} is not part of version {version} of the specification")]
    Command { command: &'static str, version: Version },
    #[error("unsupported field in the network configuration: {key}={value}")]
    Field { key: &'static str, value: String },
    #[error("invalid environment variables: {0}")]
    Environment(String),
    #[error("cannot {attempted}")]
    Io { attempted: &'static str, source: io::Error },
    #[error("cannot decode {what}")]
    Decode { what: &'static str, source: serde_json::Error },
    #[error("invalid network configuration: {0}")]
    Config(String),
    #[error("not now: {0}")]
    Later(String),
    #[error("pods cannot be attached: {0}")]
    NotAvailable(String),
    #[error("pods have limited connectivity: {0}")]
    Limited(String),
    #[error("cannot set up the network of the pod")]
    Network(#[from] NetworkError),
    #[error("cannot enter the network namespace of the pod")]
    Namespace(#[from] NamespaceError),
    #[error("cannot manage addresses")]
    Ipam(#[from] IpamError),
    #[error("cannot map ports of the node")]
    HostPort(#[from] HostPortError),
    #[error("cannot learn the state of the node")]
    State(#[from] StateError),
    #[error("the attachment is not as it was made: {0}")]
    Differs(String),
    #[error("{0} attachments could not be removed, the first: {1}")]
    Incomplete(usize, Box<CniError>),
}

impl CniError {
    /// The specification's codes are below 100.
    pub fn code(&self) -> u32 {
        match self {
            CniError::Version(_) | CniError::Command { .. } => 1,
            CniError::Field { .. } => 2,
            CniError::Environment(_) => 4,
            CniError::Io { .. } => 5,
            CniError::Decode { .. } => 6,
            CniError::Config(_) => 7,
            CniError::Later(_) => 11,
            CniError::NotAvailable(_) => 50,
            CniError::Limited(_) => 51,
            CniError::Network(_) | CniError::Namespace(_) => 100,
            CniError::Ipam(error) => error.code(),
            CniError::HostPort(_) => 102,
            CniError::State(_) => 103,
            CniError::Differs(_) => 104,
            CniError::Incomplete(_, first) => first.code(),
        }
    }

    /// As it is printed.
    pub fn report(&self, version: Version) -> Report {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        Report {
            cni_version: version.as_str(),
            code: self.code(),
            msg: self.to_string(),
            details: causes.join(": "),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    cni_version: &'static str,
    code: u32,
    msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_with_its_code_and_all_its_causes() {
        let source = io::Error::from_raw_os_error(libc::EIO);
        let report =
            CniError::Io { attempted: "read the network configuration", source }.report(Version::V1_0_0);
        let expected = r#"{"cniVersion":"1.0.0","code":5,"msg":"cannot read the network configuration","details":"Input/output error (os error 5)"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
        let report = CniError::Later("no address is free".into()).report(Version::V0_3_1);
        let expected = r#"{"cniVersion":"0.3.1","code":11,"msg":"not now: no address is free"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }
}
