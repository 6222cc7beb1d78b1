//! The kernel's own sets, compared with what `ipset save` says of them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::kernel::netns::Namespace;

/// Runs a program of the independent reader and writer, and returns what it prints.
fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = namespace.command(program).unwrap().args(words).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs the {program} program: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `ipset save`, sorted, without the options that differ from run to run.
fn save(namespace: &Namespace) -> Vec<String> {
    let text = run(namespace, "ipset save -sorted");
    text.lines().map(|line| line.split(" bucketsize").next().unwrap().to_owned()).collect()
}

/// What `ipset save` would print of the same.
fn listed(sets: &mut dyn Sets) -> Vec<String> {
    let mut lines = Vec::new();
    for header in sets.headers("").unwrap() {
        let text = header.definition.unwrap().to_string();
        lines.push(text.replace(" maxelem", " hashsize 1024 maxelem"));
        let mut members = Vec::new();
        sets.members(&header.name, &mut |member| members.push(member)).unwrap();
        assert_eq!(members.len(), header.elements as usize);
        members.sort();
        lines.extend(members.iter().map(|member| format!("add {} {member}", header.name)));
    }
    lines
}

fn definitions() -> [Definition; 5] {
    [
        definition("A4", SetType::HashIp, Family::V4, 65_536, Marks::Without),
        definition("B4", SetType::HashIpPort, Family::V4, 70_000, Marks::With),
        definition("B6", SetType::HashIpPort, Family::V6, 65_536, Marks::With),
        definition("C6", SetType::HashIpPortNet, Family::V6, 65_536, Marks::Without),
        definition("P", SetType::BitmapPort, Family::V6, 65_536, Marks::Without),
    ]
}

#[test]
fn what_is_written_is_what_ipset_and_the_door_read() {
    let namespace = Namespace::new().unwrap();
    let found = namespace.run(|| {
        let mut sets = KernelSets::open().unwrap();
        for definition in definitions() {
            sets.create(&definition).unwrap();
        }
        let headers = sets.headers("").unwrap();
        let found: Vec<_> = headers.into_iter().filter_map(|header| header.definition).collect();
        assert_eq!(found, definitions());
        let gone = Element::Ip(ip("10.0.0.9"));
        sets.change(&[
            add("A4", Element::Ip(ip("10.0.0.1")), None),
            add("A4", gone, None),
            add("B4", port_of_service(80), 1),
            add("B4", port_of_service(81), None),
            add("B4", port_of_service(80), 0x1000_0002),
            remove("A4", gone),
            remove("A4", gone),
            add("B6", Element::IpPort(ip("fd00::1"), Protocol::Udp, 53), 7),
            add("C6", Element::IpPortNet(ip("fd00::1"), Protocol::Sctp, 9, net("fd00::7/8")), None),
            add("C6", Element::IpPortNet(ip("fd00::1"), Protocol::Tcp, 9, net("fd00::7/128")), None),
            add("P", Element::Port(0), None),
            add("P", Element::Port(65_535), None),
        ])
        .unwrap();
        assert_eq!(sets.headers("B").unwrap().len(), 2);
        listed(&mut sets)
    });
    let expected = [
        "create A4 hash:ip family inet hashsize 1024 maxelem 65536",
        "add A4 10.0.0.1",
        "create B4 hash:ip,port family inet hashsize 1024 maxelem 70000 skbinfo",
        "add B4 10.96.0.10,tcp:80 skbmark 0x10000002",
        "add B4 10.96.0.10,tcp:81",
        "create B6 hash:ip,port family inet6 hashsize 1024 maxelem 65536 skbinfo",
        "add B6 fd00::1,udp:53 skbmark 0x7",
        "create C6 hash:ip,port,net family inet6 hashsize 1024 maxelem 65536",
        "add C6 fd00::1,tcp:9,fd00::7",
        "add C6 fd00::1,sctp:9,fd00::/8",
        "create P bitmap:port range 0-65535",
        "add P 0",
        "add P 65535",
    ];
    assert_eq!(found.unwrap(), expected);
    let mut expected: Vec<_> = expected.map(str::to_owned).into();
    let mut saved = save(&namespace);
    saved.sort();
    expected.sort();
    assert_eq!(saved, expected);
}

