//! Rules that every mode writes to nf_tables in the same words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::kernel::nftables::expression::{FibLookup, FibScope, PacketEnd};
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::statement::Reject;
use crate::kernel::nftables::{Rule, Statement, Value, Verdict};
use crate::model::{Family, Protocol};

/// Leads to a chain what is for an address of the node that has NodePorts, `None` for all of them. The kernel knows the
/// node's own addresses: nothing has to be polled. Loopback addresses have no NodePorts here, as that would need
/// `route_localnet` (CVE-2020-8558).
pub fn to_node(family: Family, node_ports: Option<&[IpNet]>, chain: &str) -> Vec<Rule> {
    let destination = Selector::DestinationAddress(family);
    let lookup = FibLookup { end: PacketEnd::Destination, scope: FibScope::Anywhere };
    let rule = |network: Option<&IpNet>| {
        let within = network.map(|network| Statement::Within(destination.clone(), *network));
        let own = [
            Statement::Outside(destination.clone(), loopback(family)),
            Statement::IsLocal(Selector::AddressType(lookup)),
            Statement::Verdict(Verdict::Goto(chain.into())),
        ];
        Rule::new(within.into_iter().chain(own).collect::<Vec<_>>())
    };
    match node_ports {
        None => vec![rule(None)],
        Some(networks) => networks.iter().map(|network| rule(Some(network))).collect(),
    }
}

/// A reset is taken at once. An ICMP error that finds its local socket busy connecting is kept as a soft error: the
/// client hears of it a second later, when its SYN was repeated. What has no ports, such as ping, is left alone.
pub fn rejection(family: Family) -> Vec<Rule> {
    let rule = |protocol, how| {
        let is = Statement::Is(Selector::Protocol, Value::protocol(protocol));
        Rule::new([is, Statement::Reject(how)])
    };
    vec![
        rule(Protocol::Tcp, Reject::TcpReset),
        rule(Protocol::Udp, Reject::PortUnreachable(family)),
        rule(Protocol::Sctp, Reject::PortUnreachable(family)),
    ]
}

pub fn dropping(matches: impl Into<Vec<Statement>>) -> Rule {
    let mut statements = matches.into();
    statements.push(Statement::Verdict(Verdict::Drop));
    Rule::new(statements)
}

pub fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::V6 => IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)),
    }
}
