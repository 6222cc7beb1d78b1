use std::time::Instant;

use super::*;

/// Long enough for a local rejection, of which TCP may hear a second late.
const PATIENCE: Duration = Duration::from_millis(1500);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a program in "here".
fn run(lab: &Lab, line: &str) {
    let mut words = line.split_whitespace();
    let mut command = lab.here().command(words.next().unwrap()).unwrap();
    let output = command.args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Asks over TCP and UDP, and expects the same of both.
fn ask(lab: &Lab, from: &str, to: &str) -> Observed {
    let observed = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| lab.probe(ip(from), protocol, address(to), PATIENCE).unwrap())
        .map(|observed| match observed {
            Observed::Answered { server, client } => {
                Observed::Answered { server, client: SocketAddr::new(client.ip(), 0) }
            }
            other => other,
        });
    assert_eq!(observed[0], observed[1], "TCP and UDP from {from} to {to}");
    observed[0]
}

fn answered(server: &str, client: &str) -> Observed {
    Observed::Answered { server: address(server), client: SocketAddr::new(ip(client), 0) }
}

#[test]
fn everybody_reaches_every_pod_with_the_own_source() {
    let started = Instant::now();
    let lab = Lab::new().unwrap();
    eprintln!("lab in {:?}", started.elapsed());
    let sources4 = ["172.18.0.2", "172.18.0.3", "172.18.0.100", "10.244.1.5", "10.244.1.9", "10.244.2.5"];
    for source in sources4 {
        for server in ["10.244.1.6:8080", "10.244.2.9:8080"] {
            assert_eq!(ask(&lab, source, server), answered(server, source));
        }
    }
    let sources6 =
        ["fd00:18::2", "fd00:18::3", "fd00:18::100", "fd00:244:1::5", "fd00:244:1::9", "fd00:244:2::5"];
    for source in sources6 {
        for server in ["[fd00:244:1::6]:8080", "[fd00:244:2::9]:8080"] {
            assert_eq!(ask(&lab, source, server), answered(server, source));
        }
    }
    eprintln!("all in {:?}", started.elapsed());
}

#[test]
fn what_nobody_has_leaves_the_lab() {
    let lab = Lab::new().unwrap();
    for source in ["172.18.0.2", "172.18.0.3", "172.18.0.100", "10.244.1.5", "10.244.2.5"] {
        assert_eq!(ask(&lab, source, "10.96.0.10:80"), Observed::Unroutable, "from {source}");
    }
    for source in ["fd00:18::2", "fd00:18::3", "fd00:18::100", "fd00:244:1::5", "fd00:244:2::5"] {
        assert_eq!(ask(&lab, source, "[fd00:96::10]:80"), Observed::Unroutable, "from {source}");
    }
}

#[test]
fn refusal_and_silence_are_told_apart() {
    let lab = Lab::new().unwrap();
    assert_eq!(ask(&lab, "10.244.1.5", "172.18.0.2:81"), Observed::Refused, "nobody listens");
    for chain in ["OUTPUT", "FORWARD"] {
        run(&lab, &format!("iptables -A {chain} -d 10.96.0.1 -j REJECT"));
        run(&lab, &format!("ip6tables -A {chain} -d fd00:96::1 -j REJECT"));
        run(&lab, &format!("iptables -A {chain} -d 10.96.0.2 -j DROP"));
    }
    for source in ["172.18.0.2", "172.18.0.100", "10.244.1.5"] {
        assert_eq!(ask(&lab, source, "10.96.0.1:80"), Observed::Refused, "from {source}");
        assert_eq!(ask(&lab, source, "10.96.0.2:80"), Observed::Silence, "from {source}");
    }
    for source in ["fd00:18::2", "fd00:18::100", "fd00:244:1::5"] {
        assert_eq!(ask(&lab, source, "[fd00:96::1]:80"), Observed::Refused, "from {source}");
    }
}

