//! Cases with the strict fake of the kernel's routes.

mod claims;
mod history;
mod routes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::nodes::LINGER;
use super::*;
use crate::kernel::routes::fake::FakeRoutes;
use crate::kernel::routes::{Notice, Route, Routes};
use crate::model::ServiceName;
use crate::sync::objects::{Event, Kind, Node, Object};

const LINK: u32 = 2;

/// A Node that was made in this second, with an InternalIP and pod CIDRs. Its UID is its name's and that second's.
fn node(name: &str, created: i64, addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    let addresses: Box<[_]> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Node {
        name: name.into(),
        uid: format!("{name}-{created}").into(),
        created,
        internal_addresses: addresses.clone(),
        addresses,
        zone: None,
        pod_cidrs: pod_cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        leaving: false,
        pod_network: Default::default(),
    }
}

fn applied(node: Node) -> Event {
    Event::Applied(Object::Node(Box::new(node)))
}

fn deleted(name: &str) -> Event {
    Event::Deleted(Kind::Node, ServiceName { namespace: "".into(), name: name.into() })
}

fn list(nodes: impl IntoIterator<Item = Node>) -> Vec<Event> {
    let nodes = nodes.into_iter().map(applied);
    std::iter::once(Event::ListStarted(Kind::Node))
        .chain(nodes)
        .chain([Event::ListDone(Kind::Node)])
        .collect()
}

/// The node "a" with 172.18.0.1 and 10.244.1.0/24, and a clock that is set by hand.
struct Bench {
    host_gw: HostGw<FakeRoutes>,
    now: Instant,
}

fn this_node() -> Node {
    node("a", 1, &["172.18.0.1"], &["10.244.1.0/24"])
}

impl Bench {
    fn on(door: FakeRoutes) -> Self {
        Bench { host_gw: HostGw::new(Arc::from("a"), door), now: Instant::now() }
    }

    fn new() -> Self {
        let mut door = FakeRoutes::with_link("172.18.0.0/16", LINK);
        door.links.insert("fd00:18::/64".parse().unwrap(), LINK);
        door.addresses.insert([172, 18, 0, 1].into());
        door.router = Some([172, 18, 255, 254].into());
        Self::on(door)
    }

    fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.host_gw.handle(&event, self.now));
    }

    fn sync(&mut self) -> host_gw::Synced {
        self.host_gw.sync(self.now).unwrap()
    }

    /// Hands over events and returns the changes that they lead to.
    fn after(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<String> {
        self.handle(events);
        let text = self.sync().plan.to_string();
        text.lines().map(|line| line.trim_start_matches("ip route ").to_owned()).collect()
    }

    /// Until deleted Nodes are forgotten.
    fn later(&mut self) -> Vec<String> {
        self.now += LINGER + Duration::from_millis(1);
        self.after([])
    }

    fn door(&mut self) -> &mut FakeRoutes {
        self.host_gw.door_mut()
    }

    /// Where packets to a network go.
    fn gateway(&mut self, network: &str) -> Option<String> {
        let route = self.door().ours.get(&network.parse::<IpNet>().unwrap()).copied();
        route.map(|route| route.gateway.to_string())
    }

    fn problems(&self) -> Vec<String> {
        self.host_gw.problems().iter().map(ToString::to_string).collect()
    }
}

fn route(destination: &str, gateway: &str) -> Route {
    Route { destination: destination.parse().unwrap(), gateway: gateway.parse().unwrap(), link: LINK }
}
