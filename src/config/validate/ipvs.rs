//! The IPVS mode's options. Checked in every mode, so that a typing error does not wait for the day when the mode is
//! changed.

use std::time::Duration;

use super::checks::Checks;
use crate::config::file::{self, FerroviaConfiguration};
use crate::config::{Ipvs, IpvsTimeouts, ModeName, VirtualAddressing};
use crate::model::{Hashing, Scheduler};

pub fn ipvs(checks: &mut Checks, typed: &file::Ipvs, own: &FerroviaConfiguration) -> Ipvs {
    let scheduler = scheduler(checks, &typed.scheduler);
    Ipvs {
        scheduler,
        hashing: hashing(checks, typed, scheduler, own),
        exclude: (typed.exclude_cidrs.iter().flatten())
            .filter_map(|item| checks.network("ipvs.excludeCIDRs", item))
            .collect(),
        strict_arp: typed.strict_arp.unwrap_or_default(),
        timeouts: IpvsTimeouts {
            tcp: whole_seconds(checks, "ipvs.tcpTimeout", &typed.tcp_timeout),
            tcp_fin: whole_seconds(checks, "ipvs.tcpFinTimeout", &typed.tcp_fin_timeout),
            udp: whole_seconds(checks, "ipvs.udpTimeout", &typed.udp_timeout),
        },
        virtual_addresses: virtual_addresses(checks, &own.ipvs_virtual_addresses),
        drain_timeout: checks.timeout("ipvsDrainTimeout", &own.ipvs_drain_timeout),
    }
}

fn scheduler(checks: &mut Checks, typed: &Option<String>) -> Option<Scheduler> {
    const FIELD: &str = "ipvs.scheduler";
    let name = typed.as_deref().filter(|name| !name.is_empty())?;
    match name.parse::<Scheduler>() {
        Ok(scheduler) if is_of_ipvs(scheduler) => Some(scheduler),
        Ok(scheduler) => {
            let modes = scheduler.modes();
            checks.refuse(FIELD, typed, format!("the ipvs mode does not have it; modes that do: {modes}"));
            None
        }
        Err(error) => {
            checks.refuse(FIELD, typed, error.to_string());
            None
        }
    }
}

fn is_of_ipvs(scheduler: Scheduler) -> bool {
    scheduler.modes().split(", ").any(|mode| mode == ModeName::Ipvs.name())
}

/// The flags must be those of `ipvs.scheduler`: as for `ipvsadm -b`, they say nothing about other schedulers.
fn hashing(
    checks: &mut Checks,
    typed: &file::Ipvs,
    scheduler: Option<Scheduler>,
    own: &FerroviaConfiguration,
) -> Option<Hashing> {
    let flags = own.ipvs_scheduler_flags.as_ref()?;
    let is_given = typed.scheduler.as_ref().is_some_and(|name| !name.is_empty());
    let scheduler = match scheduler {
        // That it cannot be used was said; flags may well be right for what was meant.
        None if is_given => return None,
        scheduler => scheduler.unwrap_or(Scheduler::RoundRobin),
    };
    let (hashing, errors) = Hashing::read(scheduler, flags.iter().map(String::as_str));
    for error in errors {
        checks.refuse("ipvsSchedulerFlags", flags.join(","), error.to_string());
    }
    Some(hashing)
}

/// The kernel counts seconds, and kube-proxy cuts off what is below. 0 leaves a timeout as it is.
fn whole_seconds(checks: &mut Checks, field: &'static str, typed: &Option<String>) -> Option<Duration> {
    let seconds = checks.duration(field, typed).as_secs();
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn virtual_addresses(checks: &mut Checks, typed: &Option<String>) -> VirtualAddressing {
    match typed.as_deref() {
        Some("routes") => VirtualAddressing::Routes,
        Some("device") => VirtualAddressing::Device,
        _ => {
            checks.refuse("ipvsVirtualAddresses", typed, "must be routes or device");
            VirtualAddressing::Routes
        }
    }
}
