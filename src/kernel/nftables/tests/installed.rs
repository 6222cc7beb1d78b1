//! In the kernel, read back with nft.

use std::fmt::Write;

use super::super::element::Count;
use super::commands::commands;
use super::*;

/// What the commands of the captures need to be there.
const NEEDED: &str = "
    add table ip ferrovia
    add chain ip ferrovia svc
    add chain ip ferrovia other
    add counter ip ferrovia web
    add set ip ferrovia protocols { type inet_proto ; }
    add map ip ferrovia byclass { type ipv4_addr . inet_proto . inet_service : classid ; }
    add map ip ferrovia jumpclass { type classid : verdict ; }
    add map ip ferrovia services { type ipv4_addr . inet_proto . inet_service : verdict ; }
    add map ip ferrovia pick-3 { typeof ip daddr . meta l4proto . th dport . numgen random mod 3 : ip daddr . th dport ; }
    add set ip ferrovia nodeips { type ipv4_addr ; flags interval ; }
    add set ip ferrovia ranges { type ipv4_addr . inet_proto . inet_service . ipv4_addr ; flags interval ; }
    add map ip ferrovia affinity { type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; flags dynamic, timeout ; timeout 3h ; size 65535 ; }
    add set ip ferrovia aff { type ipv4_addr ; flags dynamic, timeout ; timeout 10s ; size 65535 ; }
    add map ip ferrovia objs { type ipv4_addr : counter ; }
    add table ip6 ferrovia
    add chain ip6 ferrovia svc
    add chain ip6 ferrovia other
    add set ip6 ferrovia protocols { type inet_proto ; }
    add map ip6 ferrovia services { type ipv6_addr . inet_proto . inet_service : verdict ; }
    add map ip6 ferrovia pick-3 { typeof ip6 daddr . meta l4proto . th dport . numgen random mod 3 : ip6 daddr . th dport ; }
    add set ip6 ferrovia hairpin { type ipv6_addr . ipv6_addr . inet_proto ; }
    add table inet ferrovia
    add chain inet ferrovia svc
";

fn prepared() -> Namespace {
    let namespace = Namespace::new().unwrap();
    load(&namespace, NEEDED);
    namespace
}

/// In the order of the captures; what deletes, or is bound to the socket, comes in other tests.
fn additions() -> Vec<Transaction> {
    let lasting = |(command, _): &(&str, Transaction)| {
        !command.starts_with("delete") && !command.starts_with("flush") && !command.contains("owner")
    };
    commands().into_iter().filter(lasting).map(|(_, transaction)| transaction).collect()
}

#[test]
fn what_is_committed_is_what_nft_makes_of_the_printed_plan() {
    let (ours, theirs) = (prepared(), Namespace::new().unwrap());
    // In one script: nft 1.0.6 cannot name a map of `th dport` that it finds in the kernel.
    let mut plan = NEEDED.to_owned();
    within(&ours, |nftables| {
        for transaction in additions() {
            write!(plan, "{transaction}").unwrap();
            nftables.commit(&transaction).unwrap_or_else(|error| panic!("{transaction}{error}"));
        }
    });
    load(&theirs, &plan);
    let list = |namespace| nft(namespace, &["--stateless", "list", "ruleset"]);
    assert_eq!(sorted(&list(&ours)), sorted(&list(&theirs)));
}

/// Elements come in an order of the kernel's, and what is left of a timeout passes.
fn sorted(ruleset: &str) -> Vec<String> {
    let without_time = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "expires");
        let kept = words.iter().enumerate().filter(|(i, _)| at.is_none_or(|at| *i != at && *i != at + 1));
        kept.map(|(_, word)| word.trim_end_matches(',')).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = ruleset
        .lines()
        .map(|line| line.replace("elements = {", "").replace(" }", ""))
        .map(|line| without_time(&line))
        .collect();
    lines.sort();
    lines
}

#[test]
fn rules_sets_and_elements_read_back_are_those_that_were_written() {
    let namespace = prepared();
    within(&namespace, |nftables| {
        for transaction in additions() {
            nftables.commit(&transaction).unwrap();
            let table = &transaction.table;
            match &transaction.operations[0] {
                Operation::AddRule { chain, rule, place } => {
                    let rules = nftables.rules(table, Some(chain)).unwrap();
                    let found = if *place == rule::Place::Start { rules.first() } else { rules.last() };
                    let found = found.unwrap();
                    assert!(rule.is(found), "{rule}\n{:?}\n{:?}", rule.expressions(), found.expressions);
                }
                Operation::AddSet(set) => {
                    let sets = nftables.sets(table).unwrap();
                    assert!(sets.contains(set), "{set:?}\n{sets:?}");
                }
                Operation::AddChain(chain) => assert!(nftables.chains(table).unwrap().contains(chain)),
                Operation::AddElements { set, elements } => {
                    let sets = nftables.sets(table).unwrap();
                    let set = sets.iter().find(|found| found.name == *set).unwrap();
                    let mut found = Vec::new();
                    nftables.elements(table, set, &mut |element| found.push(element.clone())).unwrap();
                    for element in elements.iter() {
                        let same = |other: &&Element| (other.key, other.last) == (element.key, element.last);
                        let same = found.iter().find(same).unwrap_or_else(|| panic!("{element} {found:?}"));
                        assert_eq!((&same.data, same.timeout), (&element.data, element.timeout));
                    }
                }
                _ => {}
            }
        }
    });
}

#[test]
fn what_elements_have_counted_is_read() {
    let namespace = Namespace::new().unwrap();
    let script = "add table ip ferrovia
        add set ip ferrovia counted { type inet_service ; counter ; }
        add element ip ferrovia counted { 80 counter packets 5 bytes 300 }
        add set ip ferrovia plain { type inet_service ; elements = { 81 } ; }";
    load(&namespace, script);
    within(&namespace, |nftables| {
        let table = Table::new(Family::V4, "ferrovia");
        let mut counts = Vec::new();
        for set in nftables.sets(&table).unwrap() {
            nftables
                .elements(&table, &set, &mut |element| counts.push((set.counted, element.count)))
                .unwrap();
        }
        assert_eq!(counts, [(true, Some(Count { packets: 5, bytes: 300 })), (false, None)]);
    });
}
