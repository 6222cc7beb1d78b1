//! What the daemon tells the plugin: a file below `/run`, so that a boot forgets it.
//!
//! ```json
//! {"version": 1, "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"], "condition": "ready"}
//! ```
//!
//! The plugin refuses to attach pods while the condition is `starting`, and addresses from outside the pod CIDRs always.
//! A daemon that dies leaves the file, and pods can be attached and detached without it.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::files::{self, Lifetime};

/// Raised when a reader of before would take the file for something else.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    version: u32,
    /// `spec.podCIDRs` of this Node.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    pub condition: Condition,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Routes to other nodes are in place.
    Ready,
    /// Not yet.
    Starting,
    /// Some of them are not, so that pods have limited connectivity.
    Limited,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the node's state")]
    Read(#[source] io::Error),
    #[error("cannot write the node's state")]
    Write(#[source] io::Error),
    #[error("the node's state makes no sense")]
    Decode(#[source] serde_json::Error),
    #[error("the node's state is of version {0}, which is not known here")]
    Version(u32),
}

impl NodeState {
    pub fn new(pod_cidrs: Vec<IpNet>, condition: Condition, reason: impl Into<String>) -> Self {
        NodeState { version: VERSION, pod_cidrs, condition, reason: reason.into() }
    }

    /// `None` if the daemon has written none since the machine was booted.
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(StateError::Read)?,
        };
        let state: NodeState = serde_json::from_slice(&text).map_err(StateError::Decode)?;
        if state.version == VERSION { Ok(Some(state)) } else { Err(StateError::Version(state.version)) }
    }

    /// The directory has to be there.
    pub fn write(&self, path: &Path) -> Result<(), StateError> {
        let text = serde_json::to_vec(self).map_err(StateError::Decode)?;
        files::replace(path, &text, Lifetime::Boot).map_err(StateError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_documentation_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(NodeState::read(&path).unwrap(), None);
        let cidrs = vec!["10.244.1.0/24".parse().unwrap(), "fd00:244:1::/64".parse().unwrap()];
        let state = NodeState::new(cidrs, Condition::Ready, "");
        state.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let documented =
            r#"{"version":1,"podCIDRs":["10.244.1.0/24","fd00:244:1::/64"],"condition":"ready"}"#;
        assert_eq!(text, documented);
        assert_eq!(NodeState::read(&path).unwrap(), Some(state));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other file is left");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        fs::write(&path, r#"{"version":2,"podCIDRs":[],"condition":"ready"}"#).unwrap();
        assert!(matches!(NodeState::read(&path), Err(StateError::Version(2))));
        fs::write(&path, "{").unwrap();
        assert!(matches!(NodeState::read(&path), Err(StateError::Decode(_))));
    }
}
