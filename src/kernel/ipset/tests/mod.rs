//! What sets look like as bytes and as text, and the fake. What the kernel does is in `kernel`.

mod kernel;

use std::net::IpAddr;

use ipnet::IpNet;

use super::fake::FakeSets;
use super::*;
use crate::kernel::netlink::{Attributes, Replies};
use crate::model::Protocol;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn definition(name: &str, kind: SetType, family: Family, max_elements: u32, marks: Marks) -> Definition {
    Definition { name: name.into(), kind, family, max_elements, marks }
}

fn add(set: &str, element: Element, mark: impl Into<Option<u32>>) -> Change {
    Change::Add { set: set.into(), member: Member { element, mark: mark.into() } }
}

fn remove(set: &str, element: Element) -> Change {
    Change::Remove { set: set.into(), element }
}

fn port_of_service(port: u16) -> Element {
    Element::IpPort(ip("10.96.0.10"), Protocol::Tcp, port)
}

/// The index and the reason of each refused change.
fn reasons(result: Result<(), SetError>) -> Vec<(usize, String)> {
    let Err(SetError::Refused { failures }) = result else { panic!("nothing was refused: {result:?}") };
    failures.into_iter().map(|failure| (failure.index, failure.reason.to_string())).collect()
}

/// The payloads of `ipset save`, Linux 6.18, after
/// `ipset create KUBE-CLUSTER hash:ip,port maxelem 70000 skbinfo`,
/// `ipset add KUBE-CLUSTER 10.96.0.10,tcp:80 skbmark 0x10000001` and `ipset add KUBE-CLUSTER 10.96.0.10,udp:53`.
const CLUSTER: &str = "020000000500010007000000110002004b5542452d434c55535445520000000011000300686173683a69702c706f7274000000000500050002000000050004000700000006000b40000000004400078008001240000004000800134000011170050015000c00000008001140b544a57a080019400000000008001a40000001780800184000000002080008400000004050000880200007800c000180080001000a60000a060004400035000005000700110000002c0007800c000180080001000a60000a060004400050000005000700060000000c001b4010000001ffffffff";
/// `ipset create RANGES-6 hash:ip,port,net family inet6`, `ipset add RANGES-6 fd00::1,sctp:99,fd00::/8`
const RANGES: &str = "0200000005000100070000000d00020052414e4745532d360000000015000300686173683a69702c706f72742c6e657400000000050005000a000000050004000800000006000b40000100003c00078008001240000004000800134000010000050015000c00000008001140f330d9b4080019400000000008001a40000005500800184000000001500008804c0007801800018014000200fd0000000000000000000000000000011800148014000200fd000000000000000000000000000000060004400063000005001500080000000500070084000000";
/// `ipset create PORTS bitmap:port range 0-65535`, `ipset add PORTS 30000`
const PORTS: &str = "0200000005000100070000000a000200504f525453000000100003006269746d61703a706f7274000500050000000000050004000300000006000b40000200002c000780060004400000000006000540ffff0000080019400000000008001a40000020480800184000000001100008800c0007800600044075300000";
/// `ipset create LOCAL hash:ip timeout 5`
const WITH_TIMEOUT: &str = "0200000005000100070000000a0002004c4f43414c0000000c000300686173683a6970000500050002000000050004000600000006000b40000300004400078008001240000004000800134000010000050015000c000000080011404c63bc33080019400000000008001a40000000d80800184000000000080006400000000504000880";
/// Linux 6.1, `ipset create HAIRPIN hash:net,net`, `ipset add HAIRPIN 10.244.1.5,10.244.1.5` and
/// `ipset add HAIRPIN 10.0.0.0/8,10.244.1.5`.
const HAIRPIN: &str = "0200000005000100070000000c0002004841495250494e0011000300686173683a6e65742c6e6574000000000500050002000000050004000300000006000b40000000003c00078008001240000004000800134000010000050015000c0000000800114071ba4c39080019400000000008001a40000002c808001840000000025c0008802c0007800c000180080001000af401050c001480080001000af40105050003002000000005001500200000002c0007800c000180080001000a0000000c001480080001000af4010505000300080000000500150020000000";
/// The same for `ipset create HAIRPIN-6 hash:net,net family inet6 skbinfo`,
/// `ipset add HAIRPIN-6 fd00:1::5,fd00:2::/64 skbmark 0x7`.
const HAIRPIN_6: &str = "0200000005000100070000000e0002004841495250494e2d3600000011000300686173683a6e65742c6e657400000000050005000a000000050004000300000006000b40000100004400078008001240000004000800134000010000050015000c0000000800114026a753a1080019400000000008001a40000007680800184000000001080008400000004054000880500007801800018014000200fd0000010000000000000000000000051800148014000200fd000002000000000000000000000000050003008000000005001500400000000c001b4000000007ffffffff";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The definition, the number of elements and the elements.
fn read(hexadecimal: &str) -> (Header, Vec<String>) {
    let payload = bytes(hexadecimal);
    let members = parse::members(parse::kind(&payload).unwrap(), &payload).map(|member| member.to_string());
    (parse::header(&payload).unwrap(), members.collect())
}

