//! An endpoint as the listeners see it: how many connections it has, and whether it takes any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::model::{Endpoint, Locality};

/// So many connects in a row have to fail before an endpoint is left out.
const FAILURES: u32 = 3;
/// How long it is left out the first time, twice as long each time that it fails again.
const FIRST_EJECTION: Duration = Duration::from_secs(5);
const LONGEST_EJECTION: Duration = Duration::from_secs(160);

#[derive(Debug)]
pub struct Member {
    pub address: SocketAddr,
    pub locality: Locality,
    connections: AtomicU32,
    health: Mutex<Health>,
    /// Its connections are to end.
    pub end: Notify,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
}

/// What a failure led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    None,
    Ejected,
}

impl Member {
    pub fn new(endpoint: &Endpoint) -> Self {
        Member {
            address: SocketAddr::new(endpoint.address, endpoint.port),
            locality: endpoint.locality,
            connections: AtomicU32::new(0),
            health: Mutex::default(),
            end: Notify::new(),
        }
    }

    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.health().ejected_until.is_some_and(|until| now < until)
    }

    /// A connect succeeded.
    pub fn succeeded(&self) {
        let mut health = self.health();
        if health.failures > 0 || health.ejections > 0 {
            *health = Health::default();
        }
    }

    /// A connect failed. After its time an ejected endpoint is tried again, and ejected for longer if that fails.
    pub fn failed(&self, now: Instant) -> Consequence {
        let mut health = self.health();
        health.failures += 1;
        let is_out = health.ejected_until.is_some_and(|until| now < until);
        if is_out || (health.failures < FAILURES && health.ejections == 0) {
            return Consequence::None;
        }
        let time = FIRST_EJECTION.saturating_mul(1 << health.ejections.min(10)).min(LONGEST_EJECTION);
        health.ejections += 1;
        health.ejected_until = Some(now + time);
        Consequence::Ejected
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that an endpoint has, until it is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Member>);

impl Lease {
    pub fn new(member: &Arc<Member>) -> Self {
        member.connections.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(member))
    }

    pub fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
