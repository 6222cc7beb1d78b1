//! The data plane that was asked for, one for each address family that this machine has.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use anyhow::bail;

use crate::cli::assemble;
use crate::config::{self, Config};
use crate::kernel::descriptors;
use crate::kernel::ipset::KernelSets;
use crate::kernel::iptables::{self, Door, Flavour, Programs};
use crate::kernel::ipvs::{Ipvs as _, KernelIpvs, Timeouts};
use crate::kernel::local_delivery::KernelDelivery;
use crate::kernel::nftables::probe::{Ability, probe};
use crate::kernel::nftables::{self as door, KernelNftables, NftablesError};
use crate::kernel::sysctl::{self, Arp, IpvsNode, NodeSettings as _};
use crate::kernel::virtual_addresses::{DummyDevice, LocalRoutes, VirtualAddresses};
use crate::model::{Family, Scheduler, ServiceTable};
use crate::modes::iptables::Iptables;
use crate::modes::ipvs::{DeviceUse, Doors, Ipvs, KubeProxy, LONGEST_DEPARTURE, Remains, VirtualAddressing};
use crate::modes::nftables::{self, Counting, LeftTable, Nftables};
use crate::modes::userspace::handover::{self, Group, Predecessor};
use crate::modes::userspace::{ByIptables, ByNftables, Engine, LeftDelivery, LeftRules, Userspace};
use crate::modes::{Leftovers, Mode, OtherFlavour};

/// A mode, ready to be driven.
pub struct Planes<M: Mode> {
    pub of_families: Vec<(ServiceTable, M)>,
    pub schedulers: Schedulers,
    /// Where this process carries the connections.
    pub engine: Option<Engine>,
}

/// The schedulers of a mode on this kernel.
#[derive(Debug, Default)]
pub struct Schedulers {
    /// Its default first.
    pub there: Box<[Scheduler]>,
    /// Those that the mode has and this kernel does not.
    pub missing: Box<[Scheduler]>,
    /// For Services that ask for none.
    pub default: Option<Scheduler>,
}

impl Schedulers {
    /// As if the kernel had all that the mode can use.
    pub fn all(schedulers: &[Scheduler], default: Option<Scheduler>) -> Self {
        Schedulers { there: schedulers.into(), missing: Box::default(), default }
    }

    /// Of a mode that brings its own. `--scheduler` must be among them; a Service that asks for another one gets the
    /// default and an Event.
    pub fn of_mode<M: Mode>(config: &Config) -> anyhow::Result<Self> {
        match config.scheduler {
            Some(wanted) if !M::SCHEDULERS.contains(&wanted) => bail!(
                "--scheduler={wanted}: the {} mode does not have it; modes that do: {}",
                config.mode.name(),
                wanted.modes()
            ),
            default => Ok(Schedulers::all(M::SCHEDULERS, default)),
        }
    }

    /// Those of IPVS are modules of the kernel.
    fn of_kernel(ipvs: &mut KernelIpvs, config: &Config) -> anyhow::Result<Self> {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for &scheduler in Ipvs::<Programs>::SCHEDULERS {
            let found = ipvs.has_scheduler(scheduler.name())?;
            if found { &mut there } else { &mut missing }.push(scheduler);
        }
        if there.is_empty() {
            bail!("this kernel has IPVS and none of its schedulers: load a module such as ip_vs_rr");
        }
        let default = config.ipvs.scheduler.filter(|wanted| there.contains(wanted));
        Ok(Schedulers { there: there.into(), missing: missing.into(), default })
    }

    /// That the operator's choice cannot be had, in words.
    pub fn complaint(&self, config: &Config) -> Option<String> {
        let wanted = config.ipvs.scheduler.filter(|wanted| self.missing.contains(wanted))?;
        let used = self.there.first()?;
        Some(format!(
            "--ipvs-scheduler={wanted}: this kernel does not have it (module ip_vs_{wanted}); {used} is used"
        ))
    }
}

