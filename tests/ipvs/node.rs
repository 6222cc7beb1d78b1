//! What the node is to others: virtual addresses, its own daemons, sets that are there already.

use ferrovia::lab::Observed;
use ferrovia::model::Protocol;

use super::lab::{shell, start, web, without_proxy};
use crate::common::rig::{PATIENCE, Rig, address, eventually};

const PODS: [&str; 2] = ["10.244.1.5", "10.244.2.5"];

/// Whether the node answers, on the network that it has with the client, for an address.
fn answers_arp(rig: &Rig, asked: &str) -> bool {
    let client = rig.lab.hosts().iter().find(|host| host.name == "client").expect("the lab has a client");
    let arguments = ["-c", "2", "-w", "2", "-I", "eth0", asked];
    let output = client.namespace.command("arping").unwrap().args(arguments).output();
    output.expect("this test needs iputils-arping").status.success()
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn i5_virtual_addresses_are_on_no_interface_and_nobody_answers_for_them() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    assert!(!rig.run("ip address").contains("10.96.0.10"));
    let routes = rig.run("ip route show table local proto 102");
    assert!(routes.contains("local 10.96.0.10 dev lo") && routes.contains("src 172.18.0.2"), "{routes}");
    assert!(eventually(PATIENCE, || answers_arp(&rig, "172.18.0.2")), "for its own address");
    assert!(!answers_arp(&rig, "10.96.0.10"), "{}", rig.run("ip neighbour"));
    rig.remove("web.yaml");
    assert!(
        eventually(PATIENCE, || rig.run("ip route show table local proto 102").is_empty()),
        "{}",
        rig.evidence()
    );
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn virtual_addresses_may_be_on_a_device() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &["--ipvs-virtual-addresses=device"]);
    assert!(rig.run("ip address show dev kube-ipvs0").contains("inet 10.96.0.10/32"));
    assert_eq!(rig.run("ip route show table local proto 102"), "");
    rig.expect(
        "10.244.1.9   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080
         172.18.0.2   tcp 10.96.0.10:80    -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded
         10.244.1.9   tcp 10.96.0.10:30080 -> unused
         172.18.0.100 tcp 172.18.0.2:30080 -> to 10.244.1.5:8080 10.244.2.5:8080 masqueraded",
    );
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn strict_arp_is_for_all_interfaces() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &["--ipvs-strict-arp"]);
    let sysctl = |name: &str| rig.run(&format!("cat /proc/sys/net/ipv4/conf/all/{name}")).trim().to_owned();
    assert_eq!((sysctl("arp_ignore"), sysctl("arp_announce")), ("1".into(), "2".into()));
}

#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn s3_daemons_of_the_node_are_not_to_be_had_at_virtual_addresses() {
    let rig = start(&[("web.yaml", &web("", &PODS))], &[]);
    let open = || -> std::io::Result<_> {
        let tcp = std::net::TcpListener::bind("0.0.0.0:3333")?;
        Ok((tcp, std::net::UdpSocket::bind("0.0.0.0:3333")?))
    };
    let everywhere = rig.lab.here().run(open).unwrap().unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        rig.lab.listen(address("172.18.0.2:2222"), protocol).unwrap();
        for client in ["10.244.1.9", "172.18.0.100", "172.18.0.2"] {
            assert_eq!(
                rig.ask(client, protocol, "10.96.0.10:3333"),
                Observed::Refused,
                "{client} {protocol}"
            );
        }
        let own = rig.ask("10.244.1.9", protocol, "172.18.0.2:2222");
        assert!(matches!(own, Observed::Answered { .. }), "at its own address: {own}");
    }
    drop(everywhere);
    let pod = rig.lab.hosts().iter().find(|host| host.name == "here/9").expect("the lab has this pod");
    let ping =
        pod.namespace.command("ping").unwrap().args(["-c", "1", "-W", "60", "10.96.0.10"]).output().unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
}

/// k8s#129389: an earlier version made it too small.
#[test]
#[ignore = "needs IPVS: the guest kernel runs it"]
fn y12_a_set_that_is_too_small_grows() {
    let mut rig = without_proxy(&[("web.yaml", &web("", &PODS))], &[]);
    shell(
        &rig,
        "ipset create FERRO-4-SERVED hash:ip,port maxelem 10; ipset add FERRO-4-SERVED 192.0.2.1,tcp:1",
    );
    rig.start_proxy();
    let set = rig.run("ipset save FERRO-4-SERVED");
    assert!(set.contains("maxelem 4194304") && set.contains("10.96.0.10,tcp:80"), "{set}");
    assert!(!set.contains("192.0.2.1"), "{set}");
}
