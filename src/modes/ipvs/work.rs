//! What a plan does to virtual servers, as ipvsadm commands that are made when they are needed.
//!
//! A first plan has hundreds of thousands of commands. All that they say about a new virtual server stands in the plan's
//! outcome already, so that there they are not held a second time.

use super::plan::Outcome;
use super::servers;
use crate::kernel::ipvs::{Command, VirtualServer};

/// How many commands are held at a time.
pub const AT_ONCE: usize = 1024;

#[derive(Debug)]
pub enum Work {
    /// Boxed, as of a first plan nearly all are the others, which are small.
    One(Box<Command>),
    /// Adds a virtual server with its destinations, as it stands in the outcome.
    Whole(VirtualServer),
}

impl From<Command> for Work {
    fn from(command: Command) -> Self {
        Work::One(Box::new(command))
    }
}

impl Work {
    /// The commands in their order.
    pub fn commands<'a>(&'a self, outcome: &'a Outcome) -> impl Iterator<Item = Command> + 'a {
        let (one, at) = match self {
            Work::One(command) => (Some(Command::clone(command)), None),
            Work::Whole(at) => (None, Some(at)),
        };
        let new = at.and_then(|at| Some((at, outcome.servers.get(at)?.as_ref()?)));
        one.into_iter().chain(new.into_iter().flat_map(|(at, server)| servers::commands(*at, server)))
    }

    /// How many commands these are.
    pub fn count(&self, outcome: &Outcome) -> usize {
        match self {
            Work::One(_) => 1,
            Work::Whole(at) => {
                let server = outcome.servers.get(at).and_then(Option::as_ref);
                server.map_or(0, |server| 1 + server.destinations.len())
            }
        }
    }
}
