//! The network configuration, which comes on standard input.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::error::CniError;
use super::host_ports::PortMapping;
use super::parameters::is_container_id;
use super::version::Version;
use crate::model::Family;

const DATA_DIRECTORY: &str = "/var/lib/cni/ferrovia";
/// IPv6 needs 1280 (RFC 8200), IPv4 68 (RFC 791).
const SMALLEST_MTU: [(Family, u32); 2] = [(Family::V4, 68), (Family::V6, 1280)];
/// What an interface can have at most, `ETH_MAX_MTU`.
const LARGEST_MTU: u32 = 65_535;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    pub name: String,
    /// Networks from which pods get addresses, one address of each family: pod CIDRs of the node, or parts of them.
    #[serde(default)]
    pub ranges: Vec<IpNet>,
    /// In bytes, the kernel's 1500 without it.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default = "data_directory")]
    pub data_dir: PathBuf,
    /// Where the daemon tells of the node. Without it, anything goes.
    #[serde(default)]
    pub state_file: Option<PathBuf>,
    /// Handed through.
    #[serde(default)]
    pub dns: Option<Value>,
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    #[serde(default)]
    pub prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// What the runtime has for capabilities that the configuration declares.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    #[serde(default)]
    pub mac: Option<String>,
}

/// Rates in bits per second, bursts in bits. `ingress` is what the pod receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

fn data_directory() -> PathBuf {
    DATA_DIRECTORY.into()
}

impl Config {
    /// Takes what DEL needs. Whoever attaches has to [`validate`](Self::validate) too.
    pub fn decode(input: &[u8]) -> Result<Self, CniError> {
        let decoded = serde_json::from_slice(input);
        let config: Config =
            decoded.map_err(|source| CniError::Decode { what: "the network configuration", source })?;
        config.version()?;
        if !is_container_id(&config.name) {
            return Err(CniError::Config(format!("name {:?} is not one of a network", config.name)));
        }
        Ok(config)
    }

    /// The version that a configuration says it is of, if only that can be read.
    pub fn declared_version(input: &[u8]) -> Option<String> {
        serde_json::from_slice::<Value>(input).ok()?.get("cniVersion")?.as_str().map(str::to_owned)
    }

    /// Configurations that name none are of 0.1.0, which has other results.
    pub fn version(&self) -> Result<Version, CniError> {
        let declared = self.cni_version.as_deref().unwrap_or("0.1.0");
        Version::parse(declared).ok_or_else(|| CniError::Version(declared.to_owned()))
    }

    pub fn ranges_of(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.ranges.iter().copied().filter(move |range| family.contains(range))
    }

    /// Everything that ADD wants to be right.
    pub fn validate(&self) -> Result<(), CniError> {
        if self.ranges.is_empty() {
            return Err(CniError::Config("ranges names no network".into()));
        }
        self.ranges.iter().try_for_each(|range| check_range(*range))?;
        self.check_mtu()?;
        self.runtime_config.port_mappings.iter().try_for_each(PortMapping::validate)?;
        self.runtime_config.bandwidth.map_or(Ok(()), |bandwidth| bandwidth.validate())
    }

    fn check_mtu(&self) -> Result<(), CniError> {
        let Some(mtu) = self.mtu else { return Ok(()) };
        let families =
            SMALLEST_MTU.into_iter().filter(|(family, _)| self.ranges_of(*family).next().is_some());
        let smallest = families.map(|(_, mtu)| mtu).max().unwrap_or_default();
        if (smallest..=LARGEST_MTU).contains(&mtu) {
            return Ok(());
        }
        Err(CniError::Config(format!("mtu {mtu} is not between {smallest} and {LARGEST_MTU}")))
    }
}

/// Networks in which a pod would not be reached, or would take what is not a pod's.
fn check_range(range: IpNet) -> Result<(), CniError> {
    let address = range.network();
    let is_link_local = match address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_everything = range.prefix_len() == 0;
    if is_everything || address.is_loopback() || address.is_multicast() || is_link_local {
        return Err(CniError::Config(format!("ranges has {range}, which has no addresses for pods")));
    }
    Ok(())
}

impl Bandwidth {
    /// A rate without a burst, or the other way round, lets nothing through.
    fn validate(self) -> Result<(), CniError> {
        let pairs = [(self.ingress_rate, self.ingress_burst), (self.egress_rate, self.egress_burst)];
        match pairs.into_iter().find(|(rate, burst)| (*rate == 0) != (*burst == 0)) {
            None => Ok(()),
            Some((rate, burst)) => {
                Err(CniError::Config(format!("bandwidth has the rate {rate} and the burst {burst}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(fields: &str) -> Result<Config, CniError> {
        Config::decode(format!(r#"{{"cniVersion":"1.1.0","name":"pods"{fields}}}"#).as_bytes())
    }

    fn problem(fields: &str) -> (u32, String) {
        let error = decode(fields).and_then(|config| config.validate()).unwrap_err();
        (error.code(), error.to_string())
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = decode(r#","ranges":["10.244.1.0/24"],"type":"ferrovia-cni","unknown":1"#).unwrap();
        config.validate().unwrap();
        assert_eq!(config.data_dir.to_str(), Some("/var/lib/cni/ferrovia"));
        assert_eq!((config.mtu, config.state_file), (None, None));
    }

    #[test]
    fn versions_and_names_are_checked_first() {
        let code = |text: &str| Config::decode(text.as_bytes()).unwrap_err().code();
        assert_eq!(code(r#"{"cniVersion":"0.2.0","name":"pods"}"#), 1);
        assert_eq!(code(r#"{"name":"pods"}"#), 1);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","name":"../pods"}"#), 7);
        assert_eq!(code(r#"{"cniVersion":"1.0.0""#), 6);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","name":"pods","ranges":["10.0.0.0/33"]}"#), 6);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(problem("").0, 7);
        for range in ["0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/8", "fe80::/64", "ff00::/16"] {
            let (code, message) = problem(&format!(r#","ranges":["{range}"]"#));
            assert!(code == 7 && message.contains(range), "{code} {message}");
        }
        assert_eq!(problem(r#","ranges":["fd00::/64"],"mtu":1279"#).0, 7);
        let half = r#","ranges":["10.0.0.0/24"],"runtimeConfig":{"bandwidth":{"ingressRate":1000}}"#;
        assert_eq!(problem(half).0, 7);
        decode(r#","ranges":["10.0.0.0/24"],"mtu":1000"#).unwrap().validate().unwrap();
    }
}
