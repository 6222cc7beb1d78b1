//! What is mapped to what.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::super::error::CniError;
use crate::model::{Family, Protocol};

/// As runtimes say it (CNI's CONVENTIONS.md).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Runtimes list ports that are not mapped too, as 0.
    #[serde(default)]
    pub host_port: u16,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Option<String>,
    /// Where the node listens; anywhere without it.
    #[serde(default, rename = "hostIP")]
    pub host_ip: Option<String>,
}

/// One port of one family, at one address of the node or at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapped {
    pub protocol: Protocol,
    pub at: Option<IpAddr>,
    pub port: u16,
    pub pod: SocketAddr,
}

impl Mapped {
    pub fn is_udp(&self) -> bool {
        self.protocol == Protocol::Udp
    }
}

/// `udp port 53 of 10.0.0.1`
impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol.lowercase(), self.port)?;
        self.at.map_or(Ok(()), |address| write!(f, " of {address}"))
    }
}

impl PortMapping {
    pub fn validate(&self) -> Result<(), CniError> {
        if self.host_port == 0 {
            return Ok(());
        }
        if self.container_port == 0 {
            return Err(CniError::Config(format!("hostPort {} is mapped to port 0", self.host_port)));
        }
        if self.protocol().is_none() {
            let value = self.protocol.clone().unwrap_or_default();
            return Err(CniError::Field { key: "runtimeConfig.portMappings.protocol", value });
        }
        match self.address() {
            Ok(Some(address)) if address.is_loopback() => {
                let value = address.to_string();
                Err(CniError::Field { key: "runtimeConfig.portMappings.hostIP", value })
            }
            Ok(_) => Ok(()),
            Err(text) => Err(CniError::Config(format!("hostIP {text:?} is not an address"))),
        }
    }

    fn protocol(&self) -> Option<Protocol> {
        let name = self.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("tcp");
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        known.into_iter().find(|protocol| protocol.lowercase().eq_ignore_ascii_case(name))
    }

    /// `0.0.0.0` and `::` are any address of their family, nothing is any of both.
    fn address(&self) -> Result<Option<IpAddr>, &str> {
        let text = self.host_ip.as_deref().unwrap_or_default();
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| text) }
    }
}

/// What is to be mapped in one family: nothing where the pod has no address of it.
pub fn of_family(family: Family, addresses: &[IpAddr], mappings: &[PortMapping]) -> Vec<Mapped> {
    let Some(pod) = addresses.iter().find(|address| Family::of(**address) == family) else {
        return Vec::new();
    };
    let mut mapped: Vec<Mapped> = mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .filter_map(|mapping| {
            let at = mapping.address().ok()?;
            let is_meant = at.is_none_or(|address| Family::of(address) == family);
            is_meant.then_some(Mapped {
                protocol: mapping.protocol()?,
                at: at.filter(|address| !address.is_unspecified()),
                port: mapping.host_port,
                pod: SocketAddr::new(*pod, mapping.container_port),
            })
        })
        .collect();
    mapped.sort_unstable();
    mapped.dedup();
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(fields: &str) -> PortMapping {
        serde_json::from_str(&format!("{{{fields}}}")).unwrap()
    }

    #[test]
    fn a_mapping_is_for_both_families_unless_it_names_an_address() {
        let pod: Vec<IpAddr> = vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let count = |fields: &str| {
            let mapping = [mapping(fields)];
            mapping[0].validate().unwrap();
            Family::ALL.map(|family| of_family(family, &pod, &mapping).len())
        };
        assert_eq!(count(r#""hostPort":80,"containerPort":8080"#), [1, 1]);
        assert_eq!(count(r#""hostPort":80,"containerPort":8080,"hostIP":"""#), [1, 1]);
        assert_eq!(
            count(r#""hostPort":80,"containerPort":8080,"hostIP":"0.0.0.0","protocol":"UDP""#),
            [1, 0]
        );
        assert_eq!(count(r#""hostPort":80,"containerPort":8080,"hostIP":"fd00::1""#), [0, 1]);
        assert_eq!(count(r#""containerPort":8080"#), [0, 0]);
    }

    #[test]
    fn what_cannot_be_mapped_is_told() {
        for (fields, code) in [
            (r#""hostPort":80,"containerPort":0"#, 7),
            (r#""hostPort":80,"containerPort":80,"protocol":"icmp""#, 2),
            (r#""hostPort":80,"containerPort":80,"hostIP":"127.0.0.1""#, 2),
            (r#""hostPort":80,"containerPort":80,"hostIP":"node""#, 7),
        ] {
            assert_eq!(mapping(fields).validate().unwrap_err().code(), code, "{fields}");
        }
    }
}