#[test]
#[ignore = "the kernel of the host may lack hash:net,net: run it in the guest kernel"]
fn pairs_of_networks_are_what_ipset_says() {
    let namespace = Namespace::new().unwrap();
    namespace
        .run(|| {
            let mut sets = KernelSets::open().unwrap();
            sets.create(&definition("N4", SetType::HashNetNet, Family::V4, 65_536, Marks::Without)).unwrap();
            sets.create(&definition("N6", SetType::HashNetNet, Family::V6, 65_536, Marks::With)).unwrap();
            sets.change(&[
                add("N4", Element::NetNet(net("10.244.1.5/32"), net("10.244.1.5/32")), None),
                add("N4", Element::NetNet(net("0.0.0.0/1"), net("10.244.1.5/32")), None),
                add("N6", Element::NetNet(net("fd00::5/128"), net("fd00::5/128")), 3),
                add("N6", Element::NetNet(net("fd00::5/128"), net("fd00:1::/64")), 4),
                remove("N6", Element::NetNet(net("fd00::5/128"), net("fd00:1::/64"))),
            ])
            .unwrap();
            let wide = add("N4", Element::NetNet(net("10.244.1.5/32"), net("0.0.0.0/0")), None);
            let reason = "a set cannot hold a prefix length of 0, give both halves instead".to_owned();
            assert_eq!(reasons(sets.change(&[wide])), [(0, reason)]);
        })
        .unwrap();
    let lines = save(&namespace);
    let added: Vec<_> = lines.iter().filter(|line| line.starts_with("add")).collect();
    assert_eq!(
        added,
        ["add N4 0.0.0.0/1,10.244.1.5", "add N4 10.244.1.5,10.244.1.5", "add N6 fd00::5,fd00::5 skbmark 0x3"]
    );
}

