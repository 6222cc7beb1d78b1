//! The endpoints of one traffic policy, with the scheduler that chooses among them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::member::{Lease, Member};
use super::picker::Picker;
use super::{Arrival, Candidates};
use crate::model::{Endpoint, Scheduler};

#[derive(Debug)]
pub struct Pool {
    members: Box<[(Arc<Member>, u16)]>,
    picker: Mutex<Picker>,
}

impl Pool {
    /// `member` finds the one that an endpoint had before, or makes one.
    pub fn new(
        scheduler: Scheduler,
        endpoints: &[Endpoint],
        member: impl Fn(&Endpoint) -> Arc<Member>,
    ) -> Self {
        let members = endpoints.iter().map(|endpoint| (member(endpoint), endpoint.weight)).collect();
        let addresses = endpoints
            .iter()
            .map(|endpoint| (SocketAddr::new(endpoint.address, endpoint.port), endpoint.weight));
        Pool { members, picker: Mutex::new(Picker::new(scheduler, addresses)) }
    }

    /// An endpoint by its address, if it takes connections.
    pub fn usable(&self, address: SocketAddr, now: Instant) -> Option<&Arc<Member>> {
        // Members have the order of their ServicePort's endpoints.
        let key = |member: &Member| (member.address.ip(), member.address.port());
        let wanted = (address.ip(), address.port());
        let at = self.members.binary_search_by(|(member, _)| key(member).cmp(&wanted)).ok()?;
        self.members.get(at).map(|(member, _)| member).filter(|member| !member.is_ejected(now))
    }

    /// Counts the connection at once, so that the next one sees it. Where all are ejected, all are usable: the last one is
    /// better than none.
    pub fn pick(&self, arrival: Arrival, tried: &[SocketAddr], now: Instant) -> Option<Lease> {
        let mut picker = self.picker.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = Untried { members: &self.members, tried, now: Some(now) };
        let any = Untried { now: None, ..fit };
        let index = picker.pick(&fit, arrival).or_else(|| picker.pick(&any, arrival))?;
        self.members.get(index).map(|(member, _)| Lease::new(member))
    }
}

/// The members that were not tried for this connection.
#[derive(Clone, Copy)]
struct Untried<'a> {
    members: &'a [(Arc<Member>, u16)],
    tried: &'a [SocketAddr],
    /// Where ejected ones are left out.
    now: Option<Instant>,
}

impl Candidates for Untried<'_> {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn weight(&self, index: usize) -> u32 {
        u32::from(self.members[index].1).max(1)
    }

    fn connections(&self, index: usize) -> u32 {
        self.members[index].0.connections()
    }

    fn is_usable(&self, index: usize) -> bool {
        let member = &self.members[index].0;
        !self.tried.contains(&member.address) && !self.now.is_some_and(|now| member.is_ejected(now))
    }
}
