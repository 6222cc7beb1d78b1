//! What virtual addresses look like as bytes and as text. What the kernel does is in `routes` and `dummy`.

mod dummy;
mod routes;

use std::time::{Duration, Instant};

use super::codec::{self, Existing, LocalRoute};
use super::*;
use crate::kernel::netlink::{Replies, Request};
use crate::kernel::netns::Namespace;
use crate::kernel::rtnetlink::address::InterfaceAddress;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn add(address: &str, source: Option<&str>) -> AddressChange {
    AddressChange::Add { address: ip(address), source: source.map(ip) }
}

fn remove(address: &str) -> AddressChange {
    AddressChange::Remove(ip(address))
}

fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = namespace.command(words.next().unwrap()).unwrap().args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A node with an address in each family, next to `lo`.
fn node() -> Namespace {
    let namespace = Namespace::new().unwrap();
    for line in [
        "ip link set lo up",
        "ip link add eth0 type bridge",
        "ip link set eth0 up",
        "ip address add 172.18.0.2/16 dev eth0",
        "ip address add fd00:18::2/64 dev eth0 nodad",
    ] {
        run(&namespace, line);
    }
    wait_for_route(&namespace, "fd00:18::2");
    namespace
}

/// The kernel adds the local route to an IPv6 address a moment after it has added the address.
fn wait_for_route(namespace: &Namespace, address: &str) {
    let option = if address.contains(':') { "-6" } else { "-4" };
    let start = Instant::now();
    while run(namespace, &format!("ip {option} route show table local {address} proto kernel")).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "no route to {address}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Changes and lists in a namespace, with the same door.
fn listed(addresses: &mut dyn VirtualAddresses, family: Family) -> Vec<String> {
    let list = addresses.list(family).unwrap().into_iter();
    list.map(|(address, source)| match source {
        Some(source) => format!("{address} src {source}"),
        None => address.to_string(),
    })
    .collect()
}

/// The index and the reason of each refused change.
fn reasons(result: Result<(), VirtualAddressError>) -> Vec<(usize, String)> {
    let Err(VirtualAddressError::Refused { failures }) = result else { panic!("not refused: {result:?}") };
    failures.into_iter().map(|failure| (failure.index, failure.reason.to_string())).collect()
}

const OCCUPIED: &str = "the node has this address already, it is not ours to change";

#[test]
fn changes_print_as_commands() {
    let table = [
        (
            add("10.96.0.10", Some("172.18.0.2")),
            "ip route add local 10.96.0.10/32 dev lo table local proto 102 src 172.18.0.2",
            "ip address add 10.96.0.10/32 dev kube-ipvs0",
        ),
        (
            add("fd00:96::10", None),
            "ip -6 route add local fd00:96::10/128 dev lo table local proto 102",
            "ip address add fd00:96::10/128 dev kube-ipvs0",
        ),
        (
            remove("10.96.0.10"),
            "ip route del local 10.96.0.10/32 dev lo table local proto 102",
            "ip address del 10.96.0.10/32 dev kube-ipvs0",
        ),
    ];
    for (change, route, address) in table {
        assert_eq!(change.to_string(), route);
        assert_eq!(change.on_device().to_string(), address);
    }
}

/// `struct rtmsg`, `RTA_TABLE`, `RTA_DST`, `RTA_PREFSRC` and `RTA_OIF` of `ip route show table local proto 102`, Linux 6.18.
const ROUTE: &[u8] = b"\x02\x20\0\0\xff\x66\xfe\x02\0\0\0\0\x08\0\x0f\0\xff\0\0\0\x08\0\x01\0\x0a\x60\0\x0a\
    \x08\0\x07\0\xac\x12\0\x02\x08\0\x04\0\x01\0\0\0";

#[test]
fn routes_are_read() {
    let expected =
        LocalRoute { address: ip("10.96.0.10"), source: Some(ip("172.18.0.2")), protocol: ROUTE_PROTOCOL };
    assert_eq!(codec::parse_route(ROUTE), Some(expected));
    for length in 0..ROUTE.len() {
        let _ = (codec::parse_route(&ROUTE[..length]), InterfaceAddress::parse(&ROUTE[..length]));
    }
    for (offset, other) in [(1, 24), (4, 254), (7, 1)] {
        let mut route = ROUTE.to_vec();
        route[offset] = other;
        assert_eq!(codec::parse_route(&route), None, "not to a host, in another table, of another type");
    }
}

fn payload(request: Request) -> Vec<u8> {
    Replies(&request.into_bytes(1)).next().unwrap().payload.to_vec()
}

/// What `ip route add local 10.96.0.10/32 dev lo table local proto 102 src 172.18.0.2` sends.
#[test]
fn routes_are_written_as_ip_writes_them() {
    let written = payload(codec::add_route(ip("10.96.0.10"), Some(ip("172.18.0.2")), Existing::Refuse));
    assert_eq!(
        written,
        b"\x02\x20\0\0\xff\x66\xfe\x02\0\0\0\0\x08\0\x01\0\x0a\x60\0\x0a\x08\0\x04\0\x01\0\0\0\
          \x08\0\x07\0\xac\x12\0\x02"
    );
}

#[test]
fn the_fake_refuses_what_the_kernel_refuses() {
    let mut fake = fake::FakeVirtualAddresses::default();
    fake.occupied.insert(ip("172.18.0.2"));
    let changes =
        [add("172.18.0.2", None), add("10.96.0.10", None), add("fd00::1", None), remove("10.96.0.99")];
    let refused = reasons(fake.change(Family::V4, &changes));
    assert_eq!(refused, [(0, OCCUPIED.to_owned()), (2, "not an IPv4 address".to_owned())]);
    assert_eq!(listed(&mut fake, Family::V4), ["10.96.0.10"]);
}
