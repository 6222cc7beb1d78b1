//! A container runtime of Debian that speaks CNI: podman, whose containers are pods of a node here.
//!
//! It is configured as an administrator would, with a network that the node's proxy has written, and keeps everything below
//! the node's own `/run`.

use ferrovia::kernel::netns::{Namespace, OpenedNamespace};

use super::container::{self, LIFETIME, ROOT, ask};
use super::*;

const CONFIGURATION: &str = "/run/podman.conf";

/// Podman on a node of the mesh.
struct Podman<'a> {
    node: &'a Namespace,
}

impl<'a> Podman<'a> {
    fn on(node: &'a Namespace) -> Self {
        let configuration = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\nnetwork_config_dir = \"{}\"\n\
             default_network = \"ferrovia\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"crun\"\n\
             events_logger = \"none\"\n[containers]\ncgroups = \"disabled\"\nlog_driver = \"none\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
            lab::PLUGINS,
            lab::CONFIGURATIONS,
        );
        container::prepare_root(node);
        node.run(|| fs::write(CONFIGURATION, configuration)).unwrap().unwrap();
        Podman { node }
    }

    fn output(&self, line: &str) -> std::process::Output {
        let mut podman = self.node.command("podman").unwrap();
        podman.env("CONTAINERS_CONF", CONFIGURATION);
        podman.args([
            "--root",
            "/run/podman/root",
            "--runroot",
            "/run/podman/run",
            "--tmpdir",
            "/run/podman/tmp",
        ]);
        podman.args(["--storage-driver", "vfs"]).args(line.split_whitespace());
        podman.output().unwrap_or_else(|error| panic!("this test needs podman: {error}"))
    }

    fn say(&self, line: &str) -> String {
        let output = self.output(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "podman {line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn start(&self, name: &str, options: &str) {
        self.say(&format!(
            "run --detach --name {name} {options} --network ferrovia --rootfs --volume /usr:/usr:ro {ROOT} \
             sleep {LIFETIME}"
        ));
    }

    fn remove(&self, name: &str) {
        self.say(&format!("rm --force --time 0 {name}"));
    }

    fn inspect(&self, name: &str, field: &str) -> String {
        let mut podman = format!("inspect --format {{{{{field}}}}}");
        podman += &format!(" {name}");
        self.say(&podman)
    }

    fn addresses(&self, name: &str) -> [IpAddr; 2] {
        ["IPAddress", "GlobalIPv6Address"].map(|field| {
            let text = self.inspect(name, &format!(".NetworkSettings.Networks.ferrovia.{field}"));
            text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
        })
    }

    fn namespace(&self, name: &str) -> OpenedNamespace {
        container::namespace_of(&self.inspect(name, ".State.Pid"))
    }
}

/// Also after a panic: its processes are nobody's children.
impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.output("rm --force --time 0 --all");
    }
}

#[test]
fn containers_of_podman_are_pods_of_their_node() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables"]);
    let podman = Podman::on(&cluster.mesh.node(1).namespace);
    assert!(podman.say("network ls --format {{.Name}}").contains("ferrovia"), "it is a network of podman's");
    let mut before = None;
    for _ in 0..2 {
        podman.start("web", "--publish 8090:80");
        podman.start("other", "");
        let addresses = podman.addresses("web");
        assert_ne!(Some(addresses), before, "an address rests");
        before = Some(addresses);
        let server = container::serve(&podman.namespace("web"));
        let elsewhere = &cluster.mesh.pod_host(2, 1).unwrap().namespace;
        for (address, family) in addresses.into_iter().zip(Family::ALL) {
            let client = cluster.pod(2, 1, family).to_string();
            assert_eq!(ask(elsewhere, SocketAddr::new(address, 80)), Some(client), "from another node");
            let node = lab::address(1, family);
            let outside = &cluster.mesh.gateway().namespace;
            let seen = ask(outside, SocketAddr::new(node, 8090));
            assert_eq!(seen, Some(lab::outside(family).to_string()), "by the node's port");
        }
        from_inside(&cluster, &podman, addresses);
        container::stop(&podman.namespace("web"), server);
        podman.remove("web");
        podman.remove("other");
        let routes = cluster.run(1, "ip route show proto 103");
        assert!(addresses.iter().all(|address| !routes.contains(&address.to_string())), "{routes}");
        let ports = cluster.run(1, "nft list table ip ferrovia-host-ports");
        assert!(!ports.contains("8090"), "{ports}");
    }
    assert_eq!(cluster.run(1, "ip -oneline link show").matches(": fpod").count(), usize::from(PODS));
}

/// What the containers themselves see.
fn from_inside(cluster: &Cluster, podman: &Podman<'_>, addresses: [IpAddr; 2]) {
    let shown = podman.say("exec web ip -oneline address show dev eth0");
    assert!(addresses.iter().all(|address| shown.contains(&address.to_string())), "{shown}");
    let other = podman.namespace("other");
    let from = podman.addresses("other")[0];
    let asked = |server: IpAddr, port| {
        let server = SocketAddr::new(server, port);
        other.run(|| std::net::TcpStream::connect_timeout(&server, Duration::from_secs(3))).unwrap()
    };
    let stream = asked(addresses[0], 80).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), from);
    asked(cluster.pod(2, 1, Family::V4), POD_PORT).unwrap();
    asked(lab::outside(Family::V4), POD_PORT).unwrap();
}
