//! Runs a flow table with real packets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::flows::{Flow, FlowTable};
use super::{Lab, LabError, Observed};
use crate::model::route::{Outcome, Source, Target};

/// A machine that is busy with other tests may take this long to deliver a packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Silence is proven by nothing but waiting. A local rejection may take TCP a second to hear of.
const PATIENCE_FOR_SILENCE: Duration = Duration::from_millis(1500);
/// Clients wait most of the time.
const CLIENTS: usize = 8;

/// Whether requests from one address spread over all endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every endpoint has to be seen.
    All,
    /// There are Services with session affinity: a flow sees either all endpoints or always the same one.
    AllOrOne,
}

/// A flow that did not go as its line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub flow: Flow,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    Observed(Observed),
    /// Went right every time, but never there.
    NeverSeen {
        targets: Vec<Target>,
        requests: usize,
    },
}

/// As in the flow table, then what was seen instead.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { line, source, protocol, destination, port, outcome } = &self.flow;
        let destination = SocketAddr::new(*destination, *port);
        write!(f, "line {line}: {source} {} {destination} -> {outcome}: ", protocol.lowercase())?;
        match &self.problem {
            Problem::Observed(observed) => write!(f, "{observed}"),
            Problem::NeverSeen { targets, requests } => {
                write!(f, "{} never seen in {requests} requests", Outcome::Forward(targets.clone()))
            }
        }
    }
}

/// Sends what each line describes, often enough to see every endpoint, and returns the lines that went otherwise.
///
/// Whoever a line names gets a server first, so that traffic which is left alone is answered by the host it was sent to.
pub fn run(lab: &Lab, table: &FlowTable, spread: Spread) -> Result<Vec<Mismatch>, LabError> {
    table.flows.iter().try_for_each(|flow| serve(lab, flow))?;
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..CLIENTS.min(table.flows.len()) {
            scope.spawn(|| {
                while let Some(flow) = table.flows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let problem = check(lab, flow, spread);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((flow, problem));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(flow, _)| flow.line);
    let mismatch = |(flow, problem): (&Flow, Result<Option<Problem>, LabError>)| {
        problem.map(|problem| problem.map(|problem| Mismatch { flow: flow.clone(), problem })).transpose()
    };
    results.into_iter().filter_map(mismatch).collect()
}

fn serve(lab: &Lab, flow: &Flow) -> Result<(), LabError> {
    if let Outcome::Forward(targets) = &flow.outcome {
        targets.iter().try_for_each(|target| lab.listen(target.endpoint, flow.protocol))?;
    }
    match lab.host_of(flow.destination) {
        Some(_) => lab.listen(SocketAddr::new(flow.destination, flow.port), flow.protocol),
        None => Ok(()),
    }
}

fn check(lab: &Lab, flow: &Flow, spread: Spread) -> Result<Option<Problem>, LabError> {
    let destination = SocketAddr::new(flow.destination, flow.port);
    let patience = match flow.outcome {
        Outcome::Drop => PATIENCE_FOR_SILENCE,
        _ => PATIENCE,
    };
    let wanted = Wanted::of(flow);
    let mut seen = BTreeSet::new();
    for request in 1..=wanted.most_requests {
        let observed = lab.probe(flow.source, flow.protocol, destination, patience)?;
        match agreement(lab, flow, observed) {
            None => return Ok(Some(Problem::Observed(observed))),
            Some(target) => seen.extend(target),
        }
        let is_settled = seen.len() == wanted.targets.len() || spread == Spread::AllOrOne && seen.len() == 1;
        if request >= wanted.fewest_requests && is_settled {
            return Ok(None);
        }
    }
    let targets = wanted.targets.iter().filter(|target| !seen.contains(*target)).copied().collect();
    Ok(Some(Problem::NeverSeen { targets, requests: wanted.most_requests }))
}

/// How often to ask. That a fair choice leaves out a given one of `n` endpoints in `c n` requests has the probability
/// `1 / e^c`.
struct Wanted<'a> {
    targets: &'a [Target],
    /// Enough to see one more endpoint that should not answer, or to believe that it is always the same one that does.
    fewest_requests: usize,
    /// Enough to see each.
    most_requests: usize,
}

impl<'a> Wanted<'a> {
    fn of(flow: &'a Flow) -> Self {
        let Outcome::Forward(targets) = &flow.outcome else {
            return Wanted { targets: &[], fewest_requests: 1, most_requests: 1 };
        };
        let one_more = targets.len() + 1;
        Wanted { targets, fewest_requests: 12 * one_more, most_requests: 30 * one_more }
    }
}

/// Which target the observation agrees with, if the outcome has targets; `None` where it contradicts.
fn agreement(lab: &Lab, flow: &Flow, observed: Observed) -> Option<Option<Target>> {
    let agrees = |agrees: bool| agrees.then_some(None);
    match (&flow.outcome, observed) {
        (Outcome::Forward(targets), Observed::Answered { server, client }) => targets
            .iter()
            .find(|target| target.endpoint == server && is_source(lab, flow, target.source, client.ip()))
            .map(|target| Some(*target)),
        (Outcome::Reject, observed) => agrees(observed == Observed::Refused),
        (Outcome::Drop, observed) => agrees(observed == Observed::Silence),
        (Outcome::Unallocated, observed) => {
            agrees([Observed::Silence, Observed::Unroutable].contains(&observed))
        }
        (Outcome::Unused, observed) => agrees([Observed::Refused, Observed::Unroutable].contains(&observed)),
        (Outcome::Untouched, Observed::Answered { server, client }) => {
            agrees(server == SocketAddr::new(flow.destination, flow.port) && client.ip() == flow.source)
        }
        (Outcome::Untouched, observed) => {
            agrees(observed == Observed::Unroutable && lab.host_of(flow.destination).is_none())
        }
        (Outcome::Forward(_), _) => None,
    }
}

fn is_source(lab: &Lab, flow: &Flow, source: Source, seen: IpAddr) -> bool {
    match source {
        Source::Kept => seen == flow.source,
        Source::Masqueraded => lab.node_addresses().contains(&seen),
    }
}
