//! What to do so that packets come to this process, and it serves what the table says, as data.

use std::fmt;

use super::Scope;
use super::served::{Edit, Served};
use crate::model::{Changes, ServiceTable};

/// Whether packets with the mark are delivered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    SetUp,
    Missing,
}

/// `Display` is what the capture's is, with what else there is to do as comments.
#[derive(Debug)]
pub struct Plan<C> {
    pub(super) capture: C,
    pub(super) delivery: Delivery,
    /// What the listeners are told.
    pub(super) edit: Edit,
}

impl<C> Plan<C> {
    /// Other than those of the capture.
    pub(super) fn operations(&self) -> usize {
        self.edit.len() + usize::from(self.delivery == Delivery::Missing)
    }
}

pub(super) fn served(known: &Served, scope: Scope, want: &ServiceTable) -> Edit {
    let mut edit = Edit { node: known.node_change(want.node()), ..Edit::default() };
    match (scope, want.changes()) {
        (Scope::Changes, Changes::Some(changes)) => {
            changes.keys().for_each(|name| edit.extend(known.change(name, want.get(name))));
        }
        _ => {
            want.ports().for_each(|port| edit.extend(known.change(&port.name, Some(port))));
            let gone = known.names().filter(|name| want.get(name).is_none());
            gone.for_each(|name| edit.extend(known.change(name, None)));
        }
    }
    edit
}

impl<C: fmt::Display> fmt::Display for Plan<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.delivery == Delivery::Missing {
            f.write_str("# deliver what has the mark to this node\n")?;
        }
        write!(f, "{}{}", self.capture, self.edit)
    }
}
