//! The whole program in a lab, where iptables' own rules have to be looked at.

use crate::common::clients::{Echo, send_out_of_window};
use crate::common::data_plane::{DataPlane, in_both_flavours};
use crate::common::rig::{Rig, SOON, eventually, web};

in_both_flavours! {
    /// k8s#74839: a reply that conntrack does not take for one is not translated back, and a client that sees it resets the
    /// connection.
    fn c7_invalid_replies_do_not_reach_the_client(plane: DataPlane) {
        let rig = Rig::start(plane, &[("web.yaml", &web("", &["10.244.2.5"]))]);
        let flavour = plane.flavour();
        let mut connection = Echo::connect(&rig, "10.244.1.9", "10.96.0.10:80");
        let client = connection.address();
        send_out_of_window(&rig, "10.244.2.5:8080", client);
        let is_dropped = || {
            let rules = rig.run(&format!("iptables-{flavour}-save -c -t filter"));
            let invalid = |line: &&str| line.contains("INVALID") && line.ends_with("-j DROP");
            rules.lines().filter(invalid).any(|line| !line.starts_with("[0:0]"))
        };
        assert!(eventually(SOON, is_dropped), "{}", rig.run(&format!("iptables-{flavour}-save -c -t filter")));
        connection.assert_alive();
    }

    /// IPVS knows a connection by its virtual server, which goes with the Service, as with kube-proxy.
    fn c11_connections_outlive_their_service(plane: DataPlane) {
        let rig = Rig::start(plane, &[("web.yaml", &web("", &["10.244.1.5"]))]);
        let mut connection = Echo::connect(&rig, "10.244.1.9", "10.96.0.10:80");
        rig.remove("web.yaml");
        rig.expect_soon("10.244.1.9 tcp 10.96.0.10:80 -> untouched");
        connection.assert_alive();
    }

    /// L5: whatever somebody else takes away comes back.
    fn l5_rules_that_were_taken_away_come_back(plane: DataPlane) {
        let rig = Rig::start(plane, &[("web.yaml", &web("type: NodePort", &["10.244.1.5"]))]);
        let flavour = plane.flavour();
        let nat = || {
            let rules = rig.run(&format!("iptables-{flavour}-save -t nat"));
            let mut rules: Vec<_> =
                rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect();
            rules.sort();
            rules
        };
        let whole = nat();
        let dnat = whole.iter().find(|rule| rule.contains("-j DNAT")).expect("a rule for the endpoint");
        let jump = whole.iter().find(|rule| rule.starts_with("-A PREROUTING")).expect("a jump from PREROUTING");
        for rule in [dnat, jump] {
            let rule = rule.replacen("-A", "-D", 1);
            delete(&rig, flavour, &rule);
            assert!(eventually(SOON, || nat() == whole), "{rule}:\n{}\n{}", nat().join("\n"), rig.log());
        }
        rig.run(&format!("iptables-{flavour} -t nat -F"));
        assert!(eventually(SOON, || nat() == whole), "flushed:\n{}\n{}", nat().join("\n"), rig.log());
        rig.expect("10.244.1.9 tcp 10.96.0.10:80 -> to 10.244.1.5:8080");
    }
}

/// Deletes a rule as `iptables-save` printed it, by the one program that reads its quotes.
fn delete(rig: &Rig, flavour: &str, rule: &str) {
    let script = format!("printf '*nat\\n%s\\nCOMMIT\\n' \"$0\" | iptables-{flavour}-restore --noflush");
    let output = rig.lab.here().command("sh").unwrap().args(["-c", &script, rule]).output().unwrap();
    assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
}
