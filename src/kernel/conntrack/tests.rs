//! Bytes are from Linux 6.18, entries made with `conntrack -I`, the bytes of `conntrack -L` taken with a raw socket.

use super::*;
use crate::kernel::netlink::Replies;
use crate::kernel::netns::Namespace;

/// `conntrack -I -p udp -s 10.244.1.9 -d 10.96.0.10 --sport 40001 --dport 53 --dst-nat 10.244.1.5:5353 --timeout 300`
const IPV4: &str = "c00000000001220001000000145e0000020000003400018014000180080001000af40109080002000a60000a1c0002800500010011000000060002009c41000006000300003500003400028014000180080001000af40105080002000af401091c00028005000100110000000600020014e90000060003009c41000008000300000001a8080008000000000008000c007283b6fb08000b0000000001080007000000012b1c001880080001000000000008000200000000000800030000000000";
/// `conntrack -I -p udp -s fd00:244:1::9 -d fd00:96::10 --sport 40001 --dport 53 --dst-nat [fd00:244:1::5]:5353
/// --timeout 300 -w 7`
const IPV6_ZONE_7: &str = "f80000000001220001000000145e00000a0000004c0001802c00018014000300fd00024400010000000000000000000914000400fd0000960000000000000000000000101c0002800500010011000000060002009c41000006000300003500004c0002802c00018014000300fd00024400010000000000000000000514000400fd0002440001000000000000000000091c00028005000100110000000600020014e90000060003009c410000060012000007000008000300000001a8080008000000000008000c00c94fdd8508000b0000000001080007000000012b1c001880080001000000000008000200000000000800030000000000";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn tuple(source: &str, destination: &str) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[test]
fn reads_flows_of_both_families() {
    let parse = |text| codec::parse_flow(Replies(&bytes(text)).next().unwrap().payload).unwrap();
    let flow = Flow {
        protocol: Protocol::Udp,
        original: tuple("10.244.1.9:40001", "10.96.0.10:53"),
        reply: tuple("10.244.1.5:5353", "10.244.1.9:40001"),
        zone: 0,
        id: [0x72, 0x83, 0xb6, 0xfb],
    };
    assert_eq!(parse(IPV4), flow);
    assert_eq!(flow.to_string(), "udp 10.244.1.9:40001 -> 10.96.0.10:53 (10.244.1.5:5353)");
    assert!(flow.is_translated());
    let flow = Flow {
        protocol: Protocol::Udp,
        original: tuple("[fd00:244:1::9]:40001", "[fd00:96::10]:53"),
        reply: tuple("[fd00:244:1::5]:5353", "[fd00:244:1::9]:40001"),
        zone: 7,
        id: [0xc9, 0x4f, 0xdd, 0x85],
    };
    assert_eq!(parse(IPV6_ZONE_7), flow);
}

#[test]
fn what_is_cut_off_anywhere_is_no_flow() {
    let message = bytes(IPV6_ZONE_7);
    let payload = Replies(&message).next().unwrap().payload;
    let needed = payload.len() - 44; // timeout, use, mark and timestamps follow the id, which is the last that counts
    for length in 0..needed {
        let _ = codec::parse_flow(&payload[..length]);
    }
    assert_eq!(codec::parse_flow(&payload[..100]), None);
    assert_eq!(codec::parse_flow(&[]), None);
}

/// A table with the flows that `conntrack -I` makes of these arguments.
fn table(flows: &[&str]) -> Namespace {
    let namespace = Namespace::new().unwrap();
    for flow in flows {
        conntrack(&namespace, &format!("-I {flow} --timeout 300"));
    }
    namespace
}

/// Runs conntrack-tools, the independent reader and writer.
fn conntrack(namespace: &Namespace, arguments: &str) -> String {
    let mut command = namespace
        .command("conntrack")
        .expect("this test needs the conntrack program: apt-get install conntrack");
    let output = command.args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "conntrack {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn flows(conntrack: &mut dyn Conntrack, family: Family, protocol: Protocol) -> Vec<Flow> {
    let mut flows = Vec::new();
    conntrack.flows(family, protocol, &mut |flow| flows.push(*flow)).unwrap();
    flows.sort_by_key(|flow| flow.original.source);
    flows
}