/// What the kernel and the fake have in common.
pub fn refusals(sets: &mut dyn Sets) {
    let small = definition("A", SetType::HashIpPort, Family::V4, 2, Marks::Without);
    let reason = |result: Result<(), SetError>| match result {
        Err(SetError::Command { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    };
    sets.create(&small).unwrap();
    sets.create(&small).unwrap();
    let other = Definition { max_elements: 3, ..small.clone() };
    assert!(reason(sets.create(&other)).contains("created in another way"));
    let wide = Element::IpPortNet(ip("10.0.0.1"), Protocol::Tcp, 1, net("0.0.0.0/0"));
    let changes = [
        add("A", port_of_service(1), None),
        add("A", Element::Ip(ip("10.0.0.1")), None),
        add("A", port_of_service(2), 5),
        add("A", Element::IpPort(ip("fd00::1"), Protocol::Tcp, 1), None),
        add("A", port_of_service(3), None),
        add("A", port_of_service(4), None),
        add("A", wide, None),
        add("A", port_of_service(1), None),
        add("MISSING", port_of_service(1), None),
        remove("A", port_of_service(1)),
        remove("MISSING", port_of_service(1)),
    ];
    let elements =
        "the set has other elements: of another type, of the other address family, or without marks";
    let expected = [
        (1, elements),
        (2, elements),
        (3, elements),
        (5, "the set is full"),
        (6, "a set cannot hold a prefix length of 0, give both halves instead"),
        (8, "there is no such set"),
        (10, "there is no such set"),
    ];
    assert_eq!(reasons(sets.change(&changes)), expected.map(|(index, text)| (index, text.to_owned())));
    let mut left = Vec::new();
    sets.members("A", &mut |member| left.push(member.to_string())).unwrap();
    assert_eq!(left, ["10.96.0.10,tcp:3"]);

    sets.create(&definition("B", SetType::HashIp, Family::V4, 2, Marks::Without)).unwrap();
    assert!(reason(sets.swap("A", "B")).contains("cannot be swapped"));
    assert_eq!(reason(sets.swap("A", "MISSING")), "there is no such set");
    assert_eq!(reason(sets.flush("MISSING")), "there is no such set");
    assert!(reason(sets.destroy("")).contains("1 to 31 bytes"));
    assert!(reason(sets.create(&Definition { name: "N".repeat(32).into(), ..small })).contains("31 bytes"));
    sets.flush("A").unwrap();
    sets.destroy("A").unwrap();
    sets.destroy("A").unwrap();
    sets.members("A", &mut |member| panic!("{member}")).unwrap();
    let names: Vec<_> = sets.headers("").unwrap().into_iter().map(|header| header.name).collect();
    assert_eq!(names, ["B".into()]);
}

#[test]
fn refusals_are_told_one_by_one_and_the_rest_is_done() {
    let namespace = Namespace::new().unwrap();
    namespace.run(|| refusals(&mut KernelSets::open().unwrap())).unwrap();
}

#[test]
fn a_set_that_a_rule_refers_to_is_in_use() {
    let namespace = Namespace::new().unwrap();
    let mut sets = namespace.run(|| KernelSets::open().unwrap()).unwrap();
    sets.create(&definition("A", SetType::HashIpPort, Family::V4, 10, Marks::Without)).unwrap();
    run(&namespace, "iptables -A INPUT -m set --match-set A dst,dst -j DROP");
    assert_eq!(sets.headers("A").unwrap()[0].references, 1);
    let error = sets.destroy("A").unwrap_err();
    assert!(matches!(error, SetError::Command { source: Refusal::InUse, .. }), "{error:?}");
    replace(&mut sets, &definition("A", SetType::HashIpPort, Family::V4, 20, Marks::With), &[]).unwrap();
    assert_eq!(sets.headers("").unwrap()[0].references, 1);
}

/// Far more than a set has room for by default: it grows while rules refer to it.
pub fn growth(sets: &mut dyn Sets, room: u32) {
    let small =
        definition("KUBE-A-NAME-OF-31-BYTES-AT-MOST", SetType::HashIpPort, Family::V4, room, Marks::With);
    let members: Vec<Member> = (0..room + 5)
        .map(|number| {
            let address = IpAddr::from((0x0a60_0000 + number).to_be_bytes());
            Member { element: Element::IpPort(address, Protocol::Tcp, 80), mark: Some(number + 1) }
        })
        .collect();
    sets.create(&small).unwrap();
    let set: Arc<str> = small.name.as_ref().into();
    let adds = |members: &[Member]| -> Vec<Change> {
        members.iter().map(|member| Change::Add { set: set.clone(), member: *member }).collect()
    };
    let full = reasons(sets.change(&adds(&members)));
    assert!((1..=5).contains(&full.len()), "{full:?}");
    assert!(full.iter().all(|(index, reason)| *index >= room as usize && reason == "the set is full"));

    let grown = Definition { max_elements: room * 2, ..small };
    replace(sets, &grown, &members).unwrap();
    let headers = sets.headers("").unwrap();
    assert_eq!(headers.len(), 1, "nothing is left of the old one");
    assert_eq!(headers[0].definition.as_ref(), Some(&grown));
    let mut found = BTreeSet::new();
    sets.members(&grown.name, &mut |member| _ = found.insert(member)).unwrap();
    assert_eq!(found, members.into_iter().collect());
}

#[test]
fn y12_a_full_set_grows_by_a_swap() {
    let namespace = Namespace::new().unwrap();
    namespace.run(|| growth(&mut KernelSets::open().unwrap(), 65_536)).unwrap();
}

#[test]
fn seventy_thousand_elements_take_a_moment() {
    let namespace = Namespace::new().unwrap();
    let mut sets = namespace.run(|| KernelSets::open().unwrap()).unwrap();
    sets.create(&definition("A", SetType::HashIpPort, Family::V4, 80_000, Marks::With)).unwrap();
    let element = |number: u32| {
        Element::IpPort((0x0a60_0000 + number / 7).to_be_bytes().into(), Protocol::Tcp, (number % 7) as u16)
    };
    let adds: Vec<_> = (0..70_000).map(|number| add("A", element(number), number)).collect();
    let start = Instant::now();
    sets.change(&adds).unwrap();
    let added = start.elapsed();
    let mut count = 0;
    sets.members("A", &mut |_| count += 1).unwrap();
    let listed = start.elapsed() - added;
    assert_eq!(count, 70_000);
    let removes: Vec<_> = (0..70_000).map(|number| remove("A", element(number))).collect();
    sets.change(&removes).unwrap();
    assert_eq!(sets.headers("A").unwrap()[0].elements, 0);
    println!("70,000 elements: added in {added:?}, listed in {listed:?}, all in {:?}", start.elapsed());
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}
