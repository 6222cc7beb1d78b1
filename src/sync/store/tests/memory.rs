//! What the store costs.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::held_memory::held;

const SLICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn big_slice(number: u32, node: &Arc<str>, port: &Arc<str>) -> EndpointSlice {
    let endpoints = (0..ENDPOINTS).map(|at| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number * ENDPOINTS + at));
        crate::sync::objects::SliceEndpoint { address, node: Some(Arc::clone(node)), ..here("10.0.0.1") }
    });
    let mut slice = slice(&format!("shop/service-{number}-x7k2p"), "", endpoints.collect());
    slice.service = format!("service-{number}").into();
    slice.ports[0].name = Arc::clone(port);
    slice
}

#[test]
fn an_endpoint_takes_less_than_80_bytes_with_all_that_belongs_to_it() {
    let namespace: Arc<str> = "shop".into();
    let (node, port) = ("elsewhere".into(), "http".into());
    let before = held();
    let mut store = store([]);
    for number in 0..SLICES {
        let mut slice = big_slice(number, &node, &port);
        slice.name.namespace = Arc::clone(&namespace);
        store.handle(applied(slice));
        store.take_changed();
    }
    let held = (held() - before) as f64 / f64::from(SLICES * ENDPOINTS);
    assert!((32.0..80.0).contains(&held), "{held} bytes per endpoint");
}

#[test]
fn a_service_takes_less_than_450_bytes_with_its_name() {
    let namespace: Arc<str> = "shop".into();
    let http: Arc<str> = "http".into();
    let before = held();
    let mut store = store([]);
    for number in 0..SLICES {
        let address = Ipv4Addr::from_bits(0x0a60_0000 + number).to_string();
        let mut service = service(&format!("shop/service-{number}"), &[&address]);
        service.uid = format!("0f6b1c1e-9b5d-4a7e-8d0c-{number:012x}").as_str().into();
        service.name.namespace = Arc::clone(&namespace);
        service.ports[0].name = Arc::clone(&http);
        store.handle(applied(service));
        store.take_changed();
    }
    let each = (held() - before) as f64 / f64::from(SLICES);
    assert!((200.0..450.0).contains(&each), "{each} bytes");
}

/// With the store's share this is what a node with that many Services holds, in each family that they have.
#[test]
fn ten_thousand_services_with_ten_endpoints_compile_into_less_than_8_mib() {
    use crate::model::{Family, ServiceTable};
    use crate::sync::compile::{Compiler, Settings};

    let (node, port) = ("elsewhere".into(), "http".into());
    let mut store = store([]);
    for number in 0..SLICES {
        let slice = big_slice(number, &node, &port);
        let address = Ipv4Addr::from_bits(0x0a60_0000 + number).to_string();
        let mut service = service(&format!("shop/service-{number}"), &[&address]);
        service.ports[0].name = Arc::clone(&port);
        service.name =
            ServiceName { namespace: Arc::clone(&slice.name.namespace), name: Arc::clone(&slice.service) };
        store.handle(applied(slice));
        store.handle(applied(service));
    }
    let mut compiler = Compiler::new(Settings::new("here".into(), [crate::model::Scheduler::Random]));
    let changed = store.take_changed();
    let before = held();
    let mut tables = Family::ALL.map(ServiceTable::new);
    compiler.recompile(&store, &changed, &mut tables);
    tables.iter_mut().for_each(ServiceTable::settle);
    let held = (held() - before) as f64 / 1024.0 / 1024.0;
    assert_eq!(tables[0].ports().len(), SLICES as usize);
    assert!(tables[0].ports().all(|port| port.cluster.len() == ENDPOINTS as usize));
    assert!((2.0..8.0).contains(&held), "{held} MiB");
}
