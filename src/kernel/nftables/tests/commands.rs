//! nft's commands beside what they are here.

use std::time::Duration;

use super::super::chain::{ChainKind, Hook};
use super::super::datatype::Datatype::{self, *};
use super::super::element::{Element, ElementValue};
use super::super::expression::{
    CtDirection, FibLookup, FibScope, Membership, NatFlags, Numbering, PacketEnd, SetChange,
};
use super::super::rule::{Handle, Place};
use super::super::selector::{Generator, Hash, Selector};
use super::super::set::{Set, SetData, Shape};
use super::super::statement::{ElementData, MappedNat, Mark, NatTarget, Reject, Statement};
use super::super::table::Ownership;
use super::super::*;
use super::{address, endpoint, name, pick_key, random, service, service_key};
use crate::model::Family::{V4, V6};
use crate::model::Protocol::{Sctp, Tcp, Udp};

type Commands = Vec<(&'static str, Transaction)>;

pub(super) fn commands() -> Commands {
    let mut all = objects();
    all.extend(sets());
    all.extend(elements());
    all.extend(matches());
    all.extend(effects());
    all.extend(of_ip6());
    all.extend(by_priority());
    all
}

fn of(family: TableFamily, change: impl FnOnce(&mut Transaction)) -> Transaction {
    let mut transaction = Transaction::new(&Table::new(family, "ferrovia"));
    change(&mut transaction);
    transaction
}

fn ip(change: impl FnOnce(&mut Transaction)) -> Transaction {
    of(TableFamily::Ip, change)
}

fn rule(statements: impl Into<Vec<Statement>>) -> Transaction {
    ip(|t| {
        t.add_rule("svc", Rule::new(statements));
    })
}

fn objects() -> Commands {
    let other = |name, comment, ownership| {
        let mut transaction = Transaction::new(&Table::new(TableFamily::Ip, name));
        transaction.push(Operation::AddTable(ownership, comment));
        transaction
    };
    let comment = Some(userdata::Comment::new("ferrovia 0.1"));
    vec![
        (
            "add table ip ferrovia",
            ip(|t| {
                t.add_table(None);
            }),
        ),
        (r#"add table ip other { comment "ferrovia 0.1" ; }"#, other("other", comment, Ownership::Everybody)),
        ("add table ip owned { flags owner ; }", other("owned", None, Ownership::Socket)),
        (
            "delete table ip ferrovia",
            ip(|t| {
                t.delete_table();
            }),
        ),
        (
            "add chain ip ferrovia pick-3",
            ip(|t| {
                t.add_chain(Chain::regular("pick-3"));
            }),
        ),
        (
            r#"add chain ip ferrovia commented { comment "default/web" ; }"#,
            ip(|t| {
                t.add_chain(Chain::regular("commented").comment("default/web"));
            }),
        ),
        (
            "add chain ip ferrovia pre { type nat hook prerouting priority dstnat ; policy accept ; }",
            ip(|t| {
                t.add_chain(Chain::base("pre", ChainKind::Nat, Hook::Prerouting, -100));
            }),
        ),
        (
            "add chain ip ferrovia out { type filter hook output priority -110 ; policy accept ; }",
            ip(|t| {
                t.add_chain(Chain::base("out", ChainKind::Filter, Hook::Output, -110));
            }),
        ),
        (
            "delete chain ip ferrovia other",
            ip(|t| {
                t.delete_chain(&name("other"));
            }),
        ),
        (
            "flush chain ip ferrovia other",
            ip(|t| {
                t.flush_chain(&name("other"));
            }),
        ),
        (
            r#"add counter ip ferrovia web2 { comment "default/web" ; }"#,
            ip(|t| {
                t.add_counter(Counter::new("web2").comment("default/web"));
            }),
        ),
        (
            "delete counter ip ferrovia web",
            ip(|t| {
                t.delete_counter(&name("web"));
            }),
        ),
        (
            "delete set ip ferrovia nodeips",
            ip(|t| {
                t.delete_set(&name("nodeips"));
            }),
        ),
        (
            "flush set ip ferrovia nodeips",
            ip(|t| {
                t.flush_set(&name("nodeips"));
            }),
        ),
        (
            "insert rule ip ferrovia svc ip daddr 10.96.0.10 accept",
            ip(|t| {
                let rule = Rule::new([is_destination("10.96.0.10"), Statement::Verdict(Verdict::Accept)]);
                t.push(Operation::AddRule { chain: name("svc"), rule, place: Place::Start });
            }),
        ),
        (
            "delete rule ip ferrovia svc handle 42",
            ip(|t| {
                t.delete_rule(&name("svc"), Handle(42));
            }),
        ),
    ]
}

const SERVICE: [Datatype; 3] = [Ipv4Address, Protocol, Port];

fn sets() -> Commands {
    let set = |name, types: &[Datatype]| Set::new(name, Shape::types(types));
    let map = |name, types: &[Datatype], data| Set::map(name, Shape::types(types), data);
    let endpoint = || SetData::Value(Shape::types(&[Ipv4Address, Port]));
    let typeof_map = |name, key: Vec<Selector>, data: Vec<Selector>| {
        Set::map(name, Shape::Selectors(key), SetData::Value(Shape::Selectors(data)))
    };
    let add = |set: Set| {
        ip(|t| {
            t.add_set(set);
        })
    };
    let add6 = |set: Set| {
        of(TableFamily::Ip6, |t| {
            t.add_set(set);
        })
    };
    let sticky = [Ipv4Address, Ipv4Address, Protocol, Port];
    let hours = Duration::from_secs(3 * 3600);
    let inc = Selector::Number(Generator { numbering: Numbering::Incremental, modulus: 3, offset: 1 });
    let source = Selector::SourceAddress;
    let to = |family| vec![Selector::DestinationAddress(family), Selector::DestinationPort];
    vec![
        ("add set ip ferrovia plain { type ipv4_addr ; }", add(set("plain", &[Ipv4Address]))),
        (
            r#"add set ip ferrovia intervals { type ipv4_addr ; flags interval ; comment "c" ; }"#,
            add(set("intervals", &[Ipv4Address]).intervals().comment("c")),
        ),
        (
            "add set ip ferrovia concat { type ipv4_addr . inet_proto . inet_service ; }",
            add(set("concat", &SERVICE)),
        ),
        (
            "add set ip ferrovia concatintervals { type ipv4_addr . inet_proto . inet_service . ipv4_addr ; flags interval ; }",
            add(set("concatintervals", &[Ipv4Address, Protocol, Port, Ipv4Address]).intervals()),
        ),
        (
            "add set ip ferrovia counted { type inet_service ; counter ; }",
            add(Set { counted: true, ..set("counted", &[Port]) }),
        ),
        ("add set ip ferrovia protocols { type inet_proto ; }", add(set("protocols", &[Protocol]))),
        ("add set ip ferrovia marks { type mark ; }", add(set("marks", &[Datatype::Mark]))),
        ("add set ip ferrovia names { type ifname ; }", add(set("names", &[InterfaceName]))),
        (
            r#"add map ip ferrovia verdicts { type ipv4_addr . inet_proto . inet_service : verdict ; comment "dispatch" ; }"#,
            add(map("verdicts", &SERVICE, SetData::Verdict).comment("dispatch")),
        ),
        (
            "add map ip ferrovia portverdicts { type inet_proto . inet_service : verdict ; }",
            add(map("portverdicts", &[Protocol, Port], SetData::Verdict)),
        ),
        (
            "add map ip ferrovia single { type inet_service : verdict ; }",
            add(map("single", &[Port], SetData::Verdict)),
        ),
        (
            "add map ip ferrovia data { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service ; }",
            add(map("data", &[Ipv4Address, Protocol, Port, Datatype::Mark], endpoint())),
        ),
        (
            "add map ip ferrovia picks { typeof ip daddr . meta l4proto . th dport . numgen random mod 3 : ip daddr . th dport ; }",
            add(typeof_map("picks", pick_key(V4, 3), to(V4))),
        ),
        (
            "add map ip ferrovia rrpicks { typeof ip saddr . meta l4proto . th sport . numgen inc mod 3 offset 1 : ip saddr . th sport ; }",
            add(typeof_map(
                "rrpicks",
                vec![source(V4), Selector::Protocol, Selector::SourcePort, inc],
                vec![source(V4), Selector::SourcePort],
            )),
        ),
        (
            "add map ip6 ferrovia picks { typeof ip6 daddr . meta l4proto . th dport . numgen random mod 3 : ip6 daddr . th dport ; }",
            add6(typeof_map("picks", pick_key(V6, 3), to(V6))),
        ),
        (
            "add map ip6 ferrovia spicks { typeof ip6 saddr . meta mark : ip6 saddr . th dport ; }",
            add6(typeof_map(
                "spicks",
                vec![source(V6), Selector::Mark],
                vec![source(V6), Selector::DestinationPort],
            )),
        ),
        (
            "add map ip ferrovia counters { type ipv4_addr : counter ; }",
            add(map("counters", &[Ipv4Address], SetData::Counter)),
        ),
        (
            "add map ip ferrovia sticky { type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; flags dynamic, timeout ; timeout 3h ; size 65535 ; }",
            add(map("sticky", &sticky, endpoint()).dynamic(hours, 65_535)),
        ),
        (
            "add set ip ferrovia seen { type ipv4_addr ; flags dynamic, timeout ; timeout 10s ; }",
            add(Set { dynamic: true, timeout: Some(Duration::from_secs(10)), ..set("seen", &[Ipv4Address]) }),
        ),
    ]
}

fn elements() -> Commands {
    let add = |set: &str, elements: &[Element]| {
        ip(|t| {
            elements.iter().for_each(|element| {
                t.add_element(&name(set), element);
            })
        })
    };
    let goto = || Verdict::Goto(name("other"));
    let web = || service("10.96.0.10", Tcp, 80);
    let of = Element::of_verdict_map;
    let range = |first: &str, last: &str| Element::interval(address(first), address(last));
    let source = |ip| service("10.96.0.12", Tcp, 80).and(address(ip));
    vec![
        (
            r#"add element ip ferrovia services { 10.96.0.10 . tcp . 80 comment "default/web:http" : goto other }"#,
            add("services", &[of(web(), goto()).comment("default/web:http")]),
        ),
        (
            "add element ip ferrovia services { 10.96.0.10 . tcp . 80 : goto other , 10.96.0.10 . udp . 53 : drop , 10.96.0.11 . sctp . 9 : jump other , 10.96.0.11 . tcp . 9 : accept , 10.96.0.11 . tcp . 10 : return }",
            add(
                "services",
                &[
                    of(web(), goto()),
                    of(service("10.96.0.10", Udp, 53), Verdict::Drop),
                    of(service("10.96.0.11", Sctp, 9), Verdict::Jump(name("other"))),
                    of(service("10.96.0.11", Tcp, 9), Verdict::Accept),
                    of(service("10.96.0.11", Tcp, 10), Verdict::Return),
                ],
            ),
        ),
        (
            "delete element ip ferrovia services { 10.96.0.10 . tcp . 80 }",
            ip(|t| {
                t.delete_element(&name("services"), &of(web(), goto()).comment("gone"));
            }),
        ),
        (
            "add element ip ferrovia pick-3 { 10.96.0.10 . tcp . 80 . 2 : 10.244.1.5 . 8080 }",
            add("pick-3", &[Element::of_map(web().and(Value::integer(2)), endpoint("10.244.1.5", 8080))]),
        ),
        (
            "add element ip6 ferrovia pick-3 { fd00:96::10 . tcp . 80 . 2 : fd00:244::5 . 8080 }",
            super::commands::of(TableFamily::Ip6, |t| {
                let key = service("fd00:96::10", Tcp, 80).and(Value::integer(2));
                t.add_element(&name("pick-3"), &Element::of_map(key, endpoint("fd00:244::5", 8080)));
            }),
        ),
        (
            "add element ip ferrovia nodeips { 10.0.0.0/8, 192.168.1.1 }",
            add("nodeips", &[range("10.0.0.0", "10.255.255.255"), range("192.168.1.1", "192.168.1.1")]),
        ),
        (
            "add element ip ferrovia ranges { 10.96.0.12 . tcp . 80 . 10.0.0.0/24 }",
            add("ranges", &[Element::interval(source("10.0.0.0"), source("10.0.0.255"))]),
        ),
        (
            "add element ip ferrovia aff { 10.244.1.9 timeout 5s }",
            add(
                "aff",
                &[Element {
                    timeout: Some(Duration::from_secs(5)),
                    ..Element::of_set(address("10.244.1.9"))
                }],
            ),
        ),
        (
            r#"add element ip ferrovia objs { 10.96.0.10 : "web" }"#,
            add(
                "objs",
                &[Element {
                    data: ElementValue::Counter(name("web")),
                    ..Element::of_set(address("10.96.0.10"))
                }],
            ),
        ),
    ]
}

fn is_destination(ip: &str) -> Statement {
    Statement::Is(Selector::DestinationAddress(V4), address(ip))
}

fn is_protocol(protocol: crate::model::Protocol) -> Statement {
    Statement::Is(Selector::Protocol, Value::protocol(protocol))
}

fn jump() -> Statement {
    Statement::Verdict(Verdict::Jump(name("other")))
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn give_back() -> Statement {
    Statement::Verdict(Verdict::Return)
}

fn fib(end: PacketEnd, scope: FibScope) -> Selector {
    Selector::AddressType(FibLookup { end, scope })
}

fn matches() -> Commands {
    let destination = || Selector::DestinationAddress(V4);
    let network = |text: &str| text.parse().unwrap();
    let any = FibScope::Anywhere;
    let mark = |mask, value| Statement::Bits { selector: Selector::Mark, mask, value };
    let port = Statement::Is(Selector::DestinationPort, Value::port(80));
    let goto = Statement::Verdict(Verdict::Goto(name("other")));
    let lookup =
        |key: &[Selector], set, membership| Statement::Lookup { key: key.into(), membership, set: name(set) };
    let original = vec![Selector::OriginalDestination(V4), Selector::Protocol, Selector::DestinationPort];
    let in_ranges = [service_key(V4), vec![Selector::SourceAddress(V4)]].concat();
    vec![
        (
            "add rule ip ferrovia svc ip daddr 10.96.0.10 meta l4proto tcp th dport 80 goto other",
            rule([is_destination("10.96.0.10"), is_protocol(Tcp), port, goto]),
        ),
        (
            "add rule ip ferrovia svc ip daddr != 10.244.0.0/16 jump other",
            rule([Statement::Outside(destination(), network("10.244.0.0/16")), jump()]),
        ),
        (
            "add rule ip ferrovia svc ip daddr 10.96.0.0/12 drop",
            rule([
                Statement::Within(destination(), network("10.96.0.0/12")),
                Statement::Verdict(Verdict::Drop),
            ]),
        ),
        (
            "add rule ip ferrovia svc ip saddr 10.244.3.0/25 return",
            rule([Statement::Within(Selector::SourceAddress(V4), network("10.244.3.0/25")), give_back()]),
        ),
        ("add rule ip ferrovia svc meta mark & 0x4000 == 0 return", rule([mark(0x4000, 0), give_back()])),
        (
            "add rule ip ferrovia svc meta mark & 0x4000 != 0 accept",
            rule([Statement::BitsOtherThan { selector: Selector::Mark, mask: 0x4000, value: 0 }, accept()]),
        ),
        (
            "add rule ip ferrovia svc meta mark & 0x4000 == 0x4000 accept",
            rule([mark(0x4000, 0x4000), accept()]),
        ),
        (
            "add rule ip ferrovia svc meta mark 0x4000 accept",
            rule([Statement::Is(Selector::Mark, Value::mark(0x4000)), accept()]),
        ),
        (
            "add rule ip ferrovia svc ct state established,related accept",
            rule([Statement::Any(Selector::CtState, 2 | 4), accept()]),
        ),
        (
            "add rule ip ferrovia svc ct state new accept",
            rule([Statement::Any(Selector::CtState, 8), accept()]),
        ),
        (
            "add rule ip ferrovia svc ct state invalid drop",
            rule([Statement::Any(Selector::CtState, 1), Statement::Verdict(Verdict::Drop)]),
        ),
        (
            "add rule ip ferrovia svc ct status dnat accept",
            rule([Statement::Any(Selector::CtStatus, 32), accept()]),
        ),
        (
            "add rule ip ferrovia svc ct direction reply return",
            rule([Statement::Direction(CtDirection::Reply), give_back()]),
        ),
        (
            "add rule ip ferrovia svc ct mark 0x1 accept",
            rule([Statement::Is(Selector::CtMark, Value::mark(1)), accept()]),
        ),
        (
            "add rule ip ferrovia svc ct original ip daddr 10.96.0.1 return",
            rule([Statement::Is(Selector::OriginalDestination(V4), address("10.96.0.1")), give_back()]),
        ),
        (
            "add rule ip ferrovia svc ct original ip daddr . meta l4proto . th dport vmap @services",
            rule([Statement::VerdictMap { key: original, map: name("services") }]),
        ),
        (
            "add rule ip ferrovia svc fib daddr type local jump other",
            rule([Statement::IsLocal(fib(PacketEnd::Destination, any)), jump()]),
        ),
        (
            "add rule ip ferrovia svc fib daddr . iif type local jump other",
            rule([Statement::IsLocal(fib(PacketEnd::Destination, FibScope::InputInterface)), jump()]),
        ),
        (
            "add rule ip ferrovia svc fib saddr type local jump other",
            rule([Statement::IsLocal(fib(PacketEnd::Source, any)), jump()]),
        ),
        (
            "add rule ip ferrovia svc fib saddr type != local jump other",
            rule([Statement::IsNotLocal(fib(PacketEnd::Source, any)), jump()]),
        ),
        (
            r#"add rule ip ferrovia svc iifname "eth0" accept"#,
            rule([Statement::Is(Selector::InputInterface, Value::interface("eth0")), accept()]),
        ),
        (
            r#"add rule ip ferrovia svc oifname != "cni*" accept"#,
            rule([Statement::BeginsOtherThan(Selector::OutputInterface, "cni".into()), accept()]),
        ),
        (
            "add rule ip ferrovia svc ip daddr @nodeips return",
            rule([lookup(&[destination()], "nodeips", Membership::In), give_back()]),
        ),
        (
            "add rule ip ferrovia svc ip daddr != @nodeips return",
            rule([lookup(&[destination()], "nodeips", Membership::NotIn), give_back()]),
        ),
        (
            "add rule ip ferrovia svc ip daddr . meta l4proto . th dport . ip saddr @ranges accept",
            rule([lookup(&in_ranges, "ranges", Membership::In), accept()]),
        ),
        (
            r#"add rule ip ferrovia svc ip daddr . meta l4proto . th dport vmap @services comment "dispatch""#,
            ip(|t| {
                let rule = Rule::new([Statement::VerdictMap { key: service_key(V4), map: name("services") }]);
                t.add_rule("svc", rule.comment("dispatch"));
            }),
        ),
        (
            "add rule inet ferrovia svc meta nfproto ipv4 accept",
            of(TableFamily::Inet, |t| {
                t.add_rule("svc", Rule::new([Statement::Family(V4), accept()]));
            }),
        ),
    ]
}

/// `meta l4proto @protocols`: nft wants to see a transport protocol before it translates ports.
fn with_ports(statement: Statement) -> Transaction {
    rule([in_protocols(), statement])
}

fn in_protocols() -> Statement {
    Statement::Lookup { key: vec![Selector::Protocol], membership: Membership::In, set: name("protocols") }
}

fn to_mapped(family: crate::model::Family, key: Vec<Selector>, map: &str) -> Statement {
    Statement::DestinationNat(NatTarget::Map { family, key, map: name(map), data: MappedNat::AddressAndPort })
}

fn effects() -> Commands {
    let pick = |last: Selector| with_ports(to_mapped(V4, [service_key(V4), vec![last]].concat(), "pick-3"));
    let number = |numbering, offset| Selector::Number(Generator { numbering, modulus: 3, offset });
    let hash = |of: &[Selector], seed| Selector::Hash(Hash { of: of.into(), modulus: 3, seed });
    let source = || Selector::SourceAddress(V4);
    let affinity = || [vec![source()], service_key(V4)].concat();
    let fully_random = NatFlags { fully_random: true, ..NatFlags::default() };
    let to = |ip: &str, port| NatTarget::Address(ip.parse().unwrap(), port);
    let change = |change, set, key: Vec<Selector>, timeout: Option<u64>, data| {
        let timeout = timeout.map(Duration::from_secs);
        rule([Statement::ChangeSet { change, set: name(set), key, timeout, data }])
    };
    let original =
        vec![source(), Selector::OriginalDestination(V4), Selector::Protocol, Selector::DestinationPort];
    let forward = vec![Selector::DestinationAddress(V4), Selector::DestinationPort];
    let packet = Mark::Packet;
    vec![
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @pick-3",
            pick(random(3)),
        ),
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip daddr . meta l4proto . th dport . numgen inc mod 3 map @pick-3",
            pick(number(Numbering::Incremental, 0)),
        ),
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 offset 1 map @pick-3",
            pick(number(Numbering::Random, 1)),
        ),
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip daddr . meta l4proto . th dport . jhash ip saddr mod 3 seed 0xfe map @pick-3",
            pick(hash(&[source()], Some(0xfe))),
        ),
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip daddr . meta l4proto . th dport . jhash ip saddr . th sport mod 3 map @pick-3",
            pick(hash(&[source(), Selector::SourcePort], None)),
        ),
        (
            "add rule ip ferrovia svc meta l4proto @protocols dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity",
            with_ports(to_mapped(V4, affinity(), "affinity")),
        ),
        (
            "add rule ip ferrovia svc meta mark set meta mark or 0x4000",
            rule([Statement::SetBits { of: packet, bits: 0x4000 }]),
        ),
        (
            "add rule ip ferrovia svc meta mark set meta mark xor 0x4000",
            rule([Statement::FlipBits { of: packet, bits: 0x4000 }]),
        ),
        (
            "add rule ip ferrovia svc meta mark set meta mark and 0xffffbfff",
            rule([Statement::KeepBits { of: packet, bits: 0xffff_bfff }]),
        ),
        ("add rule ip ferrovia svc meta mark set 0x1", rule([Statement::SetMark { of: packet, to: 1 }])),
        (
            "add rule ip ferrovia svc ct mark set ct mark or 0x1",
            rule([Statement::SetBits { of: Mark::Connection, bits: 1 }]),
        ),
        (
            "add rule ip ferrovia svc ct mark set meta mark",
            rule([Statement::CopyMark { to: Mark::Connection }]),
        ),
        ("add rule ip ferrovia svc counter", rule([Statement::Counter])),
        (
            "add rule ip ferrovia svc counter name ip daddr map @objs",
            rule([Statement::MappedCounter {
                key: vec![Selector::DestinationAddress(V4)],
                map: name("objs"),
            }]),
        ),
        ("add rule ip ferrovia svc counter name web", rule([Statement::NamedCounter(name("web"))])),
        (
            "add rule ip ferrovia svc update @aff { ip saddr timeout 5s }",
            change(SetChange::Update, "aff", vec![source()], Some(5), None),
        ),
        (
            "add rule ip ferrovia svc add @aff { ip saddr }",
            change(SetChange::Add, "aff", vec![source()], None, None),
        ),
        (
            "add rule ip ferrovia svc update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 3h : 10.244.1.5 . 8080 }",
            change(
                SetChange::Update,
                "affinity",
                affinity(),
                Some(3 * 3600),
                Some(ElementData::Value(endpoint("10.244.1.5", 8080))),
            ),
        ),
        (
            "add rule ip ferrovia svc update @affinity { ip saddr . ct original ip daddr . meta l4proto . th dport : ip daddr . th dport }",
            change(SetChange::Update, "affinity", original, None, Some(ElementData::Selectors(forward))),
        ),
        (
            "add rule ip ferrovia svc dnat to 10.244.1.5",
            rule([Statement::DestinationNat(to("10.244.1.5", None))]),
        ),
        (
            "add rule ip ferrovia svc meta l4proto tcp dnat to 10.244.1.5:8080",
            rule([is_protocol(Tcp), Statement::DestinationNat(to("10.244.1.5", Some(8080)))]),
        ),
        (
            "add rule ip ferrovia svc snat to 10.0.0.1 fully-random",
            rule([Statement::SourceNat(to("10.0.0.1", None), fully_random)]),
        ),
        ("add rule ip ferrovia svc masquerade", rule([Statement::Masquerade(NatFlags::default())])),
        ("add rule ip ferrovia svc masquerade fully-random", rule([Statement::Masquerade(fully_random)])),
        (
            "add rule ip ferrovia svc tcp dport 80 redirect to :8080",
            rule([
                is_protocol(Tcp),
                Statement::Is(Selector::DestinationPort, Value::port(80)),
                Statement::Redirect(8080),
            ]),
        ),
        ("add rule ip ferrovia svc reject", rule([Statement::Reject(Reject::PortUnreachable(V4))])),
        (
            "add rule ip ferrovia svc reject with icmp type admin-prohibited",
            rule([Statement::Reject(Reject::AdminProhibited(V4))]),
        ),
        (
            "add rule ip ferrovia svc meta l4proto tcp reject with tcp reset",
            rule([is_protocol(Tcp), Statement::Reject(Reject::TcpReset)]),
        ),
        (
            "add rule inet ferrovia svc reject with icmpx type admin-prohibited",
            of(TableFamily::Inet, |t| {
                t.add_rule("svc", Rule::new([Statement::Reject(Reject::AnyAdminProhibited)]));
            }),
        ),
    ]
}

