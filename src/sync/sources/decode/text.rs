//! What the API writes as text: addresses, networks, names, times.

use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use jiff::Timestamp;

use super::lenient::quoted;

/// An address in the one spelling that everybody reads alike.
///
/// Old objects may hold `010.0.0.1`, which Kubernetes reads as 10.0.0.1 and the C library as 8.0.0.1 (CVE-2021-29923),
/// and `::ffff:10.0.0.1`, which Go takes for IPv4. New objects may hold neither (KEP-4858); nor do ours.
pub fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{} is an IPv4 address in IPv6 form", quoted(text)))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{} is not an IP address", quoted(text))),
    }
}

/// A network in CIDR form. Bits beyond the prefix are cleared, as Kubernetes does.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let bad = || format!("{} is not a network like 10.0.0.0/8 or fd00::/64", quoted(text));
    let (base, length) = text.split_once('/').ok_or_else(bad)?;
    let prefix = length.parse().map_err(|_| bad())?;
    if length.len() > 1 && !length.starts_with(|c: char| ('1'..='9').contains(&c)) {
        return Err(bad());
    }
    let network = IpNet::new(address(base).map_err(|_| bad())?, prefix).map_err(|_| bad())?;
    Ok(network.trunc())
}

pub fn port(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{number} is not a port number")),
    }
}

pub fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{} is not an RFC 3339 time", quoted(text)))
}

/// `None` for what cannot be read: the time only serves a metric.
pub fn system_time(text: &str) -> Option<SystemTime> {
    Some(SystemTime::from(time(text).ok()?))
}

/// A DNS label (RFC 1123): the form of namespaces, Services and port names. API servers hold this for us; manifests do
/// not, and names go into rule comments.
pub fn label(text: &str) -> Result<(), String> {
    check_name(text, 63, "letters a-z, digits and '-'", |c| c == b'-')
}

/// Labels joined by dots (RFC 1123 subdomain): the form of nodes and EndpointSlices.
pub fn subdomain(text: &str) -> Result<(), String> {
    check_name(text, 253, "letters a-z, digits, '-' and '.'", |c| c == b'-' || c == b'.')
}

fn check_name(text: &str, most: usize, allowed: &str, joint: fn(u8) -> bool) -> Result<(), String> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return Err("is empty".to_owned());
    };
    if text.len() > most {
        return Err(format!("{} is longer than {most} characters", quoted(text)));
    }
    if !bytes.iter().all(|&c| plain(c) || joint(c)) || !plain(first) || !plain(last) {
        return Err(format!("{} is not a name of {allowed}, a letter or digit at both ends", quoted(text)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_read_in_two_ways_are_refused() {
        assert_eq!(address("10.0.0.1"), Ok([10, 0, 0, 1].into()));
        assert!(address("fd00::1").is_ok());
        for bad in [
            "010.0.0.1",
            "10.0.0.01",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
            "10.0.0",
            "",
            " 10.0.0.1",
            "10.0.0.1\n",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_tolerate_white_space_and_host_bits() {
        assert_eq!(network(" 10.1.2.3/8\t").map(|n| n.to_string()), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network("0.0.0.0/0").map(|n| n.to_string()), Ok("0.0.0.0/0".to_owned()));
        assert_eq!(network("fd00::5/64").map(|n| n.to_string()), Ok("fd00::/64".to_owned()));
        for bad in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "010.0.0.0/8", "/8", "a/8", "10.0.0.0/"]
        {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!((port(1), port(65_535)), (Ok(1), Ok(65_535)));
        for bad in [0, -1, 65_536, i64::MAX] {
            assert_eq!(port(bad), Err(format!("{bad} is not a port number")));
        }
    }

    #[test]
    fn names_are_those_that_an_api_server_lets_in() {
        for good in ["a", "web-1", "0"] {
            assert!(label(good).is_ok(), "{good:?}");
        }
        assert!(label(&"a".repeat(63)).is_ok());
        assert!(subdomain("node-1.example.org").is_ok());
        for bad in ["", "-a", "a-", "a.b", "A", "a b", "a\"b", "a\nb", "é", &"a".repeat(64)] {
            assert!(label(bad).is_err(), "{bad:?}");
        }
        assert!(subdomain(&"a".repeat(300)).is_err());
    }
}
