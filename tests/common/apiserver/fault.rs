//! What can go wrong with a request.

use std::time::Duration;

use super::request::{Asked, Verb};

/// Something that happens to the next `times` requests of a verb.
#[derive(Debug, Clone)]
pub struct Fault {
    pub verb: Verb,
    /// `None` for any.
    pub resource: Option<&'static str>,
    pub times: usize,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Answered with this status.
    Status(u16),
    /// Answered as if nothing existed.
    Empty,
    /// The headers come, then nothing, for ever.
    Silent,
    /// Nothing comes at all.
    NoAnswer,
    Slow(Duration),
    /// After this many whole lines, half of the next comes and the connection breaks.
    CutAfter(usize),
    /// The first line is the error 410.
    GoneInStream,
    /// The first line is the error 500.
    FaultInStream,
    /// A streaming list that is closed before its end is marked.
    WithoutEnd,
    /// A streaming list that has this line before its end.
    LineBeforeEnd(String),
}

impl Fault {
    pub fn once(verb: Verb, resource: &'static str, what: What) -> Fault {
        Fault { verb, resource: Some(resource), times: 1, what }
    }

    pub fn always(verb: Verb, what: What) -> Fault {
        Fault { verb, resource: None, times: usize::MAX, what }
    }

    fn concerns(&self, asked: &Asked) -> bool {
        self.times > 0
            && self.verb == asked.verb
            && self.resource.is_none_or(|resource| resource == asked.resource)
    }
}

/// The fault that befalls a request, which uses it up once.
pub fn befalling(faults: &mut [Fault], asked: &Asked) -> Option<What> {
    let fault = faults.iter_mut().find(|fault| fault.concerns(asked))?;
    fault.times -= 1;
    Some(fault.what.clone())
}
