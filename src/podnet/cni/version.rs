//! Versions of the CNI specification.

use std::fmt;

use serde::Serialize;

/// What this plugin speaks. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_3_1,
    /// Has CHECK.
    V0_4_0,
    /// No longer tells the family of an address.
    V1_0_0,
    /// Has GC and STATUS.
    V1_1_0,
}

impl Version {
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    pub const NEWEST: Version = Version::V1_1_0;

    pub fn parse(text: &str) -> Option<Self> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to VERSION.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SupportedVersions {
    cni_version: String,
    supported_versions: [&'static str; 4],
}

impl SupportedVersions {
    /// Says back the version that was asked in, whichever it is.
    pub fn asked_in(version: Option<String>) -> Self {
        SupportedVersions {
            cni_version: version.unwrap_or_else(|| Version::NEWEST.to_string()),
            supported_versions: Version::ALL.map(Version::as_str),
        }
    }
}
