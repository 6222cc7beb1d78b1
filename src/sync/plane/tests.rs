use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;

use super::*;
use crate::model::{Endpoint, Family, Frontend, Locality, Protocol, Scheduler, TrafficPolicy, Verdict};

/// A mode whose kernel is a set of names with ports, and which fails as told.
#[derive(Default)]
struct Fake {
    kernel: BTreeMap<ServicePortName, u16>,
    known: Option<BTreeMap<ServicePortName, u16>>,
    poison: BTreeSet<u16>,
    names_culprit: bool,
    broken: bool,
    transient: bool,
    suspicious: bool,
    observed: usize,
    applied: usize,
    refreshed: usize,
    wakes: Option<Instant>,
    /// Whether it knows of all that happened.
    accounts: bool,
    /// Parts that are left of the last plan.
    parts: usize,
}

#[derive(Debug)]
struct FakePlan(BTreeMap<ServicePortName, Option<u16>>);

impl fmt::Display for FakePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("refused: {culprit:?}")]
struct FakeError {
    culprit: Option<ServicePortName>,
    transient: bool,
}

impl ModeError for FakeError {
    fn culprit(&self) -> Option<&ServicePortName> {
        self.culprit.as_ref()
    }

    fn is_transient(&self) -> bool {
        self.transient
    }
}

impl Mode for Fake {
    type Plan = FakePlan;
    type Error = FakeError;
    const SCHEDULERS: &'static [Scheduler] = &[Scheduler::Random];

    fn observe(&mut self) -> Result<(), FakeError> {
        self.observed += 1;
        self.known = Some(self.kernel.clone());
        Ok(())
    }

    fn plan(&self, want: &ServiceTable, _now: Instant) -> FakePlan {
        let known = self.known.clone().unwrap_or_default();
        let all: BTreeSet<_> = known.keys().chain(want.changed()).cloned().collect();
        let differs = |name: &ServicePortName| {
            let port = want.get(name).map(|port| port.port);
            (known.get(name).copied() != port).then_some((name.clone(), port))
        };
        FakePlan(all.iter().filter_map(differs).collect())
    }

    fn apply(&mut self, plan: FakePlan) -> Result<(), FakeError> {
        if self.broken {
            return Err(FakeError { culprit: None, transient: self.transient });
        }
        if let Some((name, _)) =
            plan.0.iter().find(|(_, port)| port.is_some_and(|p| self.poison.contains(&p)))
        {
            return Err(FakeError { culprit: self.names_culprit.then(|| name.clone()), transient: false });
        }
        self.applied += 1;
        self.parts = self.parts.saturating_sub(1);
        for (name, port) in plan.0 {
            match port {
                Some(port) => self.kernel.insert(name, port),
                None => self.kernel.remove(&name),
            };
        }
        self.known = Some(self.kernel.clone());
        Ok(())
    }

    fn is_halfway(&self) -> bool {
        self.parts > 0
    }

    fn audit(&mut self) -> Result<Drift, FakeError> {
        Ok(if self.accounts { Drift::None } else { Drift::Suspected })
    }

    fn operations(plan: &FakePlan) -> usize {
        plan.0.len()
    }

    fn drift(&mut self) -> Result<Drift, FakeError> {
        Ok(if self.suspicious { Drift::Suspected } else { Drift::None })
    }

    fn refresh(&mut self, now: Instant) -> Result<(), FakeError> {
        self.refreshed += 1;
        self.wakes = Some(now + Duration::from_secs(1));
        Ok(())
    }

    fn wake(&self) -> Option<Instant> {
        self.wakes
    }

    fn retire_predecessors(&mut self, _: Instant) -> Result<(), FakeError> {
        Ok(())
    }

    fn cleanup(&mut self) -> Result<(), FakeError> {
        self.kernel.clear();
        Ok(())
    }
}

