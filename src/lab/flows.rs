//! Flow tables: what must become of packets, one line for each, for people and for two kinds of tests.
//!
//! ```text
//! set masquerade-all=true
//! # source      protocol  destination            outcome
//! 10.244.1.9    tcp       10.96.0.10:80      ->  to 10.244.1.5:8080 10.244.2.5:8080
//! 172.18.0.100  udp       172.18.0.2:30053   ->  to 10.244.1.5:5353 masqueraded
//! 10.244.1.5    tcp       10.96.0.10:80      ->  to 10.244.2.5:8080 or to 10.244.1.5:8080 masqueraded
//! 10.244.1.9    tcp       10.96.0.11:80      ->  reject
//! ```
//!
//! The other outcomes are `drop`, `unused`, `unallocated` and `untouched`. Settings have the names of the proxy's flags and come first.

use std::net::{IpAddr, SocketAddr};

use crate::model::Protocol;
use crate::model::route::{Outcome, Source, Target};

/// A case: the settings that it needs and what must then become of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTable {
    /// Flag and value, in the order of the file.
    pub settings: Vec<(String, String)>,
    pub flows: Vec<Flow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it stands in the file, for messages.
    pub line: usize,
    pub source: IpAddr,
    pub protocol: Protocol,
    pub destination: IpAddr,
    pub port: u16,
    /// Targets are sorted, as [`route`](crate::model::route::route) gives them.
    pub outcome: Outcome,
}

impl FlowTable {
    /// With what a data plane makes of an outcome that it shares with no other: of addresses whose ports are not used, and
    /// of addresses that no Service has.
    pub fn with(mut self, outcome: &Outcome, instead: &Outcome) -> Self {
        for flow in self.flows.iter_mut().filter(|flow| flow.outcome == *outcome) {
            flow.outcome = instead.clone();
        }
        self
    }
}

/// What a line should have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}: {text:?}")]
pub struct ParseFlowError {
    pub line: usize,
    pub problem: &'static str,
    pub text: String,
}

/// Reads a flow table.
pub fn parse(text: &str) -> Result<FlowTable, ParseFlowError> {
    let mut table = FlowTable::default();
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let number = index + 1;
        let parsed = match content.strip_prefix("set ") {
            Some(_) if !table.flows.is_empty() => Err("settings come before flows"),
            Some(setting) => parse_setting(setting).map(|setting| table.settings.push(setting)),
            None => parse_flow(number, content).map(|flow| table.flows.push(flow)),
        };
        parsed.map_err(|problem| ParseFlowError { line: number, problem, text: content.to_owned() })?;
    }
    Ok(table)
}

fn parse_setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a setting is written `set flag=value`")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn parse_flow(line: usize, text: &str) -> Result<Flow, &'static str> {
    let (packet, outcome) = text.split_once("->").ok_or("no `->` before the outcome")?;
    let mut columns = packet.split_whitespace();
    let (Some(source), Some(protocol), Some(destination), None) =
        (columns.next(), columns.next(), columns.next(), columns.next())
    else {
        return Err("a packet has three columns: source, protocol, destination:port");
    };
    let source: IpAddr = source.parse().map_err(|_| "the source is not an IP address")?;
    let destination: SocketAddr =
        destination.parse().map_err(|_| "the destination is not address:port or [address]:port")?;
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("source and destination are of different families");
    }
    Ok(Flow {
        line,
        source,
        protocol: parse_protocol(protocol)?,
        destination: destination.ip(),
        port: destination.port(),
        outcome: parse_outcome(outcome.trim())?,
    })
}

fn parse_protocol(text: &str) -> Result<Protocol, &'static str> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.lowercase() == text)
        .ok_or("the protocol is none of tcp, udp, sctp")
}

fn parse_outcome(text: &str) -> Result<Outcome, &'static str> {
    match text {
        "reject" => Ok(Outcome::Reject),
        "drop" => Ok(Outcome::Drop),
        "unused" => Ok(Outcome::Unused),
        "unallocated" => Ok(Outcome::Unallocated),
        "untouched" => Ok(Outcome::Untouched),
        _ => {
            let mut targets = Vec::new();
            for alternative in text.split(" or ") {
                targets.extend(parse_targets(alternative.trim())?);
            }
            targets.sort();
            Ok(Outcome::Forward(targets))
        }
    }
}

/// `to 10.244.1.5:8080 10.244.2.5:8080 masqueraded`
fn parse_targets(text: &str) -> Result<Vec<Target>, &'static str> {
    let list = text.strip_prefix("to ").ok_or("the outcome is none of: to, reject, drop, untouched")?;
    let (list, source) = match list.strip_suffix(" masqueraded") {
        Some(list) => (list, Source::Masqueraded),
        None => (list, Source::Kept),
    };
    list.split_whitespace()
        .map(|endpoint| match endpoint.parse() {
            Ok(endpoint) => Ok(Target { source, endpoint }),
            Err(_) => Err("an endpoint is not address:port or [address]:port"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(endpoint: &str, source: Source) -> Target {
        Target { source, endpoint: endpoint.parse().unwrap() }
    }

    #[test]
    fn reads_settings_flows_and_comments() {
        let table = parse(
            "# a case\nset masquerade-all=true\n\n10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.2.5:8080 10.244.1.5:8080 # any\n",
        )
        .unwrap();
        assert_eq!(table.settings, [("masquerade-all".to_owned(), "true".to_owned())]);
        let flow = &table.flows[0];
        assert_eq!((flow.line, flow.protocol, flow.port), (4, Protocol::Tcp, 80));
        let targets = ["10.244.1.5:8080", "10.244.2.5:8080"].map(|endpoint| target(endpoint, Source::Kept));
        assert_eq!(flow.outcome, Outcome::Forward(targets.to_vec()));
    }

    #[test]
    fn each_outcome_prints_as_it_is_read() {
        for text in [
            "to 10.244.1.5:8080 10.244.2.5:8080",
            "to [fd00:244:1::5]:8080 masqueraded",
            "to 10.244.2.5:8080 or to 10.244.1.5:8080 masqueraded",
            "reject",
            "drop",
            "unused",
            "untouched",
        ] {
            assert_eq!(parse_outcome(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_name_line_and_text() {
        for (text, expected) in [
            ("set x", "line 1: a setting is written `set flag=value`: \"set x\""),
            (
                "\n10.0.0.1 tcp 10.0.0.2:80",
                "line 2: no `->` before the outcome: \"10.0.0.1 tcp 10.0.0.2:80\"",
            ),
            (
                "10.0.0.1 tcp 10.0.0.2 -> drop",
                "line 1: the destination is not address:port or [address]:port: \"10.0.0.1 tcp 10.0.0.2 -> drop\"",
            ),
            (
                "10.0.0.1 icmp 10.0.0.2:1 -> drop",
                "line 1: the protocol is none of tcp, udp, sctp: \"10.0.0.1 icmp 10.0.0.2:1 -> drop\"",
            ),
            (
                "10.0.0.1 tcp [fd00::1]:1 -> drop",
                "line 1: source and destination are of different families: \"10.0.0.1 tcp [fd00::1]:1 -> drop\"",
            ),
            (
                "10.0.0.1 tcp 10.0.0.2:1 -> lost",
                "line 1: the outcome is none of: to, reject, drop, untouched: \"10.0.0.1 tcp 10.0.0.2:1 -> lost\"",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_setting_after_a_flow_is_refused() {
        let text = "10.0.0.1 tcp 10.0.0.2:1 -> drop\nset masquerade-all=true";
        assert_eq!(parse(text).unwrap_err().line, 2);
    }
}