pub fn iptables(config: &Config) -> anyhow::Result<Planes<Iptables<Programs>>> {
    let schedulers = Schedulers::of_mode::<Iptables<Programs>>(config)?;
    let of_families = for_each_family(config, |programs| {
        let settings = assemble::iptables_settings(config, Some(&programs));
        let (family, flavour) = (programs.family(), programs.flavour());
        let mut leftovers = leftovers(family, flavour, DeviceUse::Nobodys);
        leftovers.extend([
            boxed(remains(config, family)),
            boxed(LeftTable::ours(family)),
            boxed(LeftRules(family)),
            boxed(LeftDelivery(family)),
        ]);
        Ok(Iptables::new(programs, settings).in_place_of(leftovers))
    })?;
    Ok(Planes { of_families, schedulers, engine: None })
}

pub fn ipvs(config: &Config) -> anyhow::Result<Planes<Ipvs<Programs>>> {
    let mut kernel = KernelIpvs::open()?;
    let node = Cell::new(Some(set_up(&mut kernel, config)));
    let schedulers = Schedulers::of_kernel(&mut kernel, config)?;
    let of_families = for_each_family(config, |programs| {
        let (family, flavour) = (programs.family(), programs.flavour());
        let settings = assemble::ipvs_settings(config, Some(&programs));
        let device = match settings.virtual_addresses {
            VirtualAddressing::Device => DeviceUse::Ours,
            VirtualAddressing::Routes => DeviceUse::Nobodys,
        };
        let doors = doors(family, settings.virtual_addresses)?;
        let mut leftovers = leftovers(family, flavour, device);
        leftovers.extend([
            boxed(LeftTable::ours(family)),
            boxed(LeftRules(family)),
            boxed(LeftDelivery(family)),
        ]);
        let mode = Ipvs::new(programs, doors, settings).in_place_of(leftovers);
        // They are not of a family: one of the modes cares for all of them.
        Ok(match node.take() {
            Some(node) => mode.on_node(Box::new(node)),
            None => mode,
        })
    })?;
    Ok(Planes { of_families, schedulers, engine: None })
}

/// nf_tables needs no programs. Those of iptables are only for taking out what they put in.
pub fn nftables(config: &Config) -> anyhow::Result<Planes<Nftables<KernelNftables>>> {
    let schedulers = Schedulers::of_mode::<Nftables<KernelNftables>>(config)?;
    tracing::info!(mode = config.mode.name(), node = config.node_name, "Starting");
    let settings = assemble::nftables_settings(config, assemble::Node::This);
    let of_families = planes(config, |family| {
        let (mut door, watch) = nftables::open(family)?;
        let missing = require(&mut door, family)?;
        let settings =
            nftables::Settings { counting: counting(settings.counting, family, &missing), ..settings };
        let rules = Programs::installed(family).into_iter().map(|programs| boxed(OtherFlavour(programs)));
        let mut leftovers: Vec<Box<dyn Leftovers>> = rules.collect();
        leftovers.extend([
            boxed(KubeProxy { family, device: DeviceUse::Nobodys }),
            boxed(remains(config, family)),
            boxed(LeftTable::kube_proxys(family)),
            boxed(LeftRules(family)),
            boxed(LeftDelivery(family)),
        ]);
        Ok(Nftables::new(family, door, watch, settings).in_place_of(leftovers))
    })?;
    Ok(Planes { of_families, schedulers, engine: None })
}

/// Connections by this process, which nf_tables gives it.
pub fn userspace(config: &Config) -> anyhow::Result<Planes<Userspace<ByNftables<KernelNftables>>>> {
    let schedulers = Schedulers::of_mode::<Userspace<ByNftables<KernelNftables>>>(config)?;
    tracing::info!(mode = config.mode.name(), node = config.node_name, "Starting");
    let (engine, predecessor) = engine(config)?;
    let settings = assemble::userspace_settings(config, engine.listeners);
    let of_families = planes(config, |family| {
        let delivery = delivery(&engine, family, settings.mark)?;
        let (door, watch) = nftables::open(family)?;
        let rules = Programs::installed(family).into_iter().map(|programs| boxed(OtherFlavour(programs)));
        let mut leftovers: Vec<Box<dyn Leftovers>> = rules.collect();
        leftovers.extend([
            boxed(KubeProxy { family, device: DeviceUse::Nobodys }),
            boxed(remains(config, family)),
            boxed(LeftTable::kube_proxys(family)),
            boxed(LeftRules(family)),
        ]);
        let capture = ByNftables::new(family, door, watch, settings);
        let frontends = Arc::clone(&engine.shared.frontends);
        Ok(Userspace::new(family, capture, delivery, frontends)
            .in_turn(Arc::clone(&engine.turn))
            .in_place_of(leftovers))
    })?;
    let engine = in_turn(engine, predecessor, &of_families)?;
    Ok(Planes { of_families, schedulers, engine: Some(engine) })
}

