//! The mode against nf_tables in memory.

mod counting;
mod incremental;
mod planning;
mod recovery;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use super::names::{SetId, table as table_of_kernel};
use super::*;
use crate::kernel::nftables::Nftables as _;
use crate::kernel::nftables::element::ElementValue;
use crate::kernel::nftables::events::SubscriptionError;
use crate::kernel::nftables::fake::{FakeNftables, FakeTable};
use crate::kernel::nftables::{
    Chain, Counter, Element, Generation, InstalledRule, InstalledTable, NftablesError, Set, Table,
    TableFamily, Transaction, Value,
};
use crate::model::{
    Affinity, Endpoint, Frontend, LocalTraffic, Locality, NodePolicy, Protocol, ServicePort, ServicePortName,
    TrafficPolicy, Verdict,
};
use crate::modes::ModeError;

const CLUSTER: Verdict = Verdict::Forward(TrafficPolicy::Cluster);
const LOCAL: Verdict = Verdict::Forward(TrafficPolicy::Local);
const NODE: [u8; 4] = [172, 18, 0, 2];

/// A kernel that outlives its processes.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Kernel>);

#[derive(Debug, Default)]
struct Kernel(Mutex<FakeNftables>);

impl Kernel {
    fn borrow(&self) -> MutexGuard<'_, FakeNftables> {
        self.0.lock().unwrap()
    }

    fn borrow_mut(&self) -> MutexGuard<'_, FakeNftables> {
        self.borrow()
    }
}

impl door::Nftables for Shared {
    fn commit(&mut self, transaction: &Transaction) -> Result<Generation, NftablesError> {
        self.0.borrow_mut().commit(transaction)
    }

    fn generation(&mut self) -> Result<Generation, NftablesError> {
        self.0.borrow_mut().generation()
    }

    fn tables(&mut self, family: TableFamily) -> Result<Vec<InstalledTable>, NftablesError> {
        self.0.borrow_mut().tables(family)
    }

    fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, NftablesError> {
        self.0.borrow_mut().chains(table)
    }

    fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<InstalledRule>, NftablesError> {
        self.0.borrow_mut().rules(table, chain)
    }

    fn sets(&mut self, table: &Table) -> Result<Vec<Set>, NftablesError> {
        self.0.borrow_mut().sets(table)
    }

    fn elements(
        &mut self,
        table: &Table,
        set: &Set,
        each: &mut dyn FnMut(&Element),
    ) -> Result<(), NftablesError> {
        self.0.borrow_mut().elements(table, set, each)
    }

    fn element(&mut self, table: &Table, set: &Set, key: &Value) -> Result<Option<Element>, NftablesError> {
        self.0.borrow_mut().element(table, set, key)
    }

    fn counters(&mut self, table: &Table, each: &mut dyn FnMut(&Counter)) -> Result<(), NftablesError> {
        self.0.borrow_mut().counters(table, each)
    }
}

#[derive(Clone, Debug, Default)]
struct Told {
    disturbed: Rc<Cell<bool>>,
    transactions: Rc<Cell<u32>>,
    is_paused: Rc<Cell<bool>>,
}

impl Watch for Told {
    fn disturbed(&mut self) -> Result<bool, SubscriptionError> {
        Ok(self.disturbed.take())
    }

    fn told(&self) -> u32 {
        self.transactions.get()
    }

    fn pause(&mut self) -> Result<(), SubscriptionError> {
        assert!(!self.is_paused.replace(true), "once is enough");
        Ok(())
    }

    fn resume(&mut self) -> Result<(), SubscriptionError> {
        assert!(self.is_paused.replace(false), "it was never paused");
        Ok(())
    }

    fn alert(&mut self, _ring: Ring) -> io::Result<()> {
        Ok(())
    }
}

fn name_of(service: &str, protocol: Protocol) -> ServicePortName {
    ServicePortName { namespace: "ns".into(), service: service.into(), port: "".into(), protocol }
}

fn name(service: &str) -> ServicePortName {
    name_of(service, Protocol::Tcp)
}

fn in_family(family: Family, v4: [u8; 4]) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => IpAddr::from((0xfd_u128 << 120 | u128::from(u32::from_be_bytes(v4))).to_be_bytes()),
    }
}

fn endpoint_in(family: Family, last: u8, locality: Locality) -> Endpoint {
    Endpoint { address: in_family(family, [10, 244, 1, last]), port: 8080, locality, weight: 1 }
}

fn endpoints(lasts: &[u8]) -> Box<[Endpoint]> {
    lasts.iter().map(|last| endpoint_in(Family::V4, *last, Locality::Remote)).collect()
}

fn cluster_ip(last: u8) -> Frontend {
    Frontend::ClusterIp([10, 96, 0, last].into())
}

/// A Service in IPv4 with two remote endpoints.
fn service(of: &str, frontends: &[Frontend]) -> ServicePort {
    service_of(name(of), frontends)
}

