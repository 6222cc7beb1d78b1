//! Transactions and what the kernel says about them.

use super::super::chain::{ChainKind, Hook};
use super::super::datatype::Datatype;
use super::super::element::Element;
use super::super::probe::{Ability, probe};
use super::super::set::{SetData, Shape};
use super::super::table::Ownership;
use super::*;

fn table() -> Table {
    Table::new(Family::V4, "ferrovia")
}

fn transaction(change: impl FnOnce(&mut Transaction)) -> Transaction {
    let mut transaction = Transaction::new(&table());
    change(&mut transaction);
    transaction
}

fn services() -> Set {
    let key = [Datatype::Ipv4Address, Datatype::Protocol, Datatype::Port];
    Set::map("services", Shape::types(&key), SetData::Verdict)
}

fn skeleton() -> Transaction {
    transaction(|t| {
        t.add_table(Some("of ferrovia")).add_set(services()).add_chain(Chain::regular("pick-3"));
        t.add_chain(Chain::base("prerouting", ChainKind::Nat, Hook::Prerouting, -100));
        let key = service_key(Family::V4);
        t.add_rule("prerouting", Rule::new([Statement::VerdictMap { key, map: name("services") }]));
    })
}

fn element(port: u16) -> Element {
    let key = service("10.96.0.10", Protocol::Tcp, port);
    Element::of_verdict_map(key, Verdict::Goto(name("pick-3")))
}

#[test]
fn refusals_name_the_operation_and_the_element() {
    within(&Namespace::new().unwrap(), |nftables| {
        nftables.commit(&skeleton()).unwrap();
        let several = transaction(|t| {
            (1..2000).for_each(|port| {
                t.add_element(&name("services"), &element(port));
            });
            let lost = Verdict::Goto(name("nowhere"));
            let lost = Element::of_verdict_map(service("10.96.0.11", Protocol::Udp, 53), lost);
            t.add_element(&name("services"), &lost);
            t.delete_chain(&name("gone"));
            t.add_chain(Chain::regular("fine"));
        });
        let error = nftables.commit(&several).unwrap_err();
        let text = "add element ip ferrovia services { 10.96.0.11 . udp . 53 : goto nowhere }";
        let said =
            format!("the kernel refused \"{text}\" and 1 more: No such file or directory (os error 2)");
        assert_eq!(error.to_string(), said);
        let [first, second] = error.refusals() else { panic!("{error}") };
        assert_eq!((first.operation, second.operation), (0, 1));
        assert_eq!(first.element.as_ref().unwrap().key, service("10.96.0.11", Protocol::Udp, 53));
        assert_eq!(*second.text, *"delete chain ip ferrovia gone");
        let mut count = 0;
        nftables.elements(&table(), &services(), &mut |_| count += 1).unwrap();
        assert_eq!(count, 0, "all or nothing");
    });
}

#[test]
fn thousands_of_refusals_are_survived() {
    within(&Namespace::new().unwrap(), |nftables| {
        nftables.commit(&skeleton()).unwrap();
        let many = transaction(|t| {
            (0..20_000).for_each(|number| {
                t.delete_chain(&name(&format!("gone-{number}")));
            });
        });
        let error = nftables.commit(&many).unwrap_err();
        assert!(error.refusals().len() > 500, "{error}");
        assert_eq!(error.refusals()[0].operation, 0);
        nftables
            .commit(&transaction(|t| {
                t.add_chain(Chain::regular("after"));
            }))
            .unwrap();
    });
}

#[test]
fn somebody_elses_transaction_in_between_is_noticed_only_on_demand() {
    let namespace = Namespace::new().unwrap();
    within(&namespace, |nftables| {
        let first = nftables.commit(&skeleton()).unwrap();
        assert_eq!(nftables.generation().unwrap(), first);
        nft(&namespace, &["add", "table", "ip", "other"]);
        let chain = transaction(|t| {
            t.add_chain(Chain::regular("a"));
        });
        let second = nftables.commit(&chain).unwrap();
        assert_eq!(second.0, first.0 + 2, "one was not ours");
        nft(&namespace, &["add", "table", "ip", "another"]);
        let conditional = Transaction { after: Some(second), ..chain };
        let error = nftables.commit(&conditional).unwrap_err();
        assert!(matches!(error, NftablesError::Stale(stale) if stale == second), "{error}");
        let now = nftables.generation().unwrap();
        nftables.commit(&Transaction { after: Some(now), ..conditional }).unwrap();
    });
}