/// The same, given by iptables and sets.
pub fn userspace_by_iptables(config: &Config) -> anyhow::Result<Planes<Userspace<ByIptables<Programs>>>> {
    let schedulers = Schedulers::of_mode::<Userspace<ByIptables<Programs>>>(config)?;
    let (engine, predecessor) = engine(config)?;
    let settings = assemble::userspace_settings(config, engine.listeners);
    let of_families = for_each_family(config, |programs| {
        let (family, flavour) = (programs.family(), programs.flavour());
        let delivery = delivery(&engine, family, settings.mark)?;
        let mut leftovers = leftovers(family, flavour, DeviceUse::Nobodys);
        leftovers.extend([boxed(remains(config, family)), boxed(LeftTable::ours(family))]);
        let capture = ByIptables::new(programs, Box::new(KernelSets::open()?), settings);
        let frontends = Arc::clone(&engine.shared.frontends);
        Ok(Userspace::new(family, capture, delivery, frontends)
            .in_turn(Arc::clone(&engine.turn))
            .in_place_of(leftovers))
    })?;
    let engine = in_turn(engine, predecessor, &of_families)?;
    Ok(Planes { of_families, schedulers, engine: Some(engine) })
}

fn engine(config: &Config) -> anyhow::Result<(Engine, Option<Predecessor>)> {
    let limits = assemble::userspace_limits(config, descriptors::raise_limit());
    let (inherited, predecessor) = handover::ask(Group::Captured).unzip();
    Ok((Engine::start(limits, Arc::default(), inherited.unwrap_or_default())?, predecessor))
}

/// The predecessor is relieved once all Services of the families that work here are known.
fn in_turn<M>(
    mut engine: Engine,
    predecessor: Option<Predecessor>,
    of_families: &[(ServiceTable, M)],
) -> anyhow::Result<Engine> {
    engine.families = of_families.iter().map(|(table, _)| table.family()).collect();
    engine.prepare_handover(predecessor)?;
    Ok(engine)
}

fn delivery(engine: &Engine, family: Family, mark: u32) -> anyhow::Result<Box<KernelDelivery>> {
    if !engine.families.contains(&family) {
        bail!("nobody listens for it");
    }
    Ok(Box::new(KernelDelivery::open(family, mark)?))
}

/// Services that are not counted are better than none.
fn counting(wanted: Counting, family: Family, missing: &[Ability]) -> Counting {
    if wanted == Counting::On && missing.contains(&Ability::CountedSets) {
        tracing::error!(%family, "--service-counters: this kernel's sets cannot count (Linux 5.7)");
        return Counting::Off;
    }
    wanted
}

/// That the kernel has all that the mode writes. Tells what is missing of the rest.
pub(super) fn require(kernel: &mut dyn door::Nftables, family: Family) -> anyhow::Result<Vec<Ability>> {
    let missing = probe(kernel, family, "ferrovia-probe").missing;
    let is_optional = |(ability, _): &(Ability, _)| Ability::OPTIONAL.contains(ability);
    let (optional, needed): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_optional);
    let names: Vec<String> = needed.iter().map(|(ability, _)| ability.to_string()).collect();
    match needed.into_iter().next() {
        None => Ok(optional.into_iter().map(|(ability, _)| ability).collect()),
        Some((_, reason @ NftablesError::NotTaken { .. })) => Err(reason.into()),
        Some((first, reason)) => {
            bail!("this kernel's nf_tables lacks {}; of {first}: {reason}", names.join(", "))
        }
    }
}

fn with_hint(error: anyhow::Error) -> anyhow::Error {
    let is_denied = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    let lacks_right = error.chain().any(|cause| cause.downcast_ref().is_some_and(is_denied));
    if lacks_right { error.context("the capability CAP_NET_ADMIN is missing") } else { error }
}

fn boxed(left: impl Leftovers + 'static) -> Box<dyn Leftovers> {
    Box::new(left)
}

/// Of the IPVS mode.
fn remains(config: &Config, family: Family) -> Remains {
    Remains::new(family, config.ipvs.drain_timeout.unwrap_or(LONGEST_DEPARTURE))
}

