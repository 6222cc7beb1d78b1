//! The fake refuses what the kernel refuses: the same transactions for both.

use super::super::chain::{ChainKind, Hook};
use super::super::datatype::Datatype;
use super::super::element::Element;
use super::super::fake::FakeNftables;
use super::super::set::{SetData, Shape};
use super::*;

fn transaction(change: impl FnOnce(&mut Transaction)) -> Transaction {
    let mut transaction = Transaction::new(&Table::new(Family::V4, "ferrovia"));
    change(&mut transaction);
    transaction
}

fn dispatch() -> Set {
    let key = [Datatype::Ipv4Address, Datatype::Protocol, Datatype::Port];
    Set::map("services", Shape::types(&key), SetData::Verdict)
}

fn goto(chain: &str) -> Element {
    let key = service("10.96.0.10", Protocol::Tcp, 80);
    Element::of_verdict_map(key, Verdict::Goto(name(chain)))
}

fn jump(chain: &str) -> Rule {
    Rule::new([Statement::Verdict(Verdict::Jump(name(chain)))])
}

fn in_services() -> Rule {
    Rule::new([Statement::VerdictMap { key: service_key(Family::V4), map: name("services") }])
}

/// One after the other, each with what it is about.
fn history() -> Vec<(&'static str, Transaction)> {
    let services = &name("services");
    let add = |chain: &str| {
        transaction(|t| {
            t.add_element(&name("services"), &goto(chain));
        })
    };
    let delete = || {
        transaction(|t| {
            t.delete_element(&name("services"), &goto("a"));
        })
    };
    vec![
        (
            "no table",
            transaction(|t| {
                t.add_chain(Chain::regular("a"));
            }),
        ),
        (
            "delete no table",
            transaction(|t| {
                t.delete_table();
            }),
        ),
        (
            "table",
            transaction(|t| {
                t.add_table(None);
            }),
        ),
        (
            "table again",
            transaction(|t| {
                t.add_table(None);
            }),
        ),
        ("no set", add("a")),
        (
            "rule in no chain",
            transaction(|t| {
                t.add_rule("a", jump("b"));
            }),
        ),
        (
            "chain",
            transaction(|t| {
                t.add_chain(Chain::regular("a"));
            }),
        ),
        (
            "chain again",
            transaction(|t| {
                t.add_chain(Chain::regular("a"));
            }),
        ),
        (
            "jump nowhere",
            transaction(|t| {
                t.add_rule("a", jump("b"));
            }),
        ),
        (
            "map of no set",
            transaction(|t| {
                t.add_rule("a", in_services());
            }),
        ),
        (
            "set",
            transaction(|t| {
                t.add_set(dispatch());
            }),
        ),
        (
            "set again",
            transaction(|t| {
                t.add_set(dispatch());
            }),
        ),
        (
            "another set of that name",
            transaction(|t| {
                t.add_set(Set::new("services", Shape::types(&[Datatype::Port])));
            }),
        ),
        ("element to nowhere", add("b")),
        ("element", add("a")),
        ("element again", add("a")),
        (
            "chain that an element leads to",
            transaction(|t| {
                t.delete_chain(&name("a"));
            }),
        ),
        (
            "other chain",
            transaction(|t| {
                t.add_chain(Chain::regular("b"));
            }),
        ),
        ("changed value without deletion", add("b")),
        (
            "changed value",
            transaction(|t| {
                t.delete_element(services, &goto("a")).add_element(services, &goto("b"));
            }),
        ),
        (
            "rule",
            transaction(|t| {
                t.add_rule("a", in_services());
            }),
        ),
        (
            "set that a rule names",
            transaction(|t| {
                t.delete_set(services);
            }),
        ),
        ("deleted element", delete()),
        ("deleted element again", delete()),
        (
            "half of it wrong",
            transaction(|t| {
                t.add_element(services, &goto("b")).delete_chain(&name("gone"));
            }),
        ),
        ("which left nothing", delete()),
        (
            "chain with rules and without references",
            transaction(|t| {
                t.delete_chain(&name("a")).delete_set(services);
            }),
        ),
        (
            "base chain",
            transaction(|t| {
                t.add_chain(Chain::base("in", ChainKind::Nat, Hook::Prerouting, -100));
                t.add_rule("in", jump("b"));
            }),
        ),
        (
            "jump to a base chain",
            transaction(|t| {
                t.add_rule("b", jump("in"));
            }),
        ),
        (
            "chain that a rule leads to",
            transaction(|t| {
                t.delete_chain(&name("b"));
            }),
        ),
        (
            "both",
            transaction(|t| {
                t.flush_chain(&name("in")).delete_chain(&name("b")).delete_chain(&name("in"));
            }),
        ),
        (
            "table with everything",
            transaction(|t| {
                t.delete_table();
            }),
        ),
    ]
}

#[test]
fn the_fake_is_as_strict_as_the_kernel() {
    let mut fake = FakeNftables::default();
    within(&Namespace::new().unwrap(), |kernel| {
        for (what, transaction) in history() {
            let outcome = |nftables: &mut dyn Nftables| match nftables.commit(&transaction) {
                Ok(_) => "committed".to_owned(),
                Err(error) => error.refusals()[0].errno.to_string(),
            };
            assert_eq!(outcome(&mut fake), outcome(kernel), "{what}\n{transaction}");
        }
    });
}
