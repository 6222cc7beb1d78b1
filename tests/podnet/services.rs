//! Services across the pod network, in each mode.

use super::*;
use crate::common::rig::service;

fn slice(pods: [IpAddr; 2]) -> String {
    let endpoint = |pod: IpAddr, node: &str| {
        format!("{{addresses: [\"{pod}\"], nodeName: {node}, conditions: {{ready: true}}}}")
    };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n  name: web-1\n  \
         labels: {{kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{{protocol: TCP, port: {POD_PORT}}}]\n\
         endpoints: [{}, {}]\n",
        endpoint(pods[0], "node2"),
        endpoint(pods[1], "node3")
    )
}

fn works(flags: &[&str]) {
    let cluster = Cluster::new(3, flags);
    let servers = [pod(2, 5)[0], pod(3, 5)[0]];
    let web = service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]") + &slice(servers);
    cluster.mesh.write("web.yaml", &web).unwrap();
    let frontend: SocketAddr = "10.96.0.10:80".parse().unwrap();
    let ask = |client: IpAddr| {
        cluster.mesh.lab.probe(client, Protocol::Tcp, frontend, Duration::from_secs(2)).unwrap()
    };
    for client in [pod(1, 5)[0], pod(2, 6)[0]] {
        let mut seen = std::collections::BTreeSet::new();
        let both = eventually(SOON, || {
            if let Observed::Answered { server, client: as_whom } = ask(client) {
                assert_eq!(as_whom.ip(), client, "the server sees the pod itself");
                seen.insert(server.ip());
            }
            seen.len() == 2
        });
        assert!(both, "{client} reached {seen:?}\n{}", cluster.log(1));
    }
}

#[test]
fn of_the_nftables_mode() {
    works(&["--proxy-mode=nftables"]);
}

#[test]
fn of_the_iptables_mode_with_either_flavour() {
    for flavour in ["legacy", "nft"] {
        works(&["--proxy-mode=iptables", "--iptables-flavour", flavour]);
    }
}

mod ipvs {
    use super::*;

    /// The guest kernel has no nf_tables for IPv4 and IPv6, so that iptables masquerades.
    #[test]
    #[ignore = "needs IPVS: the guest kernel runs it"]
    fn of_the_ipvs_mode_and_pods_where_there_is_no_nf_tables() {
        let flags = ["--proxy-mode=ipvs", "--iptables-flavour=legacy"];
        works(&flags);
        let cluster = Cluster::new(2, &flags);
        for family in Family::ALL {
            let (client, server) = (lab::pod(1, 5, family), lab::pod(2, 6, family));
            cluster.expect_seen_as(client, server, client);
            cluster.expect_seen_as(client, lab::outside(family), lab::address(1, family));
        }
        let saved = cluster.run(1, "iptables-legacy-save -t nat");
        assert!(saved.contains("-A FERROVIA-PODS-OUT -j MASQUERADE --random-fully"), "{saved}");
    }
}
