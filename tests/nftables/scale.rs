//! A large cluster in a kernel that has other things to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ferrovia::kernel::nftables::{
    Chain, Counter, Element, Generation, InstalledRule, InstalledTable, KernelNftables, Nftables as Door,
    NftablesError, Set, Table, TableFamily, Transaction, Value,
};
use ferrovia::model::{
    Endpoint, Family, Frontend, Locality, Scheduler, ServicePort, ServicePortName, ServiceTable,
    TrafficPolicy, Verdict,
};
use ferrovia::modes::Mode;
use ferrovia::modes::nftables::{Nftables, Settings, open};

use super::*;
use crate::common::rig::{SOON, address, ip};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u8 = 10;

fn service_port(number: u32, address: [u8; 4], pods: &[[u8; 4]]) -> ServicePort {
    let endpoint = |pod: &[u8; 4]| Endpoint {
        address: (*pod).into(),
        port: 8080,
        locality: Locality::Remote,
        weight: 1,
    };
    ServicePort {
        name: ServicePortName {
            namespace: "shop".into(),
            service: format!("s{number}").into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        frontends: [Frontend::ClusterIp(address.into())].into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(TrafficPolicy::Cluster),
        external: Verdict::Forward(TrafficPolicy::Cluster),
        cluster: pods.iter().map(endpoint).collect(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

/// The kernel, with the longest time that one transaction kept a processor.
struct Timed {
    kernel: KernelNftables,
    longest: Arc<Mutex<Duration>>,
}

/// Of the calling thread alone: how long it waited for a processor is not counted.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to what it is given and nothing else.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Door for Timed {
    fn commit(&mut self, transaction: &Transaction) -> Result<Generation, NftablesError> {
        let started = processor_time();
        let committed = self.kernel.commit(transaction);
        let mut longest = self.longest.lock().unwrap();
        *longest = longest.max(processor_time() - started);
        committed
    }

    fn generation(&mut self) -> Result<Generation, NftablesError> {
        self.kernel.generation()
    }

    fn tables(&mut self, family: TableFamily) -> Result<Vec<InstalledTable>, NftablesError> {
        self.kernel.tables(family)
    }

    fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, NftablesError> {
        self.kernel.chains(table)
    }

    fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<InstalledRule>, NftablesError> {
        self.kernel.rules(table, chain)
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<Set>, NftablesError> {
        self.kernel.sets(table)
    }

    fn elements(
        &mut self,
        table: &Table,
        set: &Set,
        each: &mut dyn FnMut(&Element),
    ) -> Result<(), NftablesError> {
        self.kernel.elements(table, set, each)
    }

    fn element(&mut self, table: &Table, set: &Set, key: &Value) -> Result<Option<Element>, NftablesError> {
        self.kernel.element(table, set, key)
    }

    fn counters(&mut self, table: &Table, each: &mut dyn FnMut(&Counter)) -> Result<(), NftablesError> {
        self.kernel.counters(table, each)
    }
}

type TimedMode = Nftables<Timed>;

/// The mode with one Service that the lab can serve, and all others still to come.
fn with_one_service(longest: &Arc<Mutex<Duration>>) -> (TimedMode, ServiceTable) {
    let (kernel, watch) = open(Family::V4).unwrap();
    let door = Timed { kernel, longest: Arc::clone(longest) };
    let mut mode = Nftables::new(Family::V4, door, watch, Settings::default());
    let mut table = ServiceTable::new(Family::V4);
    table.set(service_port(0, [10, 96, 0, 10], &[[10, 244, 1, 5]]));
    mode.cleanup().unwrap();
    mode.observe().unwrap();
    carry_out(&mut mode, &mut table);
    (mode, table)
}

fn carry_out(mode: &mut TimedMode, table: &mut ServiceTable) {
    loop {
        let plan = mode.plan(table, Instant::now());
        mode.apply(plan).unwrap();
        if !mode.is_halfway() {
            break;
        }
    }
    table.settle();
}

fn all_others(table: &mut ServiceTable) {
    for number in 1..=SERVICES {
        let [_, _, high, low] = number.to_be_bytes();
        let pods: Vec<_> = (0..ENDPOINTS).map(|pod| [10, 128 + pod, high, low]).collect();
        table.set(service_port(number, [10, 97, high, low], &pods));
    }
}

/// An attempt to connect: when, how long it took and what came of it.
type Attempt = (Instant, Duration, Observed);

/// The longest that a new connection took between two moments. All have to succeed.
fn longest(attempts: &[Attempt], from: Instant, to: Instant) -> Duration {
    let between: Vec<_> = attempts.iter().filter(|(at, wait, _)| *at + *wait > from && *at < to).collect();
    let is_failed = |(_, _, seen): &&&Attempt| !matches!(seen, Observed::Answered { .. });
    let failed: Vec<_> = between.iter().filter(is_failed).collect();
    assert!(failed.is_empty(), "{failed:?} of {}", between.len());
    between.iter().map(|(_, wait, _)| *wait).max().expect("attempts at that time")
}

/// Of a kernel that loads 100,000 endpoints: the longest wait of a new connection meanwhile, and in as long a time before.
fn waits_of_a_load(rig: &Rig, longest_transaction: &Arc<Mutex<Duration>>) -> (Duration, Duration) {
    let (ready, over, attempts) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::new(Vec::new()));
    let (started, took) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            rig.lab.here().run(|| {
                let (mut mode, mut table) = with_one_service(longest_transaction);
                ready.store(true, Ordering::Relaxed);
                all_others(&mut table);
                thread::sleep(Duration::from_secs(2));
                let started = Instant::now();
                carry_out(&mut mode, &mut table);
                (started, started.elapsed())
            })
        });
        scope.spawn(|| {
            // Who connects while the rules of the round before go may wait for long.
            while !ready.load(Ordering::Relaxed) && !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            while !over.load(Ordering::Relaxed) {
                let started = Instant::now();
                let seen = rig.lab.probe(ip("10.244.1.9"), Protocol::Tcp, address(WEB), SOON).unwrap();
                attempts.lock().unwrap().push((started, started.elapsed(), seen));
            }
        });
        let loaded = load.join();
        over.store(true, Ordering::Relaxed);
        loaded.unwrap().unwrap()
    });
    assert!(took < Duration::from_secs(60), "a load of {took:?}");
    assert!(rig.run("nft list table ip ferrovia").matches(" . 8080").count() > 100_000, "all of them");
    let attempts = attempts.lock().unwrap();
    let before = started - took.min(Duration::from_millis(1500));
    (longest(&attempts, started, started + took), longest(&attempts, before, started))
}

/// k8s#135639: 20 s in which a machine does nothing else. A kernel that is not preemptible gives the processor to nobody else
/// until it is done with a transaction, so that connections there wait as long. One of some loads has to show how long that
/// is: how slow a busy machine is says nothing, so that it is compared with the time before. How long a transaction keeps its
/// processor can be told of all.
#[test]
fn y9_ten_thousand_services_are_loaded_without_a_lockup() {
    let rig = Rig::without_proxy(DataPlane::Nftables, &[], &[]);
    let (mut seen, longest_transaction) = (Vec::new(), Arc::default());
    let is_short =
        |(meanwhile, before): &(Duration, Duration)| *meanwhile < *before + Duration::from_millis(100);
    while !seen.iter().any(is_short) {
        assert!(seen.len() < 6, "the longest waits, and those before: {seen:?}");
        seen.push(waits_of_a_load(&rig, &longest_transaction));
    }
    let longest = *longest_transaction.lock().unwrap();
    assert!(longest > Duration::ZERO && longest < Duration::from_millis(100), "{longest:?}");
}
