use std::os::fd::AsFd;

use super::address::Scope;
use super::neighbour::Trust;
use super::queue::TokenBucket;
use super::*;
use crate::kernel::netns::Namespace;
use crate::model::network_of_host;

const MAC: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 5]);

fn in_namespace(work: impl FnOnce(&mut Network) + Send) {
    Namespace::new().unwrap().run(|| work(&mut Network::open().unwrap())).unwrap();
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A link that is up, with its other end elsewhere.
fn pair(network: &mut Network, elsewhere: &Namespace) -> Link {
    let here = VethEnd { name: "here", hardware_address: Some(MAC), mtu: Some(1400) };
    network.apply([link::add_veth(&here, &VethEnd::named("there"), elsewhere.as_fd())]).unwrap();
    let there = elsewhere.run(|| {
        let mut network = Network::open().unwrap();
        let there = network.find_link("there").unwrap().unwrap();
        network.apply([link::up(there.link)]).unwrap();
    });
    there.unwrap();
    let here = network.link("here").unwrap();
    network.apply([link::without_link_local_address(here), link::up(here)]).unwrap();
    here
}

#[test]
fn hardware_addresses_are_read_as_they_are_written() {
    assert_eq!(MAC.to_string(), "02:00:00:00:00:05");
    assert_eq!("02:00:00:00:00:05".parse::<HardwareAddress>().unwrap(), MAC);
    for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:05:06", "2:0:0:0:0:5", "02-00-00-00-00-05"] {
        assert!(wrong.parse::<HardwareAddress>().is_err(), "{wrong}");
    }
}

#[test]
fn links_are_as_they_were_made_and_go_in_pairs() {
    let elsewhere = Namespace::new().unwrap();
    in_namespace(|network| {
        let here = pair(network, &elsewhere);
        network.apply([link::alias(here, &format!("default/{}", "ä".repeat(200)))]).unwrap();
        let found = network.find_link("here").unwrap().unwrap();
        assert_eq!(
            (found.link, found.hardware_address, found.mtu, found.is_up),
            (here, Some(MAC), 1400, true)
        );
        assert_eq!(found.alias.unwrap().len(), 254, "as much as fits");
        assert_eq!(network.links().unwrap().len(), 2, "and lo");
        assert_eq!(network.addresses(here).unwrap(), [], "no link-local address");
        network.delete_link("here").unwrap();
        assert_eq!(network.find_link("here").unwrap(), None);
        network.delete_link("here").unwrap();
    });
    let there = elsewhere.run(|| Network::open().unwrap().find_link("there").unwrap()).unwrap();
    assert_eq!(there, None);
}

#[test]
fn addresses_and_routes_are_found() {
    let elsewhere = Namespace::new().unwrap();
    in_namespace(|network| {
        let here = pair(network, &elsewhere);
        let gateway = network_of_host(address("169.254.1.1"));
        network.apply([address::add(here, gateway, Scope::Host)]).unwrap();
        assert_eq!(network.addresses(here).unwrap(), [gateway]);
        for text in ["10.244.1.5", "fd00:244:1::5"] {
            let destination = network_of_host(address(text));
            let route = Route { protocol: 103, ..Route::new(destination, Hop { gateway: None, link: here }) };
            assert_eq!(network.route_to(address(text)).unwrap(), None);
            network.apply([route::add(&route)]).unwrap();
            let found = network.route_to(address(text)).unwrap().unwrap();
            assert_eq!((found.destination, found.link, found.protocol), (destination, Some(here), 103));
            assert!(network.routes(Family::of(address(text))).unwrap().contains(&found));
            let again = network.apply([route::add(&route)]).unwrap_err();
            assert_eq!(again.refusal(), Some(libc::EEXIST));
            network.apply([route::add(&route).unless_there()]).unwrap();
        }
    });
}

/// The kernel goes on after a refusal; who called hears of the first.
#[test]
fn the_first_refusal_is_told_with_what_was_attempted() {
    let elsewhere = Namespace::new().unwrap();
    in_namespace(|network| {
        let here = pair(network, &elsewhere);
        let add = |text| address::add(here, network_of_host(address(text)), Scope::Global);
        let changes = ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"].map(add);
        let error = network.apply(changes).unwrap_err();
        assert_eq!(error.refusal(), Some(libc::EEXIST));
        assert_eq!(error.to_string(), format!("cannot add address 10.0.0.1/32 to link {}", here.number()));
        assert_eq!(network.addresses(here).unwrap().len(), 2);
    });
}

#[test]
fn neighbours_and_queues_are_as_the_tools_of_iproute2_see_them() {
    let (node, elsewhere) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    node.run(|| {
        let mut network = Network::open().unwrap();
        let here = pair(&mut network, &elsewhere);
        network
            .apply([
                neighbour::replace(here, address("10.0.0.1"), MAC, Trust::Permanent),
                neighbour::replace(here, address("fd00::1"), MAC, Trust::Initial),
                queue::limit(here, TokenBucket { bytes_per_second: 1_000_000, burst: 40_000 }),
            ])
            .unwrap();
        assert_eq!(network.root_queue(here).unwrap().as_deref(), Some("tbf"));
    })
    .unwrap();
    let shown = |program: &str, line: &str| {
        let output = node.command(program).unwrap().args(line.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let neighbours = shown("ip", "neighbour show dev here") + &shown("ip", "-6 neighbour show dev here");
    assert!(neighbours.contains("10.0.0.1 lladdr 02:00:00:00:00:05 PERMANENT"), "{neighbours}");
    assert!(neighbours.contains("fd00::1 lladdr 02:00:00:00:00:05 extern_learn STALE"), "{neighbours}");
    let queue = shown("tc", "qdisc show dev here root");
    assert!(queue.contains("rate 8Mbit burst 40000b lat 25ms"), "{queue}");
}
