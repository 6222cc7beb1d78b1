//! What a Service asks for in both families alike: scheduler, affinity, ports.

use std::num::NonZeroU32;

use crate::model::{Affinity, Hashing, HashingError, Scheduler};
use crate::sync::objects::{Kind, Reason, Service};

use super::Context;
use super::frontends::sound_ports;
use super::problems::{Findings, Problem};

/// The API server's bounds of `sessionAffinityConfig.clientIP.timeoutSeconds`: up to a day, three hours by default.
const MAX_AFFINITY_SECONDS: u32 = 86_400;
const DEFAULT_AFFINITY_SECONDS: NonZeroU32 = NonZeroU32::new(10_800).expect("10800 is not 0");

/// What is wrong with a Service in both families.
pub(super) fn problems(service: &Service, context: &Context<'_>) -> Vec<Problem> {
    let mut findings = Findings::of(Kind::Service, service.name.clone());
    findings.add_all(&service.problems);
    sound_ports(service, Some(&mut findings));
    if let Err(message) = scheduler(service, context) {
        let field = "metadata.annotations[ferrovia.dev/scheduler]";
        findings.add(field.to_owned(), Reason::UnsupportedScheduler, message);
    }
    for error in hashing(service, context).1 {
        let field = "metadata.annotations[ferrovia.dev/scheduler-flags]";
        findings.add(field.to_owned(), Reason::UnsupportedScheduler, format!("{error}; it is ignored"));
    }
    if let Some(seconds) = service.affinity_timeout_seconds.filter(|seconds| !is_sound_timeout(*seconds)) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let message = format!(
            "{seconds} is not between 1 and {MAX_AFFINITY_SECONDS}; {DEFAULT_AFFINITY_SECONDS} is used"
        );
        findings.add(field.to_owned(), Reason::Malformed, message);
    }
    findings.into_vec()
}

fn is_sound_timeout(seconds: u32) -> bool {
    (1..=MAX_AFFINITY_SECONDS).contains(&seconds)
}

pub(super) fn affinity(service: &Service) -> Option<Affinity> {
    let seconds = service.affinity_timeout_seconds?;
    let sound = NonZeroU32::new(seconds).filter(|seconds| is_sound_timeout(seconds.get()));
    Some(Affinity { timeout_seconds: sound.unwrap_or(DEFAULT_AFFINITY_SECONDS) })
}

/// The scheduler that a Service asks for, or in words why it cannot have it.
pub(super) fn scheduler(service: &Service, context: &Context<'_>) -> Result<Scheduler, String> {
    let default = context.settings.default_scheduler();
    let Some(text) = &service.scheduler else { return Ok(default) };
    let wanted: Scheduler = text.trim().parse().map_err(|error| format!("{error}; {default} is used"))?;
    if context.settings.schedulers.contains(&wanted) {
        return Ok(wanted);
    }
    if context.settings.missing_schedulers.contains(&wanted) {
        return Err(format!("this kernel does not have {wanted} (module ip_vs_{wanted}), {default} is used"));
    }
    Err(format!(
        "this mode does not have {wanted}, {default} is used; modes that have it: {}",
        wanted.modes()
    ))
}

/// How a Service's scheduler hashes, and what is wrong with the flags that it asks for.
///
/// Flags for a scheduler that the Service cannot have are not wrong as well.
pub(super) fn hashing(service: &Service, context: &Context<'_>) -> (Hashing, Vec<HashingError>) {
    let settings = context.settings;
    let scheduler = scheduler(service, context);
    match (scheduler, &service.scheduler_flags) {
        (Ok(scheduler), Some(flags)) => Hashing::read(scheduler, flags.split(',')),
        (Ok(scheduler), None) => (settings.default_hashing(scheduler), Vec::new()),
        (Err(_), _) => (settings.default_hashing(settings.default_scheduler()), Vec::new()),
    }
}
