//! From the configuration to the parts of the program.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{self, Config};
use crate::kernel::iptables::{Flavour, Programs};
use crate::kernel::sysctl;
use crate::modes::iptables::{InvalidPackets, MasqueradePorts, Settings as IptablesSettings};
use crate::modes::ipvs::{Settings as IpvsSettings, VirtualAddressing};
use crate::modes::nftables::{Counting, Settings as NftablesSettings};
use crate::modes::userspace::{Limits, Listeners, Settings as UserspaceSettings, Source};
use crate::sync::compile;

use super::proxy::Schedulers;

/// What compile has to know of the configuration.
pub fn compile_settings(config: &Config, schedulers: Schedulers) -> compile::Settings {
    compile::Settings {
        node_name: Arc::from(config.node_name.as_str()),
        node_addresses: config.node_ip.into_iter().collect(),
        allowed_external_ips: allowed_external_ips(&config.allowed_external_ips),
        schedulers: schedulers.there,
        missing_schedulers: schedulers.missing,
        default_scheduler: schedulers.default,
        default_hashing: config.ipvs.hashing,
        node_port_addresses: config.node_port_addresses.clone(),
        detect_local: config.detect_local.clone(),
        masquerade_all: config.masquerade.all,
    }
}

fn allowed_external_ips(allowed: &config::AllowedExternalIps) -> Vec<IpNet> {
    match allowed {
        config::AllowedExternalIps::All => vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
        config::AllowedExternalIps::In(networks) => networks.clone(),
    }
}

/// What the iptables mode has to know of the configuration and of the programs at hand. Without programs, as `ferrovia
/// plan` has none to ask, they are taken to be of this decade.
pub fn iptables_settings(config: &Config, programs: Option<&Programs>) -> IptablesSettings {
    IptablesSettings {
        masquerade_bit: config.masquerade.mark.trailing_zeros() as u8,
        ports: match programs.is_none_or(Programs::has_random_fully) {
            true => MasqueradePorts::FullyRandom,
            false => MasqueradePorts::Hashed,
        },
        invalid: invalid_packets(config, programs.is_some() && sysctl::tcp_is_liberal()),
    }
}

fn invalid_packets(config: &Config, kernel_is_liberal: bool) -> InvalidPackets {
    match config.conntrack.tcp_be_liberal || kernel_is_liberal {
        true => InvalidPackets::Pass,
        false => InvalidPackets::Drop,
    }
}

/// What the nftables mode has to know of the configuration.
pub fn nftables_settings(config: &Config, node: Node) -> NftablesSettings {
    let is_liberal = node == Node::This && sysctl::tcp_is_liberal();
    NftablesSettings {
        mark: config.masquerade.mark,
        invalid: invalid_packets(config, is_liberal),
        counting: if config.service_counters { Counting::On } else { Counting::Off },
    }
}

/// What the userspace mode has to know of the configuration. Nobody listens for a plan that is only shown.
pub fn userspace_settings(config: &Config, ports: Listeners) -> UserspaceSettings {
    UserspaceSettings { mark: config.masquerade.mark, ports }
}

/// What this process carries at the most, with this many file descriptors.
pub fn userspace_limits(config: &Config, descriptors: u64) -> Limits {
    let source = match config.userspace.source {
        config::SourceAddress::Replaced => Source::ThisNode,
        config::SourceAddress::PreservedOnThisNode => Source::ClientWhereAnswersComeBack,
    };
    let possible = Limits::of_descriptors(descriptors);
    let wanted = &config.userspace.limits;
    let least =
        |possible: usize, wanted: Option<usize>| wanted.map_or(possible, |wanted| wanted.min(possible));
    Limits {
        source,
        drain: config.userspace.drain_timeout,
        connections: least(possible.connections, wanted.connections),
        pipes: least(possible.pipes, wanted.pipes),
        udp_flows: least(possible.udp_flows, wanted.udp_flows),
        ..possible
    }
}

/// What node a plan is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Node {
    This,
    /// Nothing is known of its kernel.
    Any,
}

/// `None` is whichever is in use.
pub fn flavour(config: &Config) -> Option<Flavour> {
    match config.iptables_flavour {
        config::IptablesFlavour::Auto => None,
        config::IptablesFlavour::Legacy => Some(Flavour::Legacy),
        config::IptablesFlavour::Nft => Some(Flavour::Nft),
    }
}

/// What the IPVS mode has to know of the configuration; without programs as for [`iptables_settings`].
pub fn ipvs_settings(config: &Config, programs: Option<&Programs>) -> IpvsSettings {
    IpvsSettings {
        iptables: iptables_settings(config, programs),
        exclude: config.ipvs.exclude.clone(),
        drain_timeout: config.ipvs.drain_timeout,
        virtual_addresses: match config.ipvs.virtual_addresses {
            config::VirtualAddressing::Routes => VirtualAddressing::Routes,
            config::VirtualAddressing::Device => VirtualAddressing::Device,
        },
    }
}
