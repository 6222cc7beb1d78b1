//! The clients of the demo, and what they count.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::script::Scene;
use crate::lab::{Lab, LabError, Observed};
use crate::model::Protocol;

const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(15);
/// How long an endpoint that has gone may still be given requests. Endpoints of a cluster go on serving for longer.
pub const SETTLING: Duration = Duration::from_millis(1500);

/// A client and what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub title: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub protocol: Protocol,
    pub promise: Promise,
}

/// What the Service promises beyond an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    AnyEndpoint,
    /// The same endpoint as long as it is there.
    SameEndpoint,
    /// There is no endpoint and the client is told so.
    Refusal,
}

pub const STREAMS: &[Stream] = &[
    Stream {
        title: "web, ClusterIP",
        from: "10.244.1.9",
        to: "10.96.0.10:80",
        protocol: Protocol::Tcp,
        promise: Promise::AnyEndpoint,
    },
    Stream {
        title: "web, ClusterIP",
        from: "fd00:244:1::9",
        to: "[fd00:96::10]:80",
        protocol: Protocol::Tcp,
        promise: Promise::AnyEndpoint,
    },
    Stream {
        title: "web, NodePort",
        from: "172.18.0.100",
        to: "172.18.0.2:30080",
        protocol: Protocol::Tcp,
        promise: Promise::AnyEndpoint,
    },
    Stream {
        title: "names, ClusterIP",
        from: "10.244.1.9",
        to: "10.96.0.20:53",
        protocol: Protocol::Udp,
        promise: Promise::AnyEndpoint,
    },
    Stream {
        title: "cart, affinity",
        from: "10.244.1.7",
        to: "10.96.0.30:80",
        protocol: Protocol::Tcp,
        promise: Promise::SameEndpoint,
    },
    Stream {
        title: "cart, affinity",
        from: "10.244.1.8",
        to: "10.96.0.30:80",
        protocol: Protocol::Tcp,
        promise: Promise::SameEndpoint,
    },
    Stream {
        title: "closed, no endpoint",
        from: "10.244.1.9",
        to: "10.96.0.40:80",
        protocol: Protocol::Tcp,
        promise: Promise::Refusal,
    },
];

/// What one client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often which pod answered.
    pub answers: BTreeMap<String, usize>,
    pub refusals: usize,
    pub failures: usize,
    pub last_failure: Option<String>,
    /// Who answered last.
    pub pod: Option<String>,
}

impl Tally {
    pub fn requests(&self) -> usize {
        self.answers.values().sum::<usize>() + self.refusals + self.failures
    }

    fn fail(&mut self, reason: String) {
        self.failures += 1;
        self.last_failure = Some(reason);
    }

    fn answered(&mut self, pod: String, stage: &Stage, promise: Promise, now: Instant) {
        if promise == Promise::Refusal {
            return self.fail(format!("{pod} answers instead of a refusal"));
        }
        if !stage.may_answer(&pod, now) {
            return self.fail(format!("{pod} was asked, which has gone"));
        }
        let before = self.pod.replace(pod.clone()).unwrap_or_else(|| pod.clone());
        if promise == Promise::SameEndpoint && before != pod && stage.has(&before) {
            return self.fail(format!("{pod} was asked though {before} is still there"));
        }
        *self.answers.entry(pod).or_default() += 1;
    }
}

/// The scene that is played, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    scene: &'static Scene,
    before: &'static [&'static str],
    since: Instant,
}

impl Stage {
    pub fn new(scene: &'static Scene, now: Instant) -> Self {
        Stage { scene, before: &[], since: now }
    }

    fn has(&self, pod: &str) -> bool {
        self.scene.endpoints.contains(&pod)
    }

    fn may_answer(&self, pod: &str, now: Instant) -> bool {
        self.has(pod) || self.before.contains(&pod) && now < self.since + SETTLING
    }
}

/// All clients and what they saw.
pub struct Traffic<'a> {
    lab: &'a Lab,
    stage: Mutex<Stage>,
    tallies: Vec<Mutex<Tally>>,
    stop: AtomicBool,
}