fn port(name: &str, number: u16) -> ServicePort {
    let name = ServicePortName {
        namespace: "ns".into(),
        service: name.into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    };
    ServicePort {
        name,
        port: number,
        frontends: [Frontend::ClusterIp([10, 96, 0, 1].into())].into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(TrafficPolicy::Cluster),
        external: Verdict::Forward(TrafficPolicy::Cluster),
        cluster: [Endpoint {
            address: [10, 0, 0, 1].into(),
            port: 80,
            locality: Locality::Remote,
            weight: 1,
        }]
        .into(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

struct Bench {
    plane: Plane<Fake>,
    table: ServiceTable,
    now: Cell<Instant>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let bounds = Bounds { min: None, max: Duration::from_secs(30) };
        let plane = Plane::new(Fake::default(), bounds, Duration::from_secs(60), now);
        Bench { plane, table: ServiceTable::new(Family::V4), now: Cell::new(now) }
    }

    fn sync(&mut self) -> Result<Report, FakeError> {
        let now = &self.now;
        self.plane.sync(&mut self.table, || {
            now.set(now.get() + Duration::from_millis(1));
            now.get()
        })
    }

    fn tick_after(&mut self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.plane.tick(&mut self.table, self.now.get()).expect("the fake always answers");
    }

    fn kernel(&self) -> Vec<u16> {
        self.plane.mode.kernel.values().copied().collect()
    }
}

#[test]
fn the_first_sync_reads_the_kernel_and_the_next_does_not() {
    let mut bench = Bench::new();
    bench.table.set(port("a", 1));
    assert!(bench.sync().unwrap().observe.is_some());
    bench.table.set(port("b", 2));
    let report = bench.sync().unwrap();
    assert!(report.observe.is_none() && report.wrote);
    assert_eq!((bench.plane.mode.observed, bench.kernel()), (1, vec![1, 2]));
}

#[test]
fn y1_a_named_culprit_is_set_aside_and_the_others_land() {
    let mut bench = Bench::new();
    bench.plane.mode.names_culprit = true;
    bench.plane.mode.poison = [13, 14].into();
    for number in 10..20 {
        bench.table.set(port(&format!("s{number}"), number));
    }
    let report = bench.sync().unwrap();
    assert_eq!(report.refused.iter().map(|(name, _)| &*name.service).collect::<Vec<_>>(), ["s13", "s14"]);
    assert_eq!(bench.kernel(), [10, 11, 12, 15, 16, 17, 18, 19]);
}

#[test]
fn y1_an_unnamed_culprit_is_found_by_halving_and_costs_no_other_anything() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.table.set(port(&format!("old{number:02}"), number));
    }
    bench.sync().unwrap();
    bench.plane.mode.poison = [113, 140].into();
    for number in 100..150 {
        bench.table.set(port(&format!("new{number}"), number));
    }
    let report = bench.sync().unwrap();
    let mut refused: Vec<_> = report.refused.iter().map(|(name, _)| name.service.to_string()).collect();
    refused.sort();
    assert_eq!(refused, ["new113", "new140"]);
    assert_eq!(bench.kernel().len(), 98);
    assert_eq!(bench.plane.quarantined(), 2);
}

#[test]
fn y1_a_change_that_the_kernel_refuses_leaves_the_service_as_it_was() {
    for names_culprit in [true, false] {
        let mut bench = Bench::new();
        bench.plane.mode.names_culprit = names_culprit;
        bench.table.set(port("a", 1));
        bench.table.set(port("b", 2));
        bench.sync().unwrap();
        bench.plane.mode.poison = [66].into();
        bench.table.set(port("a", 66));
        bench.table.set(port("b", 3));
        bench.sync().unwrap();
        assert_eq!(bench.kernel(), [1, 3]);
    }
}

#[test]
fn a_quarantined_service_is_tried_again_when_it_changes_and_after_a_while() {
    let mut bench = Bench::new();
    bench.plane.mode.names_culprit = true;
    bench.plane.mode.poison = [13].into();
    bench.table.set(port("a", 13));
    bench.sync().unwrap();
    assert!(bench.kernel().is_empty());

    bench.table.set(port("a", 14));
    bench.sync().unwrap();
    assert_eq!(bench.kernel(), [14]);

    bench.table.set(port("a", 13));
    bench.sync().unwrap();
    assert_eq!(bench.plane.quarantined(), 1);
    bench.plane.mode.poison.clear();
    bench.tick_after(QUARANTINE);
    bench.sync().unwrap();
    assert_eq!((bench.kernel(), bench.plane.quarantined()), (vec![13], 0));
}

#[test]
fn y2_nothing_is_lost_by_a_failure_that_concerns_everything() {
    let mut bench = Bench::new();
    bench.table.set(port("a", 1));
    bench.sync().unwrap();
    bench.plane.mode.broken = true;
    bench.table.set(port("a", 2));
    bench.table.set(port("b", 3));
    bench.sync().unwrap_err();
    assert_eq!((bench.kernel(), bench.plane.quarantined()), (vec![1], 0));
    assert!(!bench.plane.is_certain() && bench.plane.schedule.due().is_some());
    bench.plane.mode.broken = false;
    bench.sync().unwrap();
    assert_eq!(bench.kernel(), [2, 3]);
}

#[test]
fn y5_a_held_lock_is_no_reason_to_suspect_a_service() {
    let mut bench = Bench::new();
    (bench.plane.mode.broken, bench.plane.mode.transient) = (true, true);
    bench.table.set(port("a", 1));
    bench.sync().unwrap_err();
    assert_eq!(bench.plane.mode.observed, 1, "one attempt, no search");
}

