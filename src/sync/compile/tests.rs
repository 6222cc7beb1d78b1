mod clashes;
mod endpoints;
mod frontends;
mod policy;
mod property;

use ipnet::IpNet;

use crate::model::{DetectLocal, Endpoint, Family, NodePortSetting, ServicePort, ServiceTable};
use crate::sync::builders::{HERE, ip, name, store};
use crate::sync::objects::{Event, Object, Reason};
use crate::sync::store::Store;

use super::*;

const SCHEDULERS: &[crate::model::Scheduler] =
    &[crate::model::Scheduler::Random, crate::model::Scheduler::RoundRobin];

fn settings() -> Settings {
    let cluster: Vec<IpNet> = ["10.244.0.0/16", "fd00:244::/32"].map(|text| text.parse().unwrap()).into();
    Settings {
        allowed_external_ips: ["203.0.113.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap()).into(),
        detect_local: DetectLocal::ClusterCidr(cluster),
        ..Settings::new(HERE.into(), SCHEDULERS)
    }
}

/// A store, its compiler and both tables, as the loop has them.
struct Bench {
    store: Store,
    compiler: Compiler,
    tables: [ServiceTable; 2],
    /// What the last compile reported as new.
    appeared: Vec<Problem>,
}

impl Bench {
    fn new(objects: impl IntoIterator<Item = Object>) -> Self {
        Bench::with(settings(), objects)
    }

    fn with(settings: Settings, objects: impl IntoIterator<Item = Object>) -> Self {
        let mut compiler = Compiler::new(settings);
        compiler.set_addresses(["172.18.0.2", "fd00:18::2", "127.0.0.1", "fe80::1"].map(ip).into());
        let tables = Family::ALL.map(ServiceTable::new);
        let mut bench = Bench { store: store(objects), compiler, tables, appeared: Vec::new() };
        bench.recompile();
        bench
    }

    fn recompile(&mut self) {
        let changed = self.store.take_changed();
        self.appeared = self.compiler.recompile(&self.store, &changed, &mut self.tables);
    }

    /// Takes events in, compiles, and says which ServicePorts of the IPv4 table became others.
    fn handle(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<String> {
        self.tables.iter_mut().for_each(ServiceTable::settle);
        events.into_iter().for_each(|event| self.store.handle(event));
        self.recompile();
        self.tables[0].changed().map(ToString::to_string).collect()
    }

    /// The only port of a Service in the IPv4 table.
    fn port(&self, service: &str) -> &ServicePort {
        self.port_in(Family::V4, service)
    }

    fn port_in(&self, family: Family, service: &str) -> &ServicePort {
        let table = &self.tables[family as usize];
        let name = name(service);
        let mut ports = table.of_service(&name);
        let port = ports.next().unwrap_or_else(|| panic!("{service} is not in the {family} table"));
        assert!(ports.next().is_none(), "{service} has several ports");
        port
    }

    fn has(&self, service: &str) -> bool {
        let name = name(service);
        self.tables.iter().any(|table| table.of_service(&name).next().is_some())
    }

    fn appeared_texts(&self) -> Vec<String> {
        self.appeared.iter().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.compiler.problems().map(ToString::to_string).collect()
    }

    fn reasons(&self) -> Vec<(Reason, u64)> {
        self.compiler.problem_counts().into_iter().collect()
    }
}

/// `10.244.1.5:8080` of each endpoint.
fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints
        .iter()
        .map(|endpoint| std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string())
        .collect()
}
