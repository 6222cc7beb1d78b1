use std::sync::Arc;
use std::time::Instant;

use super::plan::Known;
use super::{LocalPorts, Services, WithLocalhost};
use crate::model::{
    Endpoint, Family, Frontend, Locality, NodePolicy, NodePortAddresses, Protocol, Scheduler, ServicePort,
    ServicePortName, ServiceTable, TrafficPolicy, Verdict,
};
use crate::modes::userspace::handover::Inherited;
use crate::modes::userspace::{Engine, Limits};
use crate::modes::{Drift, Mode, Tracking};

fn port(service: &str, frontend: Frontend, protocol: Protocol) -> ServicePort {
    let endpoint =
        Endpoint { address: [10, 244, 1, 5].into(), port: 8080, locality: Locality::Local, weight: 1 };
    ServicePort {
        name: ServicePortName {
            namespace: "shop".into(),
            service: service.into(),
            port: "".into(),
            protocol,
        },
        port: 80,
        frontends: [frontend].into(),
        load_balancer_sources: None,
        internal: Verdict::Forward(TrafficPolicy::Cluster),
        external: Verdict::Forward(TrafficPolicy::Cluster),
        cluster: [endpoint].into(),
        local: [].into(),
        draining: [].into(),
        affinity: None,
        scheduler: Scheduler::Random,
        hashing: Default::default(),
    }
}

fn table() -> ServiceTable {
    let mut table = ServiceTable::new(Family::V4);
    table.set(port("inside", Frontend::ClusterIp([10, 96, 0, 1].into()), Protocol::Tcp));
    table.set(port("phone", Frontend::NodePort(30003), Protocol::Sctp));
    table.set(port("web", Frontend::NodePort(30001), Protocol::Tcp));
    table.set(port("dns", Frontend::NodePort(30002), Protocol::Udp));
    table
}

fn set(edit: &super::plan::Plan<&str>) -> Vec<String> {
    edit.local.set.iter().map(|port| port.name.to_string()).collect()
}

fn plan(known: &Known, table: &ServiceTable) -> super::plan::Plan<&'static str> {
    super::plan::Plan { of_mode: "", local: known.plan(table) }
}

#[test]
fn node_ports_alone_are_served_and_only_what_changes_is_told() {
    let (mut known, mut table) = (Known::default(), table());
    let first = plan(&known, &table);
    assert_eq!(set(&first), ["shop/dns/UDP", "shop/web/TCP"]);
    known.learn(&first.local);
    table.settle();
    assert_eq!(plan(&known, &table).local.len(), 0);
    table.set(port("web", Frontend::NodePort(30009), Protocol::Tcp));
    let second = plan(&known, &table);
    assert_eq!(set(&second), ["shop/web/TCP"]);
    known.learn(&second.local);
    let name = second.local.set[0].name.clone();
    table.remove(&name);
    assert_eq!(plan(&known, &table).local.removed, [name]);
}

#[test]
fn s4_loopback_has_them_only_where_node_port_addresses_name_it() {
    let (mut known, mut table) = (Known::default(), table());
    known.learn(&plan(&known, &table).local);
    let only = |network: &str| NodePolicy {
        node_ports: NodePortAddresses::In(vec![network.parse().unwrap()]),
        ..NodePolicy::default()
    };
    table.set_node(only("172.18.0.0/16"));
    let none = plan(&known, &table);
    assert_eq!(none.local.removed.len(), 2);
    known.learn(&none.local);
    table.set_node(only("127.0.0.0/8"));
    assert_eq!(set(&plan(&known, &table)).len(), 2);
}

/// A mode that does nothing, and may be in the middle of a large load.
#[derive(Debug)]
struct Loading {
    is_halfway: bool,
}

impl Mode for Loading {
    type Plan = &'static str;
    type Error = crate::modes::userspace::Error;

    const SCHEDULERS: &'static [Scheduler] = &[Scheduler::Random];
    const TRACKING: Tracking = Tracking::AsSent;

    fn observe(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn plan(&self, _: &ServiceTable, _: Instant) -> &'static str {
        ""
    }

    fn apply(&mut self, _: &'static str) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_halfway(&self) -> bool {
        self.is_halfway
    }

    fn operations(_: &&'static str) -> usize {
        0
    }

    fn drift(&mut self) -> Result<Drift, Self::Error> {
        Ok(Drift::None)
    }

    fn retire_predecessors(&mut self, _: Instant) -> Result<(), Self::Error> {
        Ok(())
    }

    fn cleanup(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// 50,000 Services go in 137 parts.
#[test]
fn a_load_in_parts_looks_for_node_ports_once() {
    let engine = Engine::start_for_loopback(Limits::of_descriptors(1024), Vec::new(), Inherited::default());
    let engine = Arc::new(engine.unwrap());
    let planned = |is_halfway| {
        let ports = LocalPorts::new(Family::V4, Arc::clone(&engine), Services::Own);
        let mode = WithLocalhost::new(Loading { is_halfway }, Some(ports));
        mode.plan(&table(), Instant::now()).local.set.len()
    };
    assert_eq!([false, true].map(planned), [2, 0]);
}
