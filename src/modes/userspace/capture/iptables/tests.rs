//! The capture against iptables and sets in memory, and against the kernel.

use std::net::IpAddr;

use super::*;
use crate::kernel::ipset::KernelSets;
use crate::kernel::ipset::fake::FakeSets;
use crate::kernel::iptables::fake::Fake;
use crate::kernel::iptables::{Flavour, Table};
use crate::kernel::netns::Namespace;
use crate::model::{Frontend, LocalTraffic, NodePolicy, ServicePort};
use crate::modes::userspace::tests::{port, table};

type InMemory = ByIptables<Fake>;

fn in_memory() -> InMemory {
    ByIptables::new(Fake::new(Family::V4), Box::new(FakeSets::default()), Settings::default())
}

/// Tells how many operations it took.
fn sync<D: Door>(capture: &mut ByIptables<D>, table: &mut ServiceTable, scope: Scope) -> usize {
    let plan = capture.plan(table, scope);
    let operations = ByIptables::<D>::operations(&plan);
    capture.apply(plan).unwrap();
    table.settle();
    operations
}

#[test]
fn a_changed_service_costs_its_own_members_and_starts_no_program() {
    let (mut capture, mut table) = (in_memory(), table((1..100).map(|n| port(n, &[5]))));
    capture.observe().unwrap();
    sync(&mut capture, &mut table, Scope::Everything);
    capture.rules.rules.door().input.clear();
    table.set(port(7, &[]));
    // Two captured frontends less, a rejected NodePort more.
    assert_eq!(sync(&mut capture, &mut table, Scope::Changes), 3);
    assert_eq!(capture.rules.rules.door().input, "", "no rule is written");
    assert_eq!(capture.drift().unwrap(), Drift::None);
}

#[test]
fn reading_back_finds_nothing_to_do() {
    let (mut capture, mut table) = (in_memory(), table((1..20).map(|n| port(n, &[5]))));
    capture.observe().unwrap();
    sync(&mut capture, &mut table, Scope::Everything);
    table.unsettle();
    capture.observe().unwrap();
    assert_eq!(sync(&mut capture, &mut table, Scope::Everything), 0);
}

#[test]
fn y3_y10_any_sequence_ends_as_from_scratch() {
    let (mut stepwise, mut changing) = (in_memory(), table([]));
    stepwise.observe().unwrap();
    sync(&mut stepwise, &mut changing, Scope::Everything);
    for step in 0u32..300 {
        let number = (step * 7 % 13) as u8 + 1;
        match step % 5 {
            0 => changing.remove(&port(number, &[]).name),
            1 => changing.set(port(number, &[])),
            which => changing.set(guarded(number, (which + step % 3) as u8)),
        }
        if step % 3 == 0 {
            sync(&mut stepwise, &mut changing, Scope::Changes);
        }
    }
    sync(&mut stepwise, &mut changing, Scope::Changes);
    let (mut scratch, mut same) = (in_memory(), table(changing.ports().map(|port| (**port).clone())));
    scratch.observe().unwrap();
    sync(&mut scratch, &mut same, Scope::Everything);
    assert_eq!(stepwise.held.members, scratch.held.members);
    assert_eq!(stepwise.held.counts, scratch.held.counts);
}

/// With a load balancer that a network of its number may use.
fn guarded(number: u8, endpoint: u8) -> ServicePort {
    let mut port = port(number, &[endpoint]);
    let balancer = Frontend::LoadBalancer(IpAddr::from([192, 0, 2, number]));
    port.frontends = port.frontends.iter().copied().chain([balancer]).collect();
    port.load_balancer_sources = Some([format!("10.{endpoint}.0.0/16").parse().unwrap()].into());
    port
}

