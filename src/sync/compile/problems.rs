//! What is wrong with objects, for logs, Events and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{Family, ServiceName, ServiceTable};
use crate::sync::objects::{FieldProblem, Kind, Reason};
use crate::sync::store::Store;

use super::clashes::Wait;

/// Something in an object that could not be done as written. The rest of the object is in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub kind: Kind,
    pub object: ServiceName,
    /// The field, or the first of the list entries that are wrong in the same way. Empty where the whole object is.
    pub field: String,
    pub reason: Reason,
    pub message: String,
    /// How many entries of a list are wrong in the same way. One object can have thousands, and each would be a log line.
    pub count: u32,
    /// What other Services have to do with it. Who has the contested thing is no part of the problem: it may change hands
    /// while a thousand wait for it.
    pub(super) contested: Option<Wait>,
}

impl Problem {
    pub fn new(kind: Kind, object: ServiceName, field: String, reason: Reason, message: String) -> Self {
        Problem { kind, object, field, reason, message, count: 1, contested: None }
    }

    /// The problem as told when it appears: with the Service that has what this one wants.
    pub(super) fn naming_owner(mut self, table: &ServiceTable) -> Self {
        let owner = self.contested.and_then(|wait| wait.owner(table, &self.object));
        if let Some(owner) = owner {
            self.message = self.message.replace(ANOTHER_SERVICE, &format!("Service {owner}"));
        }
        self
    }
}

/// Stands in messages for the owner of something contested.
pub(super) const ANOTHER_SERVICE: &str = "another Service";

/// `Service shop/web: spec.externalIPs[0]: 192.0.2.2 is not in --allowed-external-ips (and 3 more)`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.kind, self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match self.count {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

/// The problems of one object while it is compiled.
#[derive(Debug)]
pub(super) struct Findings {
    kind: Kind,
    object: ServiceName,
    found: Vec<Problem>,
}

impl Findings {
    pub fn of(kind: Kind, object: ServiceName) -> Self {
        Findings { kind, object, found: Vec::new() }
    }

    /// Entries of one list that are wrong for one reason become one problem.
    pub fn add(&mut self, field: String, reason: Reason, message: String) {
        let alike =
            |known: &&mut Problem| known.reason == reason && list_name(&known.field) == list_name(&field);
        match self.found.iter_mut().find(alike) {
            Some(known) => known.count += u32::from(known.field != field || known.message != message),
            None => self.found.push(Problem::new(self.kind, self.object.clone(), field, reason, message)),
        }
    }

    pub fn add_contested(&mut self, field: String, wait: Wait) {
        let (reason, message) = match wait {
            Wait::Key(key) => (Reason::AddressInUse, format!("{key} belongs to {ANOTHER_SERVICE}")),
            Wait::ClusterIp(address) => {
                (Reason::ForbiddenFrontend, format!("{address} is the ClusterIP of {ANOTHER_SERVICE}"))
            }
        };
        let known = self.found.len();
        self.add(field, reason, message);
        self.found[known..].iter_mut().for_each(|problem| problem.contested = Some(wait));
    }

    pub fn add_all(&mut self, problems: &[FieldProblem]) {
        for problem in problems {
            self.add(problem.field.clone(), problem.reason, problem.message.clone());
        }
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}

/// `spec.ports` of `spec.ports[2].nodePort`.
fn list_name(field: &str) -> &str {
    field.split('[').next().unwrap_or(field)
}

/// Which half of compiling a Service found a problem: each is done again without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Service,
    Family(Family),
}

/// The problems that there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Problems {
    known: BTreeMap<(ServiceName, Scope), Box<[Problem]>>,
    unreadable: BTreeSet<Problem>,
}

impl Problems {
    /// Replaces the problems of one Service in one scope. Those that are new go to `appeared`.
    pub fn replace(
        &mut self,
        service: &ServiceName,
        scope: Scope,
        mut problems: Vec<Problem>,
        appeared: &mut BTreeSet<Problem>,
    ) {
        problems.sort();
        let key = (service.clone(), scope);
        let before = self.known.get(&key).map_or(&[][..], |before| before);
        appeared.extend(problems.iter().filter(|problem| before.binary_search(problem).is_err()).cloned());
        if problems.is_empty() {
            self.known.remove(&key);
        } else {
            self.known.insert(key, problems.into());
        }
    }

    /// Takes over which objects cannot be read at all.
    pub fn replace_unreadable(&mut self, store: &Store, appeared: &mut BTreeSet<Problem>) {
        let unreadable: BTreeSet<Problem> = store
            .undecodable()
            .map(|(kind, object, error)| {
                let message = format!("{error}; what was known of it stays in force");
                Problem::new(kind, object.clone(), String::new(), Reason::Malformed, message)
            })
            .collect();
        appeared.extend(unreadable.difference(&self.unreadable).cloned());
        self.unreadable = unreadable;
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable.iter().chain(self.known.values().flatten())
    }
}