/// Also from one pod of "elsewhere" to another, which without help would answer each other directly.
#[test]
fn translated_addresses_are_translated_back_on_every_path() {
    let lab = Lab::new().unwrap();
    for chain in ["PREROUTING", "OUTPUT"] {
        run(&lab, &format!("iptables -t nat -A {chain} -d 10.96.0.10 -j DNAT --to-destination 10.244.2.6"));
        run(
            &lab,
            &format!("ip6tables -t nat -A {chain} -d fd00:96::10 -j DNAT --to-destination fd00:244:2::6"),
        );
    }
    for source in ["172.18.0.2", "172.18.0.100", "10.244.1.5", "10.244.2.5"] {
        assert_eq!(ask(&lab, source, "10.96.0.10:8080"), answered("10.244.2.6:8080", source));
    }
    for source in ["fd00:18::2", "fd00:18::100", "fd00:244:1::5", "fd00:244:2::5"] {
        assert_eq!(ask(&lab, source, "[fd00:96::10]:8080"), answered("[fd00:244:2::6]:8080", source));
    }
}

/// A pod has to see the node's address, whichever interface the packet leaves by.
#[test]
fn masquerading_gives_the_address_of_the_node() {
    let lab = Lab::new().unwrap();
    run(&lab, "iptables -t nat -A POSTROUTING -j MASQUERADE");
    run(&lab, "ip6tables -t nat -A POSTROUTING -j MASQUERADE");
    for server in ["10.244.1.6:8080", "10.244.2.6:8080"] {
        assert_eq!(ask(&lab, "172.18.0.100", server), answered(server, "172.18.0.2"));
    }
    for server in ["[fd00:244:1::6]:8080", "[fd00:244:2::6]:8080"] {
        assert_eq!(ask(&lab, "fd00:18::100", server), answered(server, "fd00:18::2"));
    }
}

/// Without SCTP in the kernel.
#[test]
fn sctp_is_asked_and_translated() {
    let lab = Lab::new().unwrap();
    let ask = |from, to| match lab.probe(ip(from), Protocol::Sctp, address(to), PATIENCE).unwrap() {
        Observed::Answered { server, client } => answered(&server.to_string(), &client.ip().to_string()),
        other => other,
    };
    for server in ["10.244.2.6:8080", "[fd00:244:2::6]:8080"] {
        lab.listen(address(server), Protocol::Sctp).unwrap();
    }
    assert_eq!(ask("10.244.1.5", "10.244.2.6:8080"), answered("10.244.2.6:8080", "10.244.1.5"));
    assert_eq!(
        ask("fd00:244:1::5", "[fd00:244:2::6]:8080"),
        answered("[fd00:244:2::6]:8080", "fd00:244:1::5")
    );
    assert_eq!(ask("10.244.1.5", "10.244.2.7:8080"), Observed::Refused);
    assert_eq!(ask("fd00:244:1::5", "[fd00:244:2::7]:8080"), Observed::Refused);
    assert_eq!(ask("10.244.1.5", "10.96.0.10:80"), Observed::Unroutable);
    for chain in ["PREROUTING", "OUTPUT"] {
        run(
            &lab,
            &format!(
                "iptables -t nat -A {chain} -p sctp -d 10.96.0.10 --dport 80 -j DNAT --to 10.244.2.6:8080"
            ),
        );
    }
    run(&lab, "iptables -t nat -A POSTROUTING -p sctp -s 172.18.0.100 -j MASQUERADE");
    run(&lab, "iptables -A FORWARD -p sctp -d 10.96.0.11 -j REJECT");
    run(&lab, "iptables -A OUTPUT -p sctp -d 10.96.0.11 -j REJECT");
    run(&lab, "iptables -A FORWARD -p sctp -d 10.96.0.12 -j DROP");
    for (source, seen) in
        [("10.244.1.5", "10.244.1.5"), ("172.18.0.2", "172.18.0.2"), ("172.18.0.100", "172.18.0.2")]
    {
        assert_eq!(ask(source, "10.96.0.10:80"), answered("10.244.2.6:8080", seen));
        assert_eq!(ask(source, "10.96.0.11:80"), Observed::Refused);
    }
    assert_eq!(ask("10.244.1.5", "10.96.0.12:80"), Observed::Silence);
}