#[test]
fn sets_and_members_are_read() {
    let table: [(_, _, &[&str]); 5] = [
        (
            CLUSTER,
            "create KUBE-CLUSTER hash:ip,port family inet maxelem 70000 skbinfo",
            &["10.96.0.10,udp:53", "10.96.0.10,tcp:80 skbmark 0x10000001"],
        ),
        (
            RANGES,
            "create RANGES-6 hash:ip,port,net family inet6 maxelem 65536",
            &["fd00::1,sctp:99,fd00::/8"],
        ),
        (PORTS, "create PORTS bitmap:port range 0-65535", &["30000"]),
        (
            HAIRPIN,
            "create HAIRPIN hash:net,net family inet maxelem 65536",
            &["10.244.1.5,10.244.1.5", "10.0.0.0/8,10.244.1.5"],
        ),
        (
            HAIRPIN_6,
            "create HAIRPIN-6 hash:net,net family inet6 maxelem 65536 skbinfo",
            &["fd00:1::5,fd00:2::/64 skbmark 0x7"],
        ),
    ];
    for (hexadecimal, created, members) in table {
        let (header, found) = read(hexadecimal);
        assert_eq!(header.definition.unwrap().to_string(), created);
        assert_eq!(header.elements as usize, members.len(), "{created}");
        assert_eq!(found, members, "{created}");
    }
}

#[test]
fn a_set_with_other_options_is_none_of_ours() {
    let (header, members) = read(WITH_TIMEOUT);
    assert_eq!((&*header.name, header.definition, header.elements), ("LOCAL", None, 0));
    assert_eq!(members, [""; 0]);
}

#[test]
fn what_is_cut_off_anywhere_is_read_as_far_as_it_goes() {
    for hexadecimal in [CLUSTER, RANGES, PORTS, HAIRPIN, HAIRPIN_6] {
        let payload = bytes(hexadecimal);
        let kind = parse::kind(&payload).unwrap();
        for length in 0..payload.len() {
            let cut = &payload[..length];
            let _ = (parse::kind(cut), parse::header(cut), parse::revisions(cut));
            assert_eq!(parse::members(kind, cut).count(), 0, "the list of members is cut off");
        }
    }
}

/// The elements in the one message that makes these changes.
fn written(changes: &[Change]) -> Vec<Vec<u8>> {
    let message = codec::change(changes).unwrap().into_bytes(1);
    let payload = Replies(&message).next().unwrap().payload;
    let (_, list) = Attributes::after(4, payload).find(|(kind, _)| *kind == codec::ELEMENTS).unwrap();
    Attributes(list).map(|(_, element)| element.to_vec()).collect()
}

/// What the `ipset` program sends, without its line numbers.
#[test]
fn elements_are_written_as_ipset_writes_them() {
    let table = [
        (
            add("A", port_of_service(80), 0x1000_0001),
            "add A 10.96.0.10,tcp:80 skbmark 0x10000001",
            "0c000180080001400a60000a060004400050000005000700060000000c001b4010000001ffffffff",
        ),
        (
            remove("A", Element::IpPortNet(ip("fd00::1"), Protocol::Sctp, 99, net("fd00::/8"))),
            "del A fd00::1,sctp:99,fd00::/8",
            "1800018014000240fd0000000000000000000000000000010600044000630000050007008400000018001480\
             14000240fd0000000000000000000000000000000500150008000000",
        ),
        (add("A", Element::Port(30_000), None), "add A 30000", "0600044075300000"),
        (add("A", Element::Ip(ip("10.96.0.10")), None), "add A 10.96.0.10", "0c000180080001400a60000a"),
    ];
    for (change, text, expected) in table {
        assert_eq!(change.to_string(), text);
        assert_eq!(written(&[change]), [bytes(expected)], "{text}");
    }
}

#[test]
fn ten_thousand_changes_are_few_messages() {
    let changes: Vec<_> = (0..10_000).map(|port| add("A", port_of_service(port), 7)).collect();
    let lengths: Vec<_> = kernel_messages(&changes)
        .iter()
        .map(|part| codec::change(part).unwrap().into_bytes(1).len())
        .collect();
    assert!(lengths.len() <= 40 && lengths.iter().all(|length| *length <= 32 << 10), "{lengths:?}");
}

fn kernel_messages(changes: &[Change]) -> Vec<&[Change]> {
    super::kernel::messages(changes).collect()
}

#[test]
fn a_message_has_one_verb_and_one_set_and_order_is_kept() {
    let element = port_of_service(80);
    let changes = [
        add("A", element, 1),
        add("A", element, 2),
        remove("A", element),
        remove("B", element),
        add("B", element, 1),
    ];
    let lengths: Vec<_> = kernel_messages(&changes).into_iter().map(<[_]>::len).collect();
    assert_eq!(lengths, [2, 1, 1, 1]);
}

/// What is said here of the fake is said of the kernel in `kernel`.
#[test]
fn the_fake_refuses_what_the_kernel_refuses() {
    kernel::refusals(&mut FakeSets::default());
    let mut fake = FakeSets { unknown: vec![SetType::HashNetNet], ..FakeSets::default() };
    let missing = definition("N", SetType::HashNetNet, Family::V4, 10, Marks::Without);
    let error = fake.create(&missing).unwrap_err();
    assert_eq!(error.to_string(), "cannot create N hash:net,net family inet maxelem 10");
    fake.create(&definition("A", SetType::HashIpPort, Family::V4, 10, Marks::Without)).unwrap();
    fake.sets.get_mut("A").unwrap().references = 1;
    assert!(matches!(fake.destroy("A"), Err(SetError::Command { source: Refusal::InUse, .. })));
}

#[test]
fn y12_the_fake_grows_by_a_swap_too() {
    kernel::growth(&mut FakeSets::default(), 100);
}