/// What other proxies may have left, whatever the mode in use.
fn leftovers(family: Family, flavour: Flavour, device: DeviceUse) -> Vec<Box<dyn Leftovers>> {
    let other = Programs::find(family, Some(flavour.other())).ok().map(OtherFlavour);
    let mut all = vec![boxed(KubeProxy { family, device }), boxed(LeftTable::kube_proxys(family))];
    all.extend(other.map(boxed));
    all
}

/// Timeouts and sysctls; returns the latter. What cannot be set is told and does not keep Services from working.
pub fn set_up(kernel: &mut KernelIpvs, config: &Config) -> IpvsNode {
    let seconds = |timeout: Option<std::time::Duration>| {
        timeout.map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX))
    };
    let timeouts = &config.ipvs.timeouts;
    let timeouts = Timeouts {
        tcp: seconds(timeouts.tcp),
        tcp_fin: seconds(timeouts.tcp_fin),
        udp: seconds(timeouts.udp),
    };
    if timeouts != Timeouts::default()
        && let Err(error) = kernel.set_timeouts(timeouts)
    {
        tracing::error!(error = &error as &dyn std::error::Error, "Cannot set the timeouts of IPVS");
    }
    let mut node = node_settings(config);
    node.hold();
    node
}

fn node_settings(config: &Config) -> IpvsNode {
    let arp = if config.ipvs.strict_arp { Arp::Strict } else { Arp::Untouched };
    let virtual_addresses = match config.ipvs.virtual_addresses {
        config::VirtualAddressing::Routes => sysctl::VirtualAddresses::Routes,
        config::VirtualAddressing::Device => sysctl::VirtualAddresses::Device,
    };
    IpvsNode::new(arp, virtual_addresses)
}

fn doors(family: Family, addressing: VirtualAddressing) -> anyhow::Result<Doors> {
    let addresses: Box<dyn VirtualAddresses> = match addressing {
        VirtualAddressing::Routes => Box::new(LocalRoutes::open(family)?),
        VirtualAddressing::Device => Box::new(DummyDevice::open(family)?),
    };
    let (ipvs, sets) = (Box::new(KernelIpvs::open()?), Box::new(KernelSets::open()?));
    Ok(Doors { ipvs, sets, addresses })
}

/// Modes that need the programs of iptables.
fn for_each_family<M: Mode>(
    config: &Config,
    make: impl Fn(Programs) -> anyhow::Result<M>,
) -> anyhow::Result<Vec<(ServiceTable, M)>> {
    let flavour = match assemble::flavour(config) {
        Some(flavour) => flavour,
        None => Flavour::detect()?,
    };
    tracing::info!(mode = config.mode.name(), %flavour, node = config.node_name, "Starting");
    let primary = primary(config);
    planes(config, |family| make(usable(family, flavour, primary)?))
}

fn primary(config: &Config) -> Family {
    config.node_ip.map_or(Family::V4, Family::of)
}

/// Makes a mode for each family that works here. Without any there is nothing to do.
fn planes<M: Mode>(
    config: &Config,
    make: impl Fn(Family) -> anyhow::Result<M>,
) -> anyhow::Result<Vec<(ServiceTable, M)>> {
    let mut planes = Vec::new();
    let mut reasons = Vec::new();
    for family in Family::ALL {
        match make(family) {
            Ok(mode) => planes.push((ServiceTable::new(family), mode)),
            Err(error) => {
                let error = with_hint(error);
                tracing::warn!(%family, error = format!("{error:#}"), "No Services of this address family");
                reasons.push(format!("{family}: {error:#}"));
            }
        }
    }
    if planes.is_empty() {
        bail!("the {} mode works for neither IPv4 nor IPv6 here: {}", config.mode.name(), reasons.join("; "));
    }
    Ok(planes)
}

/// The programs of a family, if they are there and the kernel has what they need. The node's own family is not given up
/// as easily: as long as it fails, `/healthz` tells.
fn usable(family: Family, flavour: Flavour, primary: Family) -> Result<Programs, iptables::Error> {
    let mut programs = Programs::find(family, Some(flavour))?;
    programs.stamp()?;
    if family != primary {
        programs.probe()?;
    }
    Ok(programs)
}