fn service_of(name: ServicePortName, frontends: &[Frontend]) -> ServicePort {
    ServicePort {
        name,
        port: 80,
        frontends: frontends.into(),
        load_balancer_sources: None,
        internal: CLUSTER,
        external: CLUSTER,
        cluster: endpoints(&[5, 6]),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn sticky() -> Option<Affinity> {
    Some(Affinity { timeout_seconds: 10_800.try_into().unwrap() })
}

/// A node that tells its pods by their addresses.
fn node() -> NodePolicy {
    let pods = ["10.244.0.0/16", "fd00::af4:0/112"].map(|network| network.parse().unwrap());
    let mut addresses: Vec<IpAddr> = Family::ALL.map(|family| in_family(family, NODE)).into();
    addresses.sort();
    NodePolicy { local_traffic: LocalTraffic::Sources(pods.into()), addresses, ..NodePolicy::default() }
}

fn table_of(family: Family, ports: impl IntoIterator<Item = ServicePort>) -> ServiceTable {
    let mut table = ServiceTable::new(family);
    table.set_node(node());
    ports.into_iter().for_each(|port| table.set(port));
    table
}

/// A mode, the kernel that it writes to and a clock.
struct Bench {
    kernel: Shared,
    mode: Nftables<Shared>,
    told: Told,
    now: Instant,
}

impl Bench {
    fn on(kernel: Shared, family: Family) -> Self {
        let told = Told::default();
        let mode = Nftables::new(family, kernel.clone(), Box::new(told.clone()), Settings::default());
        let mut bench = Bench { kernel, mode, told, now: Instant::now() };
        bench.mode.observe().unwrap();
        bench
    }

    fn new(family: Family) -> Self {
        Self::on(Shared::default(), family)
    }

    /// With this in the kernel.
    fn with(ports: impl IntoIterator<Item = ServicePort>) -> (Self, ServiceTable) {
        let (mut bench, mut table) = (Bench::new(Family::V4), table_of(Family::V4, ports));
        bench.sync(&mut table);
        (bench, table)
    }

    /// A new process on the same kernel.
    fn restart(self) -> Self {
        Bench { now: self.now, ..Bench::on(self.kernel, self.mode.family) }
    }

    fn plan(&self, table: &ServiceTable) -> Plan {
        self.mode.plan(table, self.now)
    }

    /// One turn of the loop; returns the plan's text.
    fn sync(&mut self, table: &mut ServiceTable) -> String {
        let mut text = String::new();
        loop {
            let plan = self.plan(table);
            text += &plan.to_string();
            self.mode.apply(plan).unwrap_or_else(|error| panic!("{error}\n{text}"));
            if !self.mode.is_halfway() {
                table.settle();
                return text;
            }
        }
    }

    fn observe_and_sync(&mut self, table: &mut ServiceTable) -> String {
        self.mode.observe().unwrap();
        table.unsettle();
        self.sync(table)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Until nothing is left that could go.
    fn sweep(&mut self, table: &mut ServiceTable) {
        for _ in 0..8 {
            self.wait(Duration::from_secs(2));
            self.sync(table);
        }
        assert_eq!(self.mode.wake(), None);
    }

    fn assert_nothing_to_do(&mut self, table: &mut ServiceTable) {
        table.unsettle();
        assert_eq!(self.plan(table).to_string(), "", "from what was written");
        self.mode.observe().unwrap();
        assert_eq!(self.plan(table).to_string(), "", "from what was read");
        self.sync(table);
    }

    /// Somebody else's transaction.
    fn meddle(&mut self, change: impl FnOnce(&mut Transaction)) {
        self.meddle_silently(change);
        self.told.disturbed.set(true);
        self.told.transactions.set(self.told.transactions.get() + 1);
    }

    /// Of which nobody is told.
    fn meddle_silently(&mut self, change: impl FnOnce(&mut Transaction)) {
        let mut transaction = Transaction::new(&table_of_kernel(self.mode.family));
        change(&mut transaction);
        self.kernel.0.borrow_mut().commit(&transaction).unwrap();
    }

    /// Elements of a set as printed.
    fn list(&self, set: &str) -> Vec<String> {
        let kernel = self.kernel.0.borrow();
        let table = &kernel.tables[&table_of_kernel(self.mode.family)];
        table
            .sets
            .get(set)
            .into_iter()
            .flat_map(|of| of.elements.values().map(|element| shown(table, set, element)))
            .collect()
    }

    /// All that packets meet, but which slot an endpoint has.
    fn state(&self) -> BTreeMap<String, BTreeSet<String>> {
        let kernel = self.kernel.0.borrow();
        let table = &kernel.tables[&table_of_kernel(self.mode.family)];
        let mut state = BTreeMap::new();
        for (name, chain) in &table.chains {
            let rules = chain.rules.iter().enumerate().map(|(at, (_, rule))| format!("{at} {rule}"));
            state.insert(format!("chain {name}"), rules.collect());
        }
        for (name, set) in &table.sets {
            let elements = set.elements.values().map(|element| match SetId::parse(name) {
                Some(SetId::Slots(map)) => format!(
                    "{:?}",
                    key::parse_slot(map, self.mode.family, element).map(|(place, _, target)| (place, target))
                ),
                Some(SetId::Fixed(names::Set::Classes | names::Set::Timeouts, _)) => {
                    format!("{:?}", element.data)
                }
                _ => shown(table, name, element),
            });
            state.insert(format!("set {name} {}", set.elements.len()), elements.collect());
        }
        state
    }
}

/// With the chain that a class's number stands for: which number that is depends on what was there before.
fn shown(table: &FakeTable, set: &str, element: &Element) -> String {
    let map = match set {
        "sticky" | "node-sticky" => "timeouts",
        _ => "classes",
    };
    let ElementValue::Value(number) = &element.data else { return element.to_string() };
    match table.sets.get(map).and_then(|set| set.elements.get(number)) {
        Some(class) => Element { data: class.data.clone(), ..element.clone() }.to_string(),
        None => element.to_string(),
    }
}

fn from_scratch(table: &ServiceTable) -> BTreeMap<String, BTreeSet<String>> {
    let mut fresh = ServiceTable::new(table.family());
    fresh.set_node(table.node().clone());
    table.ports().for_each(|port| fresh.set((**port).clone()));
    let mut bench = Bench::new(table.family());
    bench.sync(&mut fresh);
    bench.state()
}