/// What keeps clients out is there before what lets them in.
#[test]
fn a_guarded_frontend_is_never_open_to_everybody() {
    let (mut capture, mut table) = (in_memory(), table([]));
    capture.observe().unwrap();
    sync(&mut capture, &mut table, Scope::Everything);
    let position = |text: &str, of: &str| text.find(of).unwrap_or_else(|| panic!("no {of} in {text}"));
    table.set(guarded(1, 5));
    let plan = capture.plan(&table, Scope::Changes);
    let text = plan.to_string();
    let [ranges, guard, captured] = [
        "add FERRO-U4-SOURCE-RANGES 192.0.2.1",
        "add FERRO-U4-GUARDED 192.0.2.1",
        "add FERRO-U4-CAPTURED 192.0.2.1",
    ]
    .map(|of| position(&text, of));
    assert!(ranges < guard && guard < captured, "{text}");
    capture.apply(plan).unwrap();
    table.settle();
    table.remove(&port(1, &[]).name);
    let text = capture.plan(&table, Scope::Changes).to_string();
    let [captured, guard] =
        ["del FERRO-U4-CAPTURED 192.0.2.1", "del FERRO-U4-GUARDED 192.0.2.1"].map(|of| position(&text, of));
    assert!(captured < guard, "{text}");
}

/// Every rule that there is in any setting comes back from the kernel as it was written, in both flavours and families; and
/// what others do to it is seen.
#[test]
fn the_kernel_keeps_what_is_written_and_any_change_is_found() {
    for flavour in [Flavour::Legacy, Flavour::Nft] {
        Namespace::new().unwrap().run(|| check_in_kernel(flavour)).unwrap();
    }
}

fn check_in_kernel(flavour: Flavour) {
    let of_node = |local_traffic| NodePolicy { local_traffic, ..NodePolicy::default() };
    for family in Family::ALL {
        let rules = Programs::find(family, Some(flavour)).unwrap();
        let mut capture = ByIptables::new(rules, Box::new(KernelSets::open().unwrap()), Settings::default());
        for local in [
            LocalTraffic::Undetected,
            LocalTraffic::Sources(vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/64".parse().unwrap()]),
            LocalTraffic::Interface("cni0".into()),
            LocalTraffic::InterfacePrefix("veth".into()),
        ] {
            let mut wanted = ServiceTable::new(family);
            wanted.set_node(of_node(local.clone()));
            if family == Family::V4 {
                (1..50).for_each(|number| wanted.set(guarded(number, 5)));
                wanted.set(port(60, &[]));
            }
            capture.observe().unwrap();
            assert_ne!(sync(&mut capture, &mut wanted, Scope::Everything), 0, "{flavour} {local:?}");
            wanted.unsettle();
            capture.observe().unwrap();
            let plan = capture.plan(&wanted, Scope::Everything);
            assert_eq!(ByIptables::<Programs>::operations(&plan), 0, "{flavour} {family} {local:?}: {plan}");
            assert_eq!(capture.drift().unwrap(), Drift::None);
        }
        if family == Family::V4 {
            meddle(&mut capture, flavour);
        }
        capture.cleanup().unwrap();
        capture.cleanup().unwrap();
        let mut left = Vec::new();
        let mut note = |line: &str| left.extend(line.contains("FERRO").then(|| line.to_owned()));
        for table in Table::ALL {
            capture.rules.rules.door().save(table, &mut note).unwrap();
        }
        assert_eq!(left, [] as [String; 0]);
        assert_eq!(capture.sets.headers(names::of_family(family)).unwrap(), []);
    }
}

fn meddle(capture: &mut ByIptables<Programs>, flavour: Flavour) {
    let mut wanted = table((1..50).map(|number| guarded(number, 5)));
    let mut look = |capture: &mut ByIptables<Programs>| {
        wanted.unsettle();
        capture.observe().unwrap();
        sync(capture, &mut wanted, Scope::Everything)
    };
    look(capture);
    for meddling in [
        "ipset del FERRO-U4-CAPTURED 10.96.0.10,tcp:80".to_owned(),
        "ipset add FERRO-U4-VIRTUAL-IPS 10.1.2.3".to_owned(),
        "ipset flush FERRO-U4-TCP-CAPTURED".to_owned(),
        format!("iptables-{flavour} -t mangle -F FERRO-CAPTURE"),
        format!("iptables-{flavour} -t mangle -D PREROUTING 1"),
    ] {
        assert_eq!(look(capture), 0, "before {meddling}");
        let words: Vec<&str> = meddling.split(' ').collect();
        assert!(std::process::Command::new(words[0]).args(&words[1..]).status().unwrap().success());
        assert_eq!(capture.drift().unwrap(), Drift::Suspected, "{meddling}");
        assert_ne!(look(capture), 0, "{meddling}");
    }
}
