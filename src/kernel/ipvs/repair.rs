//! Commands that the table refuses only because it is ahead or behind are carried out in another way.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::error::failure;
use super::{Command, IpvsError, VirtualServer};
use crate::kernel::netlink::NetlinkError;

/// How often a command is tried. More than twice only if somebody else changes the table meanwhile.
const ATTEMPTS: usize = 3;

/// Which of some commands were refused.
pub type Refusals = Vec<(usize, NetlinkError)>;

struct Refused {
    /// Among all commands that are executed.
    place: usize,
    command: Command,
    error: NetlinkError,
}

/// Carries commands out. `attempt` does it as the kernel does: in order, whether or not those before were refused.
pub fn execute(
    commands: &[Command],
    attempt: &mut dyn FnMut(&[Command]) -> Result<Refusals, NetlinkError>,
) -> Result<(), IpvsError> {
    let mut attempt = |commands: &[Command]| attempt(commands).map_err(|source| lost(commands.len(), source));
    let refusals = attempt(commands)?;
    if refusals.is_empty() {
        return Ok(());
    }
    let last_word = LastWord::of(commands);
    let mut failures = Vec::new();
    let mut refused = name(refusals, commands, |at| at);
    for _ in 1..ATTEMPTS {
        let (again, hopeless) = sort_out(refused, &last_word);
        failures.extend(hopeless);
        let (places, instead): (Vec<usize>, Vec<Command>) = again.into_iter().unzip();
        refused =
            if instead.is_empty() { Vec::new() } else { name(attempt(&instead)?, &instead, |at| places[at]) };
    }
    failures.extend(refused);
    tell(failures)
}

fn lost(count: usize, source: NetlinkError) -> IpvsError {
    IpvsError::Execute { count, source }
}

fn name(refusals: Refusals, commands: &[Command], place: impl Fn(usize) -> usize) -> Vec<Refused> {
    let named = refusals.into_iter();
    named.map(|(at, error)| Refused { place: place(at), command: commands[at].clone(), error }).collect()
}

fn tell(mut failures: Vec<Refused>) -> Result<(), IpvsError> {
    if failures.is_empty() {
        return Ok(());
    }
    failures.sort_by_key(|refused| refused.place);
    let failures = failures.into_iter().map(|r| failure(r.place, &r.command, r.error)).collect();
    Err(IpvsError::Refused { failures })
}

/// What to try instead, and what remains refused.
fn sort_out(refused: Vec<Refused>, last_word: &LastWord) -> (Vec<(usize, Command)>, Vec<Refused>) {
    let (mut again, mut hopeless) = (Vec::new(), Vec::new());
    let mut missing = HashSet::new();
    for refused in refused {
        let is_overruled = last_word.is_after(refused.place, &refused.command);
        match remedy(&refused, &missing) {
            Remedy::None => hopeless.push(refused),
            Remedy::Instead(command) if !is_overruled => {
                if matches!(command, Command::AddService(_)) {
                    missing.insert(*command.server());
                }
                again.push((refused.place, command));
            }
            Remedy::Instead(_) | Remedy::Done => {}
        }
    }
    (again, hopeless)
}

enum Remedy {
    /// It is as it should be.
    Done,
    Instead(Command),
    None,
}

/// From the errnos of `ip_vs_genl_set_cmd`, Linux 6.1. `missing` are the virtual servers that are about to be added again.
fn remedy(refused: &Refused, missing: &HashSet<VirtualServer>) -> Remedy {
    use Command::*;
    match (&refused.command, refused.error.refusal()) {
        (AddService(service), Some(libc::EEXIST)) => Remedy::Instead(SetService(service.clone())),
        (SetService(service), Some(libc::ESRCH)) => Remedy::Instead(AddService(service.clone())),
        (DeleteService(_), Some(libc::ESRCH)) => Remedy::Done,
        (AddDestination(server, to), Some(libc::EEXIST)) => Remedy::Instead(SetDestination(*server, *to)),
        (SetDestination(server, to), Some(libc::ENOENT)) => Remedy::Instead(AddDestination(*server, *to)),
        (AddDestination(server, to) | SetDestination(server, to), Some(libc::ESRCH))
            if missing.contains(server) =>
        {
            Remedy::Instead(AddDestination(*server, *to))
        }
        (DeleteDestination(..), Some(libc::ENOENT | libc::ESRCH)) => Remedy::Done,
        _ => Remedy::None,
    }
}

/// Which command is the last about each object. One that was refused before it must not be tried again after it.
struct LastWord {
    about: HashMap<(VirtualServer, Option<SocketAddr>), usize>,
    deletions: HashMap<VirtualServer, usize>,
}

impl LastWord {
    fn of(commands: &[Command]) -> Self {
        let numbered = || commands.iter().enumerate();
        let deletions = numbered().filter(|(_, command)| matches!(command, Command::DeleteService(_)));
        LastWord {
            about: numbered().map(|(at, command)| ((*command.server(), command.destination()), at)).collect(),
            deletions: deletions.map(|(at, command)| (*command.server(), at)).collect(),
        }
    }

    fn is_after(&self, place: usize, command: &Command) -> bool {
        let about = self.about.get(&(*command.server(), command.destination()));
        let deletion = self.deletions.get(command.server());
        about.max(deletion).is_some_and(|last| *last > place)
    }
}