const UDP: &str = "-p udp -s 10.244.1.9 -d 10.96.0.10 --sport 40001 --dport 53 --dst-nat 10.244.1.5:5353";
const UDP_PLAIN: &str = "-p udp -s 10.244.1.9 -d 10.96.0.10 --sport 40002 --dport 53";
const TCP: &str = "-p tcp -s 10.244.1.9 -d 10.96.0.10 --sport 40001 --dport 53 --dst-nat 10.244.1.5:5353 --state ESTABLISHED";
const UDP_V6: &str =
    "-p udp -s fd00:244:1::9 -d fd00:96::10 --sport 40001 --dport 53 --dst-nat [fd00:244:1::5]:5353";

#[test]
fn lists_what_was_asked_for_and_nothing_else() {
    let namespace = table(&[UDP, UDP_PLAIN, TCP, UDP_V6]);
    let list = |family, protocol| {
        namespace.run(|| flows(&mut KernelConntrack::open().unwrap(), family, protocol)).unwrap()
    };
    let print = |flows: Vec<Flow>| flows.iter().map(Flow::to_string).collect::<Vec<_>>();
    assert_eq!(
        print(list(Family::V4, Protocol::Udp)),
        [
            "udp 10.244.1.9:40001 -> 10.96.0.10:53 (10.244.1.5:5353)",
            "udp 10.244.1.9:40002 -> 10.96.0.10:53 (10.96.0.10:53)",
        ]
    );
    assert_eq!(
        print(list(Family::V4, Protocol::Tcp)),
        ["tcp 10.244.1.9:40001 -> 10.96.0.10:53 (10.244.1.5:5353)"]
    );
    assert_eq!(
        print(list(Family::V6, Protocol::Udp)),
        ["udp [fd00:244:1::9]:40001 -> [fd00:96::10]:53 ([fd00:244:1::5]:5353)"]
    );
    assert_eq!(list(Family::V6, Protocol::Tcp), []);
}

#[test]
fn deletes_one_flow_in_either_family_and_zone() {
    let in_zone = format!("{UDP} -w 7");
    let namespace = table(&[UDP, &in_zone, UDP_PLAIN, UDP_V6]);
    namespace
        .run(|| {
            let mut table = KernelConntrack::open().unwrap();
            let doomed = flows(&mut table, Family::V4, Protocol::Udp);
            let zoned = doomed.iter().find(|flow| flow.zone == 7).unwrap();
            assert!(table.delete(zoned).unwrap());
            let [v6] = flows(&mut table, Family::V6, Protocol::Udp)[..] else { panic!("one flow") };
            assert!(table.delete(&v6).unwrap());
        })
        .unwrap();
    let left = conntrack(&namespace, "-L");
    assert_eq!(left.matches("dst=10.96.0.10").count(), 2, "{left}");
    assert!(!left.contains("zone=7"), "{left}");
    assert_eq!(conntrack(&namespace, "-L -f ipv6"), "");
}

#[test]
fn a_flow_that_is_gone_is_deleted_and_another_entry_stays() {
    let namespace = table(&[UDP, UDP_PLAIN]);
    namespace
        .run(|| {
            let mut table = KernelConntrack::open().unwrap();
            let [first, second] = flows(&mut table, Family::V4, Protocol::Udp)[..] else {
                panic!("two flows")
            };
            assert!(table.delete(&first).unwrap());
            assert!(!table.delete(&first).unwrap());
            assert!(!table.delete(&Flow { id: first.id, ..second }).unwrap());
        })
        .unwrap();
    let left = conntrack(&namespace, "-L");
    assert!(!left.contains("sport=40001") && left.contains("sport=40002"), "{left}");
}

/// Far more flows than fit into one datagram of the kernel, which is all that is held at a time (k8s#129982).
#[test]
fn c5_long_lists_are_complete_and_quick() {
    let namespace = table(&[]);
    let script = "for port in $(seq 20001 50000); do echo \"-I -p udp -s 10.0.0.1 -d 10.96.0.10 --sport $port --dport 53 \
                  --timeout 300\"; done | conntrack --load-file -";
    let output = namespace.command("sh").unwrap().args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let start = std::time::Instant::now();
    let listed =
        namespace.run(|| flows(&mut KernelConntrack::open().unwrap(), Family::V4, Protocol::Udp)).unwrap();
    assert_eq!(listed.len(), 30_000);
    // Here it takes a fifth of a second; what is quadratic takes minutes.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
