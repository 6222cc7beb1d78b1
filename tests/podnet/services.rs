//! Services across the pod network, in each mode, and ports of the node beside them.

use std::collections::BTreeMap;

use super::*;
use crate::common::rig::service;

/// As whom servers see the clients of a Service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    AsTheyAre,
    /// The proxy of the client's node connects in their place.
    AsTheirNode,
}

const HOST_PORT: u16 = 8081;
const NODE_PORT: u16 = 30080;

fn frontend(family: Family) -> SocketAddr {
    match family {
        Family::V4 => "10.96.0.10:80".parse().unwrap(),
        Family::V6 => "[fd00:10:96::10]:80".parse().unwrap(),
    }
}

/// A Service of one family, and pods of "node2" and "node3" that serve it.
fn manifests(family: Family, servers: [IpAddr; 2]) -> String {
    let (name, kind) = if family == Family::V4 { ("web4", "IPv4") } else { ("web6", "IPv6") };
    let endpoint = |pod: IpAddr, node: &str| {
        format!("{{addresses: [\"{pod}\"], nodeName: {node}, conditions: {{ready: true}}}}")
    };
    let address = frontend(family).ip();
    let node_port = NODE_PORT + u16::from(family == Family::V6);
    let spec = format!(
        "type: NodePort, clusterIP: \"{address}\", ports: [{{port: 80, nodePort: {node_port}, targetPort: {POD_PORT}}}]"
    );
    let slice = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n  name: {name}-1\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: {kind}\nports: [{{protocol: TCP, port: {POD_PORT}}}]\n\
         endpoints: [{}, {}]\n",
        endpoint(servers[0], "node2"),
        endpoint(servers[1], "node3")
    );
    service(name, &spec) + &slice
}

impl Cluster {
    /// Asks until every server has answered, each of which sees the client as it should.
    fn expect_all_answer(
        &self,
        client: IpAddr,
        at: SocketAddr,
        servers: [IpAddr; 2],
        seen_by: impl Fn(IpAddr) -> IpAddr,
    ) {
        let mut seen = BTreeMap::new();
        let all = eventually(SOON, || {
            let asked = self.mesh.lab.probe(client, Protocol::Tcp, at, Duration::from_secs(2)).unwrap();
            if let Observed::Answered { server, client: as_whom } = asked {
                seen.insert(server.ip(), as_whom.ip());
            }
            servers.iter().all(|server| seen.contains_key(server))
        });
        let expected: BTreeMap<_, _> = servers.into_iter().map(|server| (server, seen_by(server))).collect();
        assert!(
            all && seen == expected,
            "{client} to {at}: {seen:?} instead of {expected:?}\n{}",
            self.log(1)
        );
    }
}

fn works(flags: &[&str], seen: Seen) {
    let mut cluster = Cluster::new(3, flags);
    let ports =
        json!({"portMappings": [{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}]});
    let with_port = cluster.attach(2, ports);
    let mut text = String::new();
    for family in Family::ALL {
        text += &manifests(family, [cluster.pod(2, 1, family), cluster.pod(3, 1, family)]);
    }
    cluster.mesh.write("web.yaml", &text).unwrap();
    for family in Family::ALL {
        of_family(&cluster, family, seen);
        host_ports(&cluster, family, cluster.pod(2, with_port, family));
    }
}

fn of_family(cluster: &Cluster, family: Family, seen: Seen) {
    let servers = [cluster.pod(2, 1, family), cluster.pod(3, 1, family)];
    let node = |number| lab::address(number, family);
    let own = |client: IpAddr, its_node: u8| match seen {
        Seen::AsTheyAre => client,
        Seen::AsTheirNode => node(its_node),
    };
    let at = frontend(family);
    for (number, pod) in [(1, 1), (2, 2)] {
        let client = cluster.pod(number, pod, family);
        cluster.expect_all_answer(client, at, servers, |_| own(client, number));
    }
    cluster.expect_all_answer(node(1), at, servers, |_| node(1));
    // Hairpin: a pod that is given to itself must not see itself, or it would answer itself.
    let both = cluster.pod(2, 1, family);
    let as_whom = |server| if server == both { node(2) } else { own(both, 2) };
    cluster.expect_all_answer(both, at, servers, as_whom);
    // From outside, by a node that has none of the endpoints.
    let port = NODE_PORT + u16::from(family == Family::V6);
    let at_node = SocketAddr::new(node(1), port);
    cluster.expect_all_answer(lab::outside(family), at_node, servers, |_| node(1));
}

/// A port of "node2", for everybody.
fn host_ports(cluster: &Cluster, family: Family, pod: IpAddr) {
    let at = SocketAddr::new(lab::address(2, family), HOST_PORT);
    let (outside, node) = (lab::outside(family), lab::address(2, family));
    let clients =
        [outside, node, lab::address(1, family), cluster.pod(1, 1, family), cluster.pod(2, 1, family)];
    for client in clients {
        match cluster.mesh.lab.probe(client, Protocol::Tcp, at, Duration::from_secs(3)).unwrap() {
            Observed::Answered { server, client: seen } => {
                assert_eq!((server.ip(), seen.ip()), (pod, client), "{client} to {at}");
            }
            other => panic!("{client} to {at}: {other}"),
        }
    }
    match cluster.mesh.lab.probe(pod, Protocol::Tcp, at, Duration::from_secs(3)).unwrap() {
        Observed::Answered { server, client } => {
            assert_eq!((server.ip(), client.ip()), (pod, node), "hairpin")
        }
        other => panic!("{pod} to {at}: {other}"),
    }
}

#[test]
fn of_the_nftables_mode() {
    works(&["--proxy-mode=nftables"], Seen::AsTheyAre);
}

#[test]
fn of_the_iptables_mode_with_legacy() {
    works(&["--proxy-mode=iptables", "--iptables-flavour=legacy"], Seen::AsTheyAre);
}

#[test]
fn of_the_iptables_mode_with_nft() {
    works(&["--proxy-mode=iptables", "--iptables-flavour=nft"], Seen::AsTheyAre);
}

#[test]
fn of_the_userspace_mode() {
    works(&["--proxy-mode=userspace"], Seen::AsTheirNode);
}

mod ipvs {
    use super::*;

    /// The guest kernel has no nf_tables for IPv4 and IPv6, so that iptables masquerades and has the ports of nodes.
    #[test]
    #[ignore = "needs IPVS: the guest kernel runs it"]
    fn of_the_ipvs_mode_and_pods_where_there_is_no_nf_tables() {
        let flags = ["--proxy-mode=ipvs", "--iptables-flavour=legacy"];
        works(&flags, Seen::AsTheyAre);
        let cluster = Cluster::new(2, &flags);
        for family in Family::ALL {
            let (client, server) = (cluster.pod(1, 1, family), cluster.pod(2, 2, family));
            cluster.expect_seen_as(client, server, client);
            cluster.expect_seen_as(client, lab::outside(family), lab::address(1, family));
        }
        let saved = cluster.run(1, "iptables-legacy-save -t nat");
        assert!(saved.contains("-A FERROVIA-PODS-OUT -j MASQUERADE --random-fully"), "{saved}");
    }
}
