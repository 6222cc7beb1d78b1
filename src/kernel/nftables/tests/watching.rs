//! Notifications.

use super::super::chain::Chain;
use super::super::element::Element;
use super::super::events::{Change, Event, Object, Subscription};
use super::*;

fn read(subscription: &mut Subscription) -> Vec<Event> {
    let mut events = Vec::new();
    subscription.read(&mut |event| events.push(event)).unwrap();
    events
}

fn table() -> Table {
    Table::new(Family::V4, "ferrovia")
}

#[test]
fn foreign_changes_of_the_table_are_told_and_own_ones_are_not() {
    let namespace = Namespace::new().unwrap();
    within(&namespace, |nftables| {
        let mut subscription = Subscription::open(&table(), nftables.port()).unwrap();
        let mut own = Transaction::new(&table());
        own.add_table(None).add_chain(Chain::regular("services"));
        nftables.commit(&own).unwrap();
        nft(&namespace, &["add", "table", "ip", "other"]);
        nft(&namespace, &["add", "table", "ip6", "ferrovia"]);
        assert_eq!(read(&mut subscription), [], "own, another name, another family");

        nft(&namespace, &["add", "rule", "ip", "ferrovia", "services", "accept"]);
        let now = nftables.generation().unwrap();
        let [Event::Changed(change, object), Event::Committed { generation, by }] =
            &read(&mut subscription)[..]
        else {
            panic!("one change");
        };
        assert_eq!((change, object), (&Change::Added, &Object::Rule(name("services"))));
        assert_eq!(*generation, now);
        assert_eq!(*by.as_ref().unwrap().name, *"nft");

        nft(&namespace, &["flush", "ruleset"]);
        let events = read(&mut subscription);
        assert!(
            events.contains(&Event::Changed(Change::Deleted, Object::Rule(name("services")))),
            "{events:?}"
        );
        assert!(events.contains(&Event::Changed(Change::Deleted, Object::Chain(name("services")))));
        assert!(events.contains(&Event::Changed(Change::Deleted, Object::Table)));
        assert_eq!(read(&mut subscription), []);
    });
}

#[test]
fn elements_sets_and_counters_are_told() {
    let namespace = Namespace::new().unwrap();
    within(&namespace, |nftables| {
        let mut subscription = Subscription::open(&table(), nftables.port()).unwrap();
        load(
            &namespace,
            "add table ip ferrovia
            add counter ip ferrovia web
            add set ip ferrovia nodes { type ipv4_addr ; }
            add element ip ferrovia nodes { 10.0.0.1 }",
        );
        let events = read(&mut subscription);
        for object in [
            Object::Table,
            Object::Named(name("web")),
            Object::Set(name("nodes")),
            Object::Elements(name("nodes")),
        ] {
            assert!(events.contains(&Event::Changed(Change::Added, object)), "{events:?}");
        }
        nft(&namespace, &["delete", "element", "ip", "ferrovia", "nodes", "{ 10.0.0.1 }"]);
        let events = read(&mut subscription);
        assert_eq!(events[0], Event::Changed(Change::Deleted, Object::Elements(name("nodes"))));
    });
}

/// More than any queue holds: told as lost if it is somebody else's, not at all if it is ours.
#[test]
fn floods_are_lost_with_notice_and_own_floods_cost_nothing() {
    within(&Namespace::new().unwrap(), |nftables| {
        let mut flood = Transaction::new(&table());
        let key = set::Shape::types(&[datatype::Datatype::Ipv4Address]);
        flood.add_table(None).add_set(Set::new("flood", key));
        for number in 0..60_000u32 {
            let address = Value::address(std::net::Ipv4Addr::from(number).into());
            flood.add_element(&name("flood"), &Element::of_set(address));
        }
        let mut subscription = Subscription::open(&table(), nftables.port()).unwrap();
        nftables.commit(&flood).unwrap();
        assert_eq!(read(&mut subscription), []);

        let mut other = KernelNftables::open().unwrap();
        let mut gone = Transaction::new(&table());
        gone.delete_table();
        other.commit(&gone).unwrap();
        other.commit(&flood).unwrap();
        assert!(read(&mut subscription).contains(&Event::Lost));
    });
}