fn of_ip6() -> Commands {
    let rule = |statements: &[Statement]| {
        of(TableFamily::Ip6, |t| {
            t.add_rule("svc", Rule::new(statements));
        })
    };
    let destination = || Selector::DestinationAddress(V6);
    let source = || Selector::SourceAddress(V6);
    let goto = Statement::Verdict(Verdict::Goto(name("other")));
    let hairpin = Statement::Lookup {
        key: vec![source(), destination(), Selector::Protocol],
        membership: Membership::In,
        set: name("hairpin"),
    };
    let fully_random = NatFlags { fully_random: true, ..NatFlags::default() };
    let outside = |text: &str| Statement::Outside(source(), text.parse().unwrap());
    let is = |selector, text| Statement::Is(selector, address(text));
    vec![
        (
            "add rule ip6 ferrovia svc ip6 daddr . meta l4proto . th dport vmap @services",
            rule(&[Statement::VerdictMap { key: service_key(V6), map: name("services") }]),
        ),
        (
            "add rule ip6 ferrovia svc meta l4proto @protocols dnat ip6 to ip6 daddr . meta l4proto . th dport . numgen random mod 3 map @pick-3",
            rule(&[in_protocols(), to_mapped(V6, pick_key(V6, 3), "pick-3")]),
        ),
        (
            "add rule ip6 ferrovia svc ip6 daddr fd00:96::10 meta l4proto udp goto other",
            rule(&[is(destination(), "fd00:96::10"), is_protocol(Udp), goto.clone()]),
        ),
        (
            "add rule ip6 ferrovia svc ip6 saddr != fd00:244::/64 return",
            rule(&[outside("fd00:244::/64"), give_back()]),
        ),
        (
            "add rule ip6 ferrovia svc ip6 saddr != fd00:244::/57 return",
            rule(&[outside("fd00:244::/57"), give_back()]),
        ),
        (
            "add rule ip6 ferrovia svc ip6 saddr . ip6 daddr . meta l4proto @hairpin masquerade fully-random",
            rule(&[hairpin, Statement::Masquerade(fully_random)]),
        ),
        (
            "add rule ip6 ferrovia svc fib daddr type local goto other",
            rule(&[Statement::IsLocal(fib(PacketEnd::Destination, FibScope::Anywhere)), goto]),
        ),
        (
            "add rule ip6 ferrovia svc reject with icmpv6 type admin-prohibited",
            rule(&[Statement::Reject(Reject::AdminProhibited(V6))]),
        ),
        ("add rule ip6 ferrovia svc reject", rule(&[Statement::Reject(Reject::PortUnreachable(V6))])),
        (
            "add rule ip6 ferrovia svc ct original ip6 daddr fd00:96::10 accept",
            rule(&[is(Selector::OriginalDestination(V6), "fd00:96::10"), accept()]),
        ),
    ]
}

