//! Another runtime of Debian: containerd, which asks for networks as a kubelet would have it.
//!
//! `ctr run --cni` looks for configurations and plugins where containerd does without a configuration of its own, so these
//! directories of the host have the node's mounted over them, in the node's own mount namespace. It calls ADD before a container
//! starts and DEL when it has ended, as long as it waits for it.

use std::process::{Child, Stdio};

use ferrovia::kernel::netns::Namespace;

use super::container::{self, LIFETIME, ROOT, ask};
use super::*;

const SOCKET: &str = "/run/containerd/socket";
const CONFIGURATION: &str = "/run/containerd.toml";
/// crun, without cgroups: the host's are not ours to change.
const CRUN: &str = "/run/crun";

struct Containerd<'a> {
    node: &'a Namespace,
    daemon: Child,
}

/// A container, and the client that waits for its end.
struct Container {
    name: &'static str,
    client: Child,
}

impl<'a> Containerd<'a> {
    fn on(node: &'a Namespace) -> Self {
        container::prepare_root(node);
        let configuration = format!(
            "version = 2\nroot = \"/run/containerd/root\"\nstate = \"/run/containerd/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{SOCKET}\"\n"
        );
        let prepare = || -> std::io::Result<()> {
            fs::write(CONFIGURATION, configuration)?;
            fs::write(CRUN, "#!/bin/sh\nexec crun --cgroup-manager=disabled \"$@\"\n")?;
            fs::set_permissions(CRUN, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        };
        node.run(prepare).unwrap().unwrap();
        run(node, "mount -t tmpfs none /opt");
        run(node, "mkdir -p /opt/cni/bin");
        run(node, &format!("mount --bind {} /opt/cni/bin", lab::PLUGINS));
        run(node, &format!("mount --bind {} /etc/cni/net.d", lab::CONFIGURATIONS));
        let mut daemon = node.command("containerd").unwrap();
        daemon.args(["--config", CONFIGURATION]).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().unwrap_or_else(|error| panic!("this test needs containerd: {error}"));
        let containerd = Containerd { node, daemon };
        assert!(
            eventually(PATIENCE, || containerd.output("version").status.success()),
            "containerd does not start"
        );
        containerd
    }

    fn ctr(&self, line: &str) -> std::process::Command {
        let mut ctr = self.node.command("ctr").unwrap();
        ctr.args(["--address", SOCKET]).args(line.split_whitespace());
        ctr
    }

    fn output(&self, line: &str) -> std::process::Output {
        self.ctr(line).output().unwrap_or_else(|error| panic!("this test needs ctr: {error}"))
    }

    fn say(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(output.status.success(), "ctr {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&self, name: &'static str) -> Container {
        let run = format!("run --rm --cni --rootfs --runc-binary {CRUN} --mount");
        let mut ctr = self.ctr(&run);
        // An argument of its own, as the options before have no spaces either.
        ctr.arg("type=bind,src=/usr,dst=/usr,options=rbind:ro");
        ctr.args([ROOT, name, "/usr/bin/sleep", &LIFETIME.to_string()]);
        let client = ctr.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut container = Container { name, client };
        let is_running = || self.process(name).is_some() || !container.is_waited_for();
        assert!(eventually(PATIENCE, is_running), "{name} does not start");
        assert!(container.client.try_wait().unwrap().is_none(), "ctr {run}: {}", container.errors());
        container
    }

    /// Its first process, once it runs.
    fn process(&self, name: &str) -> Option<String> {
        let listed = self.say("task ls");
        let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = lines.find(|words| words.first() == Some(&name) && words.last() == Some(&"RUNNING"))?;
        Some(found[1].to_owned())
    }

    /// Ends a container, and waits until its network has been taken back.
    fn end(&self, mut container: Container) {
        self.say(&format!("task kill --signal KILL {}", container.name));
        let ended = eventually(PATIENCE, || !container.is_waited_for());
        assert!(ended, "{} does not end", container.name);
    }
}

impl Container {
    fn is_waited_for(&mut self) -> bool {
        self.client.try_wait().unwrap().is_none()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut self.client.stderr.take().unwrap(), &mut text);
        text
    }
}

/// Also after a panic: the processes of containers are nobody's children.
impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        for name in ["web", "other"] {
            self.output(&format!("task kill --signal KILL {name}"));
            self.output(&format!("task delete --force {name}"));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn containers_of_containerd_are_pods_of_their_node() {
    let cluster = Cluster::new(2, &["--proxy-mode=nftables"]);
    let node = &cluster.mesh.node(1).namespace;
    let containerd = Containerd::on(node);
    let mut before = Vec::new();
    for _ in 0..2 {
        let held = addresses(&cluster);
        let (web, other) = (containerd.start("web"), containerd.start("other"));
        let namespace = container::namespace_of(&containerd.process("web").unwrap());
        let own = |address: &IpAddr| {
            let bound = namespace.run(|| std::net::TcpListener::bind((*address, 0)).is_ok());
            bound.unwrap()
        };
        let came: Vec<IpAddr> =
            addresses(&cluster).into_iter().filter(|address| !held.contains(address)).collect();
        assert_eq!(came.len(), 4, "two containers, two families: {came:?}");
        let of_web: Vec<IpAddr> = came.iter().copied().filter(own).collect();
        assert_eq!(of_web.len(), 2, "{came:?}");
        assert!(came.iter().all(|address| !before.contains(address)), "an address rests");
        let server = container::serve(&namespace);
        for address in of_web {
            let family = Family::of(address);
            let elsewhere = &cluster.mesh.pod_host(2, 1).unwrap().namespace;
            let client = cluster.pod(2, 1, family).to_string();
            assert_eq!(ask(elsewhere, SocketAddr::new(address, 80)), Some(client), "from another node");
            let seen = ask(node, SocketAddr::new(address, 80));
            assert_eq!(seen, Some(lab::address(1, family).to_string()), "from its own node");
        }
        from_inside(&cluster, &containerd);
        container::stop(&namespace, server);
        drop(namespace);
        containerd.end(web);
        containerd.end(other);
        assert_eq!(addresses(&cluster), held, "DEL has been called");
        before = came;
    }
    assert_eq!(cluster.run(1, "ip -oneline link show").matches(": fpod").count(), usize::from(PODS));
    let leases =
        node.run(|| fs::read_to_string(format!("{}/ferrovia/journal", lab::LEASES)).unwrap()).unwrap();
    let held = leases.lines().skip(1).filter(|line| line.contains(" ---------- ")).count();
    assert_eq!(held, usize::from(PODS), "no lease is left:\n{leases}");
}

/// What a container reaches.
fn from_inside(cluster: &Cluster, containerd: &Containerd<'_>) {
    let other = container::namespace_of(&containerd.process("other").unwrap());
    for family in Family::ALL {
        for server in [cluster.pod(2, 1, family), lab::outside(family)] {
            let server = SocketAddr::new(server, POD_PORT);
            let connected = other.run(|| std::net::TcpStream::connect_timeout(&server, PATIENCE).map(drop));
            connected.unwrap().unwrap_or_else(|error| panic!("{server}: {error}"));
        }
    }
}

/// To which the first node has routes of the plugin.
fn addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let listed = ["-4", "-6"].map(|family| cluster.run(1, &format!("ip {family} route show proto 103")));
    let first = |line: &str| line.split_whitespace().next().unwrap().parse().unwrap();
    listed.iter().flat_map(|lines| lines.lines()).map(first).collect()
}
