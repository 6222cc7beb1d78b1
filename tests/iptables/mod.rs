//! The iptables mode on the real kernel: both flavours, both families, each case in a network namespace of its own.

mod node;
mod program;
mod traffic;

use std::time::Instant;

use ferrovia::kernel::iptables::{Door, Flavour, Programs, Table};
use ferrovia::model::{Endpoint, Family, Locality};
use ferrovia::modes::iptables::remove_kube_proxy;
use ferrovia::modes::{Drift, Mode, ModeError};

use node::{Kind, Node, alone, each, name, run};

#[test]
fn y3_what_is_written_is_read_back_as_the_same() {
    each(|mut node| {
        node.fill();
        assert_ne!(node.sync(), "");
        assert_eq!(node.mode.drift().unwrap(), Drift::None);
        node.mode.observe().unwrap();
        assert_eq!(node.sync(), "", "another start over the same rules");
        node.table.unsettle();
        assert_eq!(node.sync(), "", "a full look at what was written");
        assert_eq!(node.mode.drift().unwrap(), Drift::None);
    });
}

#[test]
fn y3_y10_many_small_changes_end_as_one_large_one() {
    each(|mut node| {
        node.sync();
        node.fill();
        node.sync();
        for index in 0..100 {
            match index % 3 {
                0 => node.table.remove(&name(index)),
                1 => node.table.set(node.service(index, 40)),
                _ => node.table.set(node.external(index)),
            }
            if index % 10 == 0 {
                node.sync();
            }
        }
        node.sync();
        let (flavour, family) = (node.flavour, node.family);
        let ports: Vec<_> = node.table.ports().map(|port| (**port).clone()).collect();
        let policy = node.table.node().clone();
        let checks: Vec<_> = node.table.health_checks().iter().map(|(k, v)| (k.clone(), *v)).collect();
        let fresh = alone(move || {
            let mut node = Node::new(flavour, family);
            node.table.set_node(policy);
            ports.into_iter().for_each(|port| node.table.set(port));
            checks.into_iter().for_each(|(service, check)| node.table.set_health_check(service, Some(check)));
            node.sync();
            node.save()
        });
        assert_eq!(node.save(), fresh);
    });
}

#[test]
fn l5_what_others_take_away_is_noticed_and_put_back() {
    each(|mut node| {
        node.fill();
        node.sync();
        let wanted = node.save();
        let chain = |lines: &[String], kind: &str| {
            let line = lines.iter().find(|line| line.contains(&format!(":FERRO-{kind}"))).unwrap();
            line.split(' ').nth(1).unwrap()[1..].to_owned()
        };
        let service = chain(&wanted, "SVC");
        let meddle = [
            format!("-t nat -D {service} 1"),
            format!("-t nat -F {service}"),
            "-t nat -D PREROUTING 1".to_owned(),
            "-t filter -D FORWARD 1".to_owned(),
            "-t filter -F".to_owned(),
            "-t nat -F".to_owned(),
            "-t nat -X KUBE-PROXY-CANARY".to_owned(),
        ];
        for arguments in meddle {
            assert_eq!(node.mode.drift().unwrap(), Drift::None);
            node.iptables(&arguments);
            assert_eq!(node.mode.drift().unwrap(), Drift::Suspected, "{arguments}");
            node.mode.observe().unwrap();
            node.sync();
            assert_eq!(node.save(), wanted, "{arguments}");
        }
    });
}

#[test]
fn a_write_of_one_family_is_no_drift_of_the_other() {
    for flavour in [Flavour::Legacy, Flavour::Nft] {
        alone(move || {
            let mut nodes = Family::ALL.map(|family| Node::new(flavour, family));
            for _ in 0..2 {
                for node in &mut nodes {
                    node.fill();
                    node.sync();
                    node.table.remove(&name(1));
                    node.sync();
                }
            }
            for mut node in nodes {
                assert_eq!(node.mode.drift().unwrap(), Drift::None, "{flavour}");
            }
        });
    }
}

#[test]
fn what_others_do_to_their_own_chains_is_no_drift_in_nft() {
    for family in Family::ALL {
        alone(move || {
            let mut node = Node::new(Flavour::Nft, family);
            node.fill();
            node.sync();
            assert_eq!(node.mode.drift().unwrap(), Drift::None);
            for arguments in
                ["-t nat -N THEIRS", "-t nat -I POSTROUTING -j THEIRS", "-t raw -A PREROUTING -j DROP"]
            {
                node.iptables(arguments);
                assert_eq!(node.mode.drift().unwrap(), Drift::None, "{arguments}");
            }
            node.table.remove(&name(1));
            node.sync();
            assert_eq!(node.mode.drift().unwrap(), Drift::None);
            node.iptables("-t nat -D OUTPUT 1");
            assert_eq!(node.mode.drift().unwrap(), Drift::Suspected);
        });
    }
}

