//! UDP clients that never stop sending, while endpoints and Services come and go.

use ferrovia::model::Protocol;

use crate::common::clients::{UdpClient, refused};
use crate::common::data_plane::{DataPlane, in_every_mode};
use crate::common::rig::{Rig, SOON, address, dns, eventually};

in_every_mode! {
    fn l2_udp_entry_cleared_when_endpoints_go(plane: DataPlane) {
        let rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let clients = [("10.244.1.9", "10.96.0.53:53"), ("172.18.0.100", "172.18.0.2:30053")]
            .map(|(from, to)| UdpClient::new(&rig, from, to));
        for client in &clients {
            assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        }
        rig.write("dns.yaml", &dns(&[]));
        for client in &clients {
            assert!(eventually(SOON, || client.ask() == refused()), "{:?}\n{}", client.ask(), rig.log());
        }
    }

    /// C1: the flow of a client that never stops sending goes over to an endpoint that is left.
    fn c1_udp_client_moves_to_the_endpoint_that_is_left(plane: DataPlane) {
        let rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        rig.write("dns.yaml", &dns(&["10.244.2.6"]));
        assert!(eventually(SOON, || client.ask().as_deref() == Ok("10.244.2.6:8080")), "{}", rig.log());
    }

    fn l3_udp_entry_cleared_when_service_deleted(plane: DataPlane) {
        let rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(client.ask().as_deref(), Ok("10.244.1.5:8080"));
        rig.remove("dns.yaml");
        let is_gone = || {
            let _ = client.ask();
            !client.tracked(&rig).is_some_and(|line| line.contains("src=10.244.1.5"))
        };
        assert!(eventually(SOON, is_gone), "{:?}\n{}", client.tracked(&rig), rig.log());
        assert!(eventually(SOON, || client.ask().is_err()), "{}", rig.log());
    }

    /// k8s#49881: a client outside whose server has the number of a NodePort.
    fn l4_foreign_udp_flow_untouched(plane: DataPlane) {
        let rig = Rig::start(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))]);
        rig.lab.listen(address("172.18.0.100:30053"), Protocol::Udp).unwrap();
        let foreign = UdpClient::new(&rig, "10.244.1.9", "172.18.0.100:30053");
        let ours = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        assert_eq!(foreign.ask().as_deref(), Ok("172.18.0.100:30053"));
        assert_eq!(ours.ask().as_deref(), Ok("10.244.1.5:8080"));
        let before = foreign.tracked(&rig).expect("its flow is tracked");
        rig.write("dns.yaml", &dns(&["10.244.1.6"]));
        assert!(eventually(SOON, || ours.ask().as_deref() == Ok("10.244.1.6:8080")), "{}", rig.log());
        assert_eq!(foreign.tracked(&rig), Some(before));
    }

    /// k8s#48719: a client that was there before the rules.
    fn c9_udp_sent_before_the_rules_does_not_stick(plane: DataPlane) {
        let mut rig = Rig::without_proxy(plane, &[("dns.yaml", &dns(&["10.244.1.5"]))], &[]);
        rig.run(&format!("iptables-{} -A FORWARD -m conntrack --ctstate NEW", plane.flavour()));
        let client = UdpClient::new(&rig, "10.244.1.9", "10.96.0.53:53");
        let _ = client.ask();
        assert!(client.tracked(&rig).is_some(), "it is tracked as it was sent");
        rig.start_proxy();
        assert!(eventually(SOON, || client.ask().as_deref() == Ok("10.244.1.5:8080")), "{}", rig.log());
    }
}