/// A change of a map's value is a deletion and an addition; both together are seen by no packet.
#[test]
fn one_changed_endpoint_is_two_messages() {
    let change = transaction(|t| {
        let key = service("10.96.0.10", Protocol::Tcp, 80).and(Value::integer(1));
        t.delete_element(&name("pick-3"), &Element::of_set(key));
        t.add_element(&name("pick-3"), &Element::of_map(key, endpoint("10.244.1.5", 8080)));
    });
    assert_eq!(super::super::batch::Batch::new(&change, 0).messages(), 2);
    assert_eq!(
        change.to_string(),
        "delete element ip ferrovia pick-3 { 10.96.0.10 . tcp . 80 . 1 }\n\
         add element ip ferrovia pick-3 { 10.96.0.10 . tcp . 80 . 1 : 10.244.1.5 . 8080 }\n"
    );
}

#[test]
fn a_hundred_thousand_elements_are_one_transaction() {
    let namespace = Namespace::new().unwrap();
    let generations = within(&namespace, |nftables| {
        let before = nftables.commit(&skeleton()).unwrap();
        let many = transaction(|t| {
            for number in 0..100_000u32 {
                let address = Value::address(std::net::Ipv4Addr::from(0x0a60_0000 + number).into());
                let key = address.and(Value::protocol(Protocol::Tcp)).and(Value::port(80));
                let element = Element::of_verdict_map(key, Verdict::Goto(name("pick-3")));
                t.add_element(&name("services"), &element.comment("default/web:http"));
            }
        });
        assert_eq!(many.operations.len(), 1);
        let after = nftables.commit(&many).unwrap();
        let mut count = 0;
        nftables.elements(&table(), &services(), &mut |_| count += 1).unwrap();
        assert_eq!(count, 100_000);
        let last = service("10.97.134.159", Protocol::Tcp, 80);
        let found = nftables.element(&table(), &services(), &last).unwrap().unwrap();
        assert_eq!(found.to_string(), "10.97.134.159 . tcp . 80 comment \"default/web:http\" : goto pick-3");
        after.0 - before.0
    });
    assert_eq!(generations, 1);
    let key = "{ 10.96.0.10 . tcp . 80 }";
    let shown = nft(&namespace, &["get", "element", "ip", "ferrovia", "services", key]);
    assert!(shown.contains("10.96.0.10 . tcp . 80 comment \"default/web:http\" : goto pick-3"), "{shown}");
}

#[test]
fn a_table_of_another_owner_is_refused_and_ours_goes_with_the_socket() {
    let namespace = Namespace::new().unwrap();
    let owned = transaction(|t| {
        t.push(Operation::AddTable(Ownership::Socket, None));
    });
    within(&namespace, |owner| {
        owner.commit(&owned).unwrap();
        assert_eq!(owner.tables(TableFamily::Ip).unwrap()[0].ownership, Ownership::Socket);
        let mut other = KernelNftables::open().unwrap();
        let error = other.commit(&skeleton()).unwrap_err();
        assert!(error.to_string().contains("Operation not permitted"), "{error}");
    });
    within(&namespace, |nftables| assert_eq!(nftables.tables(TableFamily::Ip).unwrap(), []));
}

/// An unprivileged process is told so.
#[test]
fn without_the_capability_nothing_is_taken() {
    let namespace = Namespace::new().unwrap();
    within(&namespace, |nftables| {
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        let error = nftables.commit(&skeleton()).unwrap_err();
        let NftablesError::Generation(source) = error else { panic!("{error:?}") };
        assert_eq!(source.refusal(), Some(libc::EPERM));
        let conditional = Transaction { after: Some(Generation(1)), ..skeleton() };
        let error = nftables.commit(&conditional).unwrap_err();
        assert!(matches!(error, NftablesError::NotTaken { .. }), "{error:?}");
    });
}

#[test]
fn y8_this_kernel_can_do_everything_and_the_probe_leaves_nothing() {
    let namespace = Namespace::new().unwrap();
    within(&namespace, |nftables| {
        for family in Family::ALL {
            let abilities = probe(nftables, family, "ferrovia-probe");
            assert!(abilities.missing.is_empty(), "{:?}", abilities.missing);
        }
    });
    assert_eq!(nft(&namespace, &["list", "ruleset"]), "");
}

#[test]
fn y8_what_a_kernel_lacks_is_told_with_its_reason() {
    let mut kernel = super::super::fake::FakeNftables::default();
    kernel.refuse = Some("numgen".into());
    let abilities = probe(&mut kernel, Family::V4, "ferrovia-probe");
    let [(Ability::Numbers, error)] = &abilities.missing[..] else { panic!("{abilities:?}") };
    assert!(error.to_string().contains("Operation not supported"), "{error}");
}