/// Two lookups after one another, without jumps in the large map.
fn by_priority() -> Commands {
    let types = |name, types: &[Datatype], data| Set::map(name, Shape::types(types), data);
    let classid = || SetData::Value(Shape::types(&[Datatype::Priority]));
    let add = |set: Set| {
        ip(|t| {
            t.add_set(set);
        })
    };
    vec![
        (
            "add map ip ferrovia classids { type ipv4_addr . inet_proto . inet_service : classid ; }",
            add(types("classids", &SERVICE, classid())),
        ),
        (
            "add map ip ferrovia jumps { type classid : verdict ; }",
            add(types("jumps", &[Datatype::Priority], SetData::Verdict)),
        ),
        (
            "add rule ip ferrovia svc meta priority set ip daddr . meta l4proto . th dport map @byclass meta priority vmap @jumpclass",
            rule([
                Statement::MapPriority { key: service_key(V4), map: name("byclass") },
                Statement::VerdictMap { key: vec![Selector::Priority], map: name("jumpclass") },
            ]),
        ),
        ("add rule ip ferrovia svc meta priority set none", rule([Statement::ClearPriority])),
        (
            "add element ip ferrovia byclass { 10.96.0.10 . tcp . 80 : 0:a }",
            ip(|t| {
                let element = Element::of_map(service("10.96.0.10", Tcp, 80), Value::priority(10));
                t.add_element(&name("byclass"), &element);
            }),
        ),
    ]
}
