//! The result of ADD, which comes back as `prevResult`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

use super::error::CniError;
use super::version::Version;

/// What is not known here is handed on as it came.
type Others = Map<String, Value>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniResult {
    pub cni_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
    #[serde(flatten)]
    pub others: Others,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the network namespace, empty for the node's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub others: Others,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// `4` or `6`, before 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Of which interface, by its place in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    #[serde(flatten)]
    pub others: Others,
}

impl Ip {
    pub fn new(version: Version, address: IpNet, gateway: IpAddr, interface: usize) -> Self {
        let family = if address.addr().is_ipv4() { "4" } else { "6" };
        Ip {
            version: (version < Version::V1_0_0).then(|| family.to_owned()),
            address,
            gateway: Some(gateway),
            interface: Some(interface),
            others: Others::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    pub others: Others,
}

impl Route {
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Route { dst, gw, others: Others::new() }
    }
}

impl CniResult {
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        CniResult::deserialize(value).map_err(|source| CniError::Decode { what: "prevResult", source })
    }

    /// The interface of this name in the pod.
    pub fn pod_interface(&self, name: &str) -> Option<(usize, &Interface)> {
        let mut interfaces = self.interfaces.iter().enumerate();
        interfaces.find(|(_, interface)| interface.name == name && !interface.sandbox.is_empty())
    }
}
