//! Routes of type `local`, compared with what `ip route` says of them.

use super::*;

fn open(namespace: &Namespace, family: Family) -> LocalRoutes {
    namespace.run(|| LocalRoutes::open(family).unwrap()).unwrap()
}

/// What `ip` knows of our routes, as `ADDRESS src SOURCE`.
fn shown(namespace: &Namespace, family: Family) -> Vec<String> {
    let option = if family == Family::V4 { "-4" } else { "-6" };
    let text = run(namespace, &format!("ip {option} route show type local table local proto 102"));
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().filter(|word| *word != "local").collect();
            match words.iter().position(|word| *word == "src") {
                Some(place) => format!("{} src {}", words[0], words[place + 1]),
                None => words[0].to_owned(),
            }
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn both_families_are_what_ip_says() {
    let namespace = node();
    let table = [
        (Family::V4, ["10.96.0.10", "10.96.0.11", "10.96.0.12"], "172.18.0.2"),
        (Family::V6, ["fd00:96::10", "fd00:96::11", "fd00:96::12"], "fd00:18::2"),
    ];
    for (family, [a, b, c], source) in table {
        let mut routes = open(&namespace, family);
        assert_eq!(listed(&mut routes, family), [""; 0]);
        routes
            .change(family, &[add(a, Some(source)), add(b, None), add(c, None), remove(c), remove(c)])
            .unwrap();
        let expected = [format!("{a} src {source}"), b.to_owned()];
        assert_eq!(shown(&namespace, family), expected);
        assert_eq!(listed(&mut routes, family), expected);

        // Another source for one, none for the other, both where they were.
        routes.change(family, &[add(b, Some(source)), add(a, None), add(a, None)]).unwrap();
        let expected = [a.to_owned(), format!("{b} src {source}")];
        assert_eq!(shown(&namespace, family), expected);
        assert_eq!(listed(&mut routes, family), expected);
        routes.change(family, &[remove(a), remove(b)]).unwrap();
        assert_eq!(shown(&namespace, family), [""; 0]);
    }
}

#[test]
fn a_source_that_is_not_the_nodes_is_left_out() {
    let namespace = node();
    for (family, address, foreign, own) in [
        (Family::V4, "10.96.0.10", "172.18.0.99", "172.18.0.2"),
        (Family::V6, "fd00:96::10", "fd00:18::99", "fd00:18::2"),
    ] {
        let mut routes = open(&namespace, family);
        for (source, expected) in [
            (foreign, address.to_owned()),
            (own, format!("{address} src {own}")),
            (foreign, address.to_owned()),
        ] {
            for _ in 0..2 {
                routes.change(family, &[add(address, Some(source))]).unwrap();
                assert_eq!(listed(&mut routes, family), std::slice::from_ref(&expected), "{source}");
            }
        }
    }
}

#[test]
fn what_others_have_is_left_alone() {
    let namespace = node();
    run(&namespace, "ip route add local 10.96.0.9/32 dev lo table local proto 98");
    run(&namespace, "ip -6 route add local fd00:96::9/128 dev lo table local proto 98");
    let theirs = || {
        let lines =
            ["-4", "-6"].map(|option| run(&namespace, &format!("ip {option} -d route show table local")));
        let mut lines: Vec<_> = lines.concat().lines().map(str::to_owned).collect();
        lines.retain(|line| {
            line.contains("96.0.9 ")
                || line.contains("96::9 ")
                || line.contains("172.18.0.2")
                || line.contains("fd00:18::2")
        });
        lines
    };
    let before = theirs();
    assert!(before.len() >= 4, "{before:?}");
    for (family, own, static_one, fine) in [
        (Family::V4, "172.18.0.2", "10.96.0.9", "10.96.0.10"),
        (Family::V6, "fd00:18::2", "fd00:96::9", "fd00:96::10"),
    ] {
        let mut routes = open(&namespace, family);
        let changes =
            [add(own, None), add(static_one, Some(own)), add(fine, None), remove(static_one), remove(own)];
        let refused = reasons(routes.change(family, &changes));
        assert_eq!(refused, [(0, OCCUPIED.to_owned()), (1, OCCUPIED.to_owned())]);
        assert_eq!(shown(&namespace, family), [fine]);
        routes.change(family, &[remove(fine)]).unwrap();
    }
    assert_eq!(theirs(), before);
    let mut routes = open(&namespace, Family::V4);
    let refused = reasons(routes.change(Family::V4, &[add("fd00::1", None)]));
    assert_eq!(refused, [(0, "not an IPv4 address".to_owned())]);
}

/// An address that the node gets although it is a virtual one stays what it is, in both ways.
#[test]
fn a_route_of_ours_next_to_another_one_is_still_ours() {
    let namespace = node();
    for (family, address, own) in
        [(Family::V4, "10.96.0.10", "172.18.0.2"), (Family::V6, "fd00:96::10", "fd00:18::2")]
    {
        let mut routes = open(&namespace, family);
        routes.change(family, &[add(address, None)]).unwrap();
        run(&namespace, &format!("ip address add {address}/{} dev eth0 nodad", family.bits()));
        wait_for_route(&namespace, address);
        routes.change(family, &[add(address, Some(own))]).unwrap();
        assert_eq!(listed(&mut routes, family), [format!("{address} src {own}")]);
        routes.change(family, &[remove(address)]).unwrap();
        let option = if family == Family::V4 { "-4" } else { "-6" };
        let left = run(&namespace, &format!("ip {option} route show table local {address} proto kernel"));
        assert!(left.contains(address), "{left}");
    }
}

#[test]
fn what_others_do_to_ours_is_heard() {
    let namespace = node();
    run(&namespace, "ip address add 172.18.0.7/16 dev eth0");
    run(&namespace, "ip address add fd00:18::7/64 dev eth0 nodad");
    for (family, option, address, source) in
        [(Family::V4, "-4", "10.96.0.10", "172.18.0.7"), (Family::V6, "-6", "fd00:96::10", "fd00:18::7")]
    {
        let mut routes = open(&namespace, family);
        routes.change(family, &[add(address, None), add(address, Some(source))]).unwrap();
        assert!(!routes.disturbed().unwrap(), "own changes");
        let prefix = if family == Family::V4 { "10.97" } else { "fd00:97:" };
        let host = format!("{prefix}{}", if family == Family::V4 { ".0.1" } else { ":1" });
        for line in [
            format!("ip {option} route add {host} dev eth0"),
            format!("ip {option} route add local {host} dev lo table local proto 98"),
            format!("ip {option} route del {host} dev eth0"),
        ] {
            run(&namespace, &line);
            assert!(!routes.disturbed().unwrap(), "{line}");
        }
        let mut lines = vec![
            format!("ip {option} route del local {address} dev lo table local proto 102"),
            format!("ip {option} route add local {address} dev lo table local proto 102 src {source}"),
            format!("ip {option} route replace local {address} dev lo table local proto 98"),
            format!("ip {option} route replace local {address} dev lo table local proto 102 src {source}"),
        ];
        if family == Family::V6 {
            lines.push(format!("ip address del {source}/64 dev eth0"));
        }
        for line in lines {
            run(&namespace, &line);
            assert!(routes.disturbed().unwrap(), "{line}");
            assert!(!routes.disturbed().unwrap(), "{line}: told once");
        }
    }
}

#[test]
fn lost_notifications_are_told_as_a_disturbance() {
    let namespace = node();
    let mut routes = open(&namespace, Family::V4);
    let script = "for n in $(seq 1 250); do for m in 1 2 3; do
        echo \"route add local 10.98.$m.$n/32 dev lo table local proto 98\"; done; done | ip -batch -";
    let output = namespace.command("sh").unwrap().args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(routes.disturbed().unwrap());
    assert!(!routes.disturbed().unwrap());
}

fn many(family: Family, source: Option<&str>) -> Vec<AddressChange> {
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        match family {
            Family::V4 => IpAddr::from([10, 96, high, low]),
            Family::V6 => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, number]),
        }
    };
    (0..10_000)
        .map(|number| AddressChange::Add { address: address(number), source: source.map(ip) })
        .collect()
}

#[test]
fn ten_thousand_routes_take_a_moment() {
    let namespace = node();
    for (family, own) in [(Family::V4, "172.18.0.2"), (Family::V6, "fd00:18::2")] {
        let mut routes = open(&namespace, family);
        let start = Instant::now();
        let mut lap = start;
        let mut step = |name: &str| {
            println!("10,000 {family} routes: {name} in {:?}", lap.elapsed());
            lap = Instant::now();
        };
        let adds = many(family, Some(own));
        routes.change(family, &adds).unwrap();
        step("added");
        assert_eq!(routes.list(family).unwrap().len(), 10_000);
        step("listed");
        assert!(!routes.disturbed().unwrap(), "own changes");
        routes.change(family, &adds).unwrap();
        step("added again");
        routes.change(family, &many(family, None)).unwrap();
        step("changed");
        assert!(!routes.disturbed().unwrap(), "own changes");
        let removes: Vec<_> = adds.iter().map(|add| AddressChange::Remove(add.address())).collect();
        routes.change(family, &removes).unwrap();
        step("removed");
        assert_eq!(shown(&namespace, family), [""; 0]);
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}