impl<'a> Traffic<'a> {
    pub fn new(lab: &'a Lab, stage: Stage) -> Self {
        let tallies = STREAMS.iter().map(|_| Mutex::default()).collect();
        Traffic { lab, stage: Mutex::new(stage), tallies, stop: AtomicBool::new(false) }
    }

    /// The next scene is about to be set.
    pub fn set_scene(&self, scene: &'static Scene, now: Instant) {
        let mut stage = lock(&self.stage);
        *stage = Stage { scene, before: stage.scene.endpoints, since: now };
    }

    pub fn tallies(&self) -> Vec<Tally> {
        self.tallies.iter().map(|tally| lock(tally).clone()).collect()
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Lets one client ask until [`stop`](Self::stop).
    pub fn run(&self, stream: &Stream, index: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let observed = self.ask(stream);
            let now = Instant::now();
            let stage = *lock(&self.stage);
            self.count(stream, &stage, observed, &mut lock(&self.tallies[index]), now);
            thread::sleep(PAUSE);
        }
    }

    fn ask(&self, stream: &Stream) -> Result<Observed, LabError> {
        let (Ok(from), Ok(to)) = (stream.from.parse::<IpAddr>(), stream.to.parse::<SocketAddr>()) else {
            unreachable!("the addresses of the streams are tested")
        };
        self.lab.probe(from, stream.protocol, to, PATIENCE)
    }

    fn count(
        &self,
        stream: &Stream,
        stage: &Stage,
        observed: Result<Observed, LabError>,
        tally: &mut Tally,
        now: Instant,
    ) {
        match observed {
            Ok(Observed::Answered { server, .. }) => {
                let pod = self
                    .lab
                    .host_of(server.ip())
                    .map_or_else(|| server.to_string(), |host| host.name.clone());
                tally.answered(pod, stage, stream.promise, now);
            }
            Ok(Observed::Refused) if stream.promise == Promise::Refusal => tally.refusals += 1,
            Ok(other) => tally.fail(other.to_string()),
            Err(error) => tally.fail(format!("{:#}", anyhow::Error::new(error))),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::script::SCENES;
    use super::*;

    #[test]
    fn the_addresses_of_the_streams_are_addresses() {
        for stream in STREAMS {
            let (from, to): (IpAddr, SocketAddr) = (stream.from.parse().unwrap(), stream.to.parse().unwrap());
            assert_eq!(from.is_ipv4(), to.is_ipv4(), "{}", stream.title);
        }
    }

    #[test]
    fn endpoints_that_have_gone_may_answer_for_a_while() {
        let start = Instant::now();
        let stage = Stage { scene: &SCENES[2], before: SCENES[1].endpoints, since: start };
        let mut tally = Tally::default();
        tally.answered("here/5".into(), &stage, Promise::AnyEndpoint, start);
        assert_eq!((tally.failures, tally.requests()), (0, 1));
        tally.answered("here/5".into(), &stage, Promise::AnyEndpoint, start + SETTLING);
        assert_eq!(tally.last_failure.as_deref(), Some("here/5 was asked, which has gone"));
    }

    #[test]
    fn affinity_holds_as_long_as_its_endpoint() {
        let start = Instant::now();
        let mut tally = Tally::default();
        let mut ask = |pod: &str, scene, before| {
            let stage = Stage { scene, before, since: start };
            tally.answered(pod.into(), &stage, Promise::SameEndpoint, start + SETTLING);
            tally.failures
        };
        assert_eq!(ask("here/5", &SCENES[1], SCENES[0].endpoints), 0);
        assert_eq!(ask("here/6", &SCENES[2], SCENES[1].endpoints), 0, "here/5 has gone");
        assert_eq!(ask("elsewhere/6", &SCENES[2], SCENES[1].endpoints), 1, "here/6 has not");
    }

    #[test]
    fn answers_where_there_should_be_none_are_failures() {
        let start = Instant::now();
        let mut tally = Tally::default();
        tally.answered("here/5".into(), &Stage::new(&SCENES[0], start), Promise::Refusal, start);
        assert_eq!(tally.failures, 1);
    }
}