#[test]
fn servers_come_and_go() {
    let lab = Lab::new().unwrap();
    let server = address("172.18.0.3:30080");
    assert_eq!(ask(&lab, "172.18.0.100", "172.18.0.3:30080"), Observed::Refused);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.listen(server, protocol).unwrap();
        lab.listen(server, protocol).unwrap();
    }
    assert_eq!(ask(&lab, "172.18.0.100", "172.18.0.3:30080"), answered("172.18.0.3:30080", "172.18.0.100"));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.stop_listening(server, protocol);
    }
    assert_eq!(ask(&lab, "172.18.0.100", "172.18.0.3:30080"), Observed::Refused);
    assert!(matches!(
        lab.probe(ip("192.0.2.1"), Protocol::Tcp, server, PATIENCE),
        Err(LabError::NoSuchHost(_))
    ));
}

/// Rules as a proxy would write them, by hand.
fn with_rules() -> Lab {
    let lab = Lab::new().unwrap();
    for chain in ["PREROUTING", "OUTPUT"] {
        for rule in [
            "-d 10.96.0.10 -p tcp --dport 80 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.244.1.5:8080",
            "-d 10.96.0.10 -p tcp --dport 80 -j DNAT --to-destination 10.244.2.5:8080",
            "-d 172.18.0.2 -p udp --dport 30053 -j DNAT --to-destination 10.244.1.6:5353",
        ] {
            run(&lab, &format!("iptables -t nat -A {chain} {rule}"));
        }
    }
    run(&lab, "iptables -t nat -A POSTROUTING -p udp -d 10.244.1.6 -j MASQUERADE");
    for chain in ["FORWARD", "INPUT", "OUTPUT"] {
        run(&lab, &format!("iptables -A {chain} -p tcp -d 10.96.0.11 -j REJECT"));
        run(&lab, &format!("iptables -A {chain} -p tcp --dport 30081 -j DROP"));
    }
    lab
}

#[test]
fn flow_tables_hold_where_rules_are_right() {
    let table = flows::parse(
        "10.244.1.9   tcp 10.96.0.10:80     -> to 10.244.1.5:8080 10.244.2.5:8080
         172.18.0.100 udp 172.18.0.2:30053  -> to 10.244.1.6:5353 masqueraded
         10.244.1.9   tcp 10.96.0.11:80     -> reject
         172.18.0.2   tcp 10.96.0.11:80     -> reject
         172.18.0.100 tcp 172.18.0.2:30081  -> drop
         172.18.0.100 tcp 172.18.0.2:30082  -> untouched
         172.18.0.100 udp 172.18.0.3:30053  -> untouched
         10.244.1.9   udp 10.96.0.10:80     -> untouched",
    )
    .unwrap();
    let mismatches = runner::run(&with_rules(), &table, runner::Spread::All).unwrap();
    assert_eq!(mismatches, []);
}

#[test]
fn flow_tables_that_are_wrong_say_so_line_by_line() {
    let table = flows::parse(
        "10.244.1.9   tcp 10.96.0.10:80     -> to 10.244.1.5:8080
         10.244.1.9   tcp 10.96.0.10:80     -> to 10.244.1.5:8080 10.244.2.5:8080 10.244.2.6:8080
         10.244.1.9   tcp 10.96.0.10:80     -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded
         172.18.0.100 udp 172.18.0.2:30053  -> to 10.244.1.6:5353
         172.18.0.100 udp 172.18.0.2:30053  -> untouched
         10.244.1.9   tcp 10.96.0.11:80     -> untouched
         10.244.1.9   tcp 10.96.0.11:80     -> drop
         172.18.0.100 tcp 172.18.0.2:30082  -> reject
         10.244.1.9   udp 10.96.0.10:80     -> reject",
    )
    .unwrap();
    let mismatches = runner::run(&with_rules(), &table, runner::Spread::All).unwrap();
    let lines: Vec<_> = mismatches.iter().map(|mismatch| mismatch.flow.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(
        mismatches[1].to_string(),
        "line 2: 10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080 10.244.2.5:8080 10.244.2.6:8080: \
         to 10.244.2.6:8080 never seen in 120 requests"
    );
    assert_eq!(
        mismatches[3].to_string(),
        "line 4: 172.18.0.100 udp 172.18.0.2:30053 -> to 10.244.1.6:5353: 10.244.1.6:5353 answers and sees 172.18.0.2"
    );
    let all_or_one = runner::run(&with_rules(), &table, runner::Spread::AllOrOne).unwrap();
    assert_eq!(all_or_one.len(), 9, "two of three endpoints are neither all nor one");
}