#[test]
fn l5_drift_is_noticed_repaired_and_told_from_a_change() {
    let mut bench = Bench::new();
    bench.table.set(port("a", 1));
    bench.sync().unwrap();
    bench.tick_after(Duration::from_secs(1));
    assert!(!bench.plane.is_due(bench.now.get()));

    bench.plane.mode.kernel.clear();
    bench.plane.mode.suspicious = true;
    bench.tick_after(Duration::from_secs(1));
    assert!(bench.plane.is_due(bench.now.get()) && !bench.plane.is_certain());
    assert!(bench.sync().unwrap().repaired);
    assert_eq!(bench.kernel(), [1]);
}

#[test]
fn y15_false_alarms_cost_a_bounded_share_of_time() {
    let mut bench = Bench::new();
    bench.table.set(port("a", 1));
    bench.sync().unwrap();
    bench.plane.mode.suspicious = true;
    let observed = bench.plane.mode.observed;
    for _ in 0..100 {
        bench.tick_after(Duration::from_millis(1));
        if bench.plane.is_due(bench.now.get()) {
            bench.sync().unwrap();
        }
    }
    // Each read takes 1 ms of the fake clock and polls are 250 ms apart.
    assert!(bench.plane.mode.observed - observed <= 2);
}

#[test]
fn the_audit_finds_what_no_stamp_told() {
    let mut bench = Bench::new();
    bench.table.set(port("a", 1));
    bench.sync().unwrap();
    bench.plane.mode.kernel.clear();
    bench.tick_after(Duration::from_secs(61));
    assert!(bench.sync().unwrap().repaired);
    assert_eq!(bench.kernel(), [1]);
}

#[test]
fn an_audit_reads_nothing_where_the_mode_knows_all_that_happened() {
    let mut bench = Bench::new();
    bench.sync().unwrap();
    bench.plane.mode.accounts = true;
    bench.tick_after(Duration::from_secs(61));
    assert!(!bench.plane.is_due(bench.now.get()) && bench.plane.is_certain());
    bench.plane.mode.accounts = false;
    bench.tick_after(Duration::from_secs(59));
    assert!(bench.plane.is_certain(), "a minute after the last one");
    bench.tick_after(Duration::from_secs(2));
    assert!(bench.plane.is_due(bench.now.get()) && !bench.plane.is_certain());
}

#[test]
fn all_parts_of_a_plan_are_one_sync() {
    let mut bench = Bench::new();
    bench.plane.mode.parts = 3;
    bench.table.set(port("a", 1));
    let report = bench.sync().unwrap();
    assert_eq!((bench.plane.mode.applied, report.operations), (3, 1));
    assert!(bench.table.is_settled());
}

#[test]
fn l5_news_are_looked_at_at_once() {
    let mut bench = Bench::new();
    bench.sync().unwrap();
    bench.tick_after(Duration::from_secs(1));
    bench.plane.mode.suspicious = true;
    bench.plane.look(bench.now.get());
    assert_eq!(bench.plane.wake(), bench.now.get());
    bench.tick_after(Duration::ZERO);
    assert!(bench.plane.is_due(bench.now.get()));
}

#[test]
fn what_changes_by_itself_is_looked_at_when_the_mode_says_so() {
    let mut bench = Bench::new();
    bench.sync().unwrap();
    assert_eq!(bench.plane.mode.refreshed, 0, "nothing waits");
    bench.plane.mode.wakes = Some(bench.now.get() + Duration::from_millis(100));
    assert_eq!(bench.plane.wake(), bench.plane.mode.wakes.unwrap());
    bench.tick_after(Duration::from_millis(100));
    assert!(bench.plane.is_due(bench.now.get()));
    bench.sync().unwrap();
    assert_eq!(bench.plane.mode.refreshed, 1);
    bench.table.set(port("a", 1));
    bench.sync().unwrap();
    assert_eq!(bench.plane.mode.refreshed, 1, "a change alone is no reason");
}

#[test]
fn a_mode_that_waits_is_not_asked_without_pause_while_syncs_fail() {
    let mut bench = Bench::new();
    bench.sync().unwrap();
    bench.plane.mode.broken = true;
    bench.plane.mode.transient = true;
    bench.table.set(port("a", 1));
    bench.sync().unwrap_err();
    bench.plane.mode.wakes = Some(bench.now.get() - Duration::from_secs(1));
    assert!(bench.plane.wake() > bench.now.get());
    bench.tick_after(Duration::ZERO);
    assert!(!bench.plane.is_due(bench.now.get()), "the retry keeps its back-off");
}
