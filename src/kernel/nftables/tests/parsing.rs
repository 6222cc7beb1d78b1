//! Readers of bytes that may be cut off, or from a newer kernel.

use super::super::expression::Expression;
use super::super::{chain, counter, element, generation, rule, set, table};
use super::captured::captured;
use super::*;
use crate::kernel::netlink::Request;

/// Every reader, on anything.
fn read(payload: &[u8], sets: &[Set]) {
    let _ = table::parse(payload);
    let _ = chain::parse(payload);
    let _ = rule::parse(payload);
    let _ = set::parse(payload);
    let _ = counter::parse(payload);
    let _ = generation::parse(payload);
    let _ = generation::parse_process(payload);
    let _ = element::set_of(payload);
    for set in sets {
        let elements: Vec<_> = element::parse(payload, set).collect();
        elements.iter().for_each(|entry| drop(entry.element.to_string()));
        element::join(elements);
    }
}

#[test]
fn y7_no_reader_minds_what_is_cut_off_or_garbled() {
    let sets: Vec<Set> = captured()
        .values()
        .filter(|message| message[4] == 9)
        .map(|message| set::parse(&message[16..]).unwrap().1)
        .collect();
    assert!(sets.len() > 10);
    for message in captured().values() {
        let payload = &message[16..];
        for length in 0..payload.len() {
            read(&payload[..length], &sets);
            let mut garbled = payload.to_vec();
            garbled[length] = !garbled[length];
            read(&garbled, &sets);
        }
    }
}

#[test]
fn y7_what_is_not_known_survives() {
    let put = |name: &str, kinds: &[u16]| {
        let mut list = Request::bare();
        list.nested(1 | 0x8000, |expression| {
            expression.text(1, name).nested(2 | 0x8000, |data| {
                for kind in kinds {
                    data.attribute(*kind, &[0, 0, 0, 1]);
                }
            });
        });
        list
    };
    for (name, kinds) in [("teleport", &[1, 2][..]), ("masq", &[1, 99]), ("meta", &[1, 2, 3, 4])] {
        let list = put(name, kinds);
        let parsed = expression::parse_list(list.as_bytes());
        let [Expression::Unknown { name: found, .. }] = &parsed[..] else { panic!("{parsed:?}") };
        assert_eq!(**found, *name);
        let mut again = Request::bare();
        expression::put(&mut again, 1, &parsed[0]);
        assert_eq!(again.as_bytes(), list.as_bytes());
        assert!(parsed[0].to_string().starts_with(&format!("[ {name} 0x0800")), "{}", parsed[0]);
    }
}

#[test]
fn foreign_rules_and_sets_are_listed_whatever_they_are() {
    let namespace = Namespace::new().unwrap();
    load(
        &namespace,
        "table ip foreign {
            set macs { type ether_addr ; elements = { 00:01:02:03:04:05 } ; }
            set anything { type mark ; elements = { 0x1, * } ; }
            map limits { type ipv4_addr : limit ; }
            chain c {
                type filter hook input priority 0 ;
                limit rate 5/second burst 3 packets accept
                ip ttl 7 tcp flags syn / syn,ack log prefix \"x\" accept
                ip daddr { 10.0.0.1, 10.0.0.2 } queue num 1 bypass
            }
        }"
        .replace("queue num 1 bypass", "quota over 5 mbytes drop")
        .as_str(),
    );
    within(&namespace, |nftables| {
        let table = Table::new(TableFamily::Ip, "foreign");
        assert_eq!(nftables.tables(TableFamily::Ip).unwrap()[0].table, table);
        assert_eq!(nftables.rules(&table, None).unwrap().len(), 3);
        let sets = nftables.sets(&table).unwrap();
        assert!(sets.len() >= 4, "with the anonymous one");
        for set in &sets {
            nftables.elements(&table, set, &mut |_| {}).unwrap();
        }
        let gone = Table::new(TableFamily::Ip, "gone");
        assert_eq!(nftables.rules(&gone, None).unwrap(), []);
        assert_eq!(nftables.chains(&gone).unwrap(), []);
        assert_eq!(nftables.sets(&gone).unwrap(), []);
        nftables.elements(&gone, &sets[0], &mut |_| panic!("none")).unwrap();
        assert_eq!(nftables.element(&gone, &sets[0], &Value::port(1)).unwrap(), None);
    });
}