#[test]
fn a_foreign_rule_stays_where_it_is() {
    each(|mut node| {
        node.fill();
        node.sync();
        node.iptables("-t nat -I PREROUTING -j ACCEPT");
        node.mode.observe().unwrap();
        assert_eq!(node.sync(), "");
        node.iptables("-t nat -D OUTPUT 1");
        node.mode.observe().unwrap();
        node.sync();
        assert!(node.iptables("-t nat -S PREROUTING 1").contains("-j ACCEPT"));
        assert!(node.iptables("-t nat -S OUTPUT 1").contains("FERRO-SERVICES"));
    });
}

#[test]
fn a_chain_that_others_lead_to_does_not_stop_the_rest() {
    each(|mut node| {
        node.table.set(node.service(1, 1));
        node.sync();
        let ours = node.save().iter().find_map(|line| line.strip_prefix("nat :FERRO-SVC").map(str::to_owned));
        let chain = format!("FERRO-SVC{}", ours.unwrap().split(' ').next().unwrap());
        node.iptables("-t nat -N THEIRS");
        node.iptables(&format!("-t nat -A THEIRS -j {chain}"));
        node.table.remove(&name(1));
        node.table.set(node.service(2, 1));
        let plan = node.mode.plan(&node.table, Instant::now());
        let error = node.mode.apply(plan).unwrap_err();
        assert!(error.to_string().contains(&format!("-X {chain}")), "{error}");
        node.mode.observe().unwrap();
        node.sync();
        assert!(node.save().iter().any(|line| line.contains(&node.at(Kind::Cluster, 2).to_string())));
    });
}

#[test]
fn y1_a_line_that_is_refused_names_its_service_port() {
    each(|mut node| {
        node.fill();
        let mut bad = node.service(500, 3);
        bad.cluster = match node.family {
            Family::V4 => [("fd00::1", 1)],
            Family::V6 => [("10.244.0.1", 1)],
        }
        .map(|(address, port)| Endpoint {
            address: address.parse().unwrap(),
            port,
            locality: Locality::Remote,
            weight: 1,
        })
        .into();
        node.table.set(bad);
        let error = node.mode.apply(node.mode.plan(&node.table, Instant::now())).unwrap_err();
        assert_eq!(error.culprit(), Some(&name(500)), "{error}");
        node.table.remove(&name(500));
        node.mode.observe().unwrap();
        node.sync();
    });
}

#[test]
fn a5_cleanup_leaves_nothing_of_ours_and_all_else_twice() {
    each(|mut node| {
        node.iptables("-t nat -N KUBE-KUBELET-CANARY");
        node.iptables("-t filter -A INPUT -j ACCEPT");
        let before = node.save();
        node.fill();
        node.sync();
        for _ in 0..2 {
            node.mode.cleanup().unwrap();
            assert_eq!(node.save(), before);
        }
    });
}

#[test]
fn a5_what_kube_proxy_left_is_removed() {
    each(|mut node| {
        node.sync();
        let ours = node.save();
        for arguments in [
            "-t nat -N KUBE-SERVICES",
            "-t nat -N KUBE-SVC-ERIFXISQEP7F7OF4",
            "-t nat -A KUBE-SERVICES -p tcp -m comment --comment a -j KUBE-SVC-ERIFXISQEP7F7OF4",
            "-t nat -A PREROUTING -m comment --comment portals -j KUBE-SERVICES",
            "-t filter -N KUBE-FORWARD",
            "-t filter -I FORWARD -j KUBE-FORWARD",
        ] {
            node.iptables(arguments);
        }
        for _ in 0..2 {
            remove_kube_proxy(node.mode.door()).unwrap();
            assert_eq!(node.save(), ours);
        }
    });
}

#[test]
fn y6_the_flavour_is_that_of_kubelets_hint_and_looking_leaves_no_trace() {
    for (hint, flavour) in
        [(None, Flavour::Nft), (Some("legacy"), Flavour::Legacy), (Some("nft"), Flavour::Nft)]
    {
        alone(move || {
            if let Some(hint) = hint {
                run(&format!("ip6tables-{hint}"), &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
            }
            assert_eq!(Flavour::detect().unwrap(), flavour);
            let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
            assert_eq!(tables, "");
            let mut legacy = Programs::find(Family::V4, Some(Flavour::Legacy)).unwrap();
            for table in Table::ALL {
                legacy.save(table, &mut |line| panic!("{line}")).unwrap();
            }
            legacy.stamp().unwrap();
            let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
            assert_eq!(tables, "");
        });
    }
}
