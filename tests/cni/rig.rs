//! A node, its pods and a runtime that calls plugins.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ferrovia::kernel::netns::Namespace;
use ferrovia::podnet::POD_ROUTE_PROTOCOL;
use ferrovia::podnet::cni::attachment::{AttachmentKey, NODE_END_PREFIX};
use serde_json::{Value, json};

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_ferrovia-cni");
pub const DEBIAN: &str = "/usr/lib/cni";
/// Of the node, in both families.
pub const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Somebody on the node's segment.
pub const CLIENT: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
pub const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/64"];

pub struct Node {
    pub namespace: Namespace,
    pub client: Namespace,
    pub config: Value,
    directory: tempfile::TempDir,
}

pub struct Pod {
    pub id: String,
    pub namespace: Namespace,
}

/// What a plugin said, and whether it was satisfied.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub value: Value,
    pub stderr: String,
}

impl Answer {
    #[track_caller]
    pub fn success(self) -> Value {
        assert!(self.ok, "{} {}", self.value, self.stderr);
        self.value
    }

    /// The code and the words of an error.
    #[track_caller]
    pub fn failure(self) -> (u64, String) {
        assert!(!self.ok, "{}", self.value);
        let text = |field: &str| self.value[field].as_str().unwrap_or_default().to_owned();
        (self.value["code"].as_u64().unwrap(), format!("{}: {}", text("msg"), text("details")))
    }
}

#[track_caller]
pub fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = namespace.command(words.next().unwrap()).unwrap().args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip -json` or `tc -json` prints.
#[track_caller]
pub fn read(namespace: &Namespace, line: &str) -> Vec<Value> {
    let text = run(namespace, line);
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
}

pub fn pings(namespace: &Namespace, address: &str) -> bool {
    let mut ping = namespace.command("ping").unwrap();
    // Asks until it is answered: a busy kernel is late to let a new link send.
    ping.args(["-n", "-c", "1", "-i", "0.2", "-w", "10", address]).output().unwrap().status.success()
}

impl Node {
    /// With dual-stack ranges.
    pub fn new() -> Self {
        Node::with_ranges(&DUAL)
    }

    pub fn with_ranges(ranges: &[&str]) -> Self {
        let (namespace, client) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let directory = tempfile::tempdir().unwrap();
        for namespace in [&namespace, &client] {
            // Until an interface knows its link-local address to be its own, it asks nobody for neighbours.
            run(namespace, "sysctl -q -w net.ipv6.conf.default.accept_dad=0");
            run(namespace, "ip link set lo up");
        }
        let peer = client.as_fd().as_raw_fd();
        let peer = format!("/proc/{}/fd/{peer}", std::process::id());
        run(&namespace, "ip link add uplink type veth peer name eth0");
        let status = namespace.command("ip").unwrap();
        move_link(status, "eth0", &peer);
        set_up_segment(&namespace, "uplink", NODE);
        set_up_segment(&client, "eth0", CLIENT);
        run(&client, &format!("ip route add default via {}", NODE[0]));
        run(&client, &format!("ip -6 route add default via {}", NODE[1]));
        for sysctl in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            run(&namespace, &format!("sysctl -q -w {sysctl}"));
        }
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "ferrovia-cni",
            "ranges": ranges,
            "dataDir": directory.path().join("state"),
        });
        Node { namespace, client, config, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn journal(&self) -> PathBuf {
        self.path("state/pods/journal")
    }

    /// As a runtime derives it from the network configuration.
    pub fn with(&self, fields: Value) -> Value {
        let mut config = self.config.clone();
        for (name, value) in fields.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    pub fn add(&self, pod: &Pod) -> Answer {
        self.call("ADD", pod, &self.config)
    }

    pub fn del(&self, pod: &Pod) -> Answer {
        self.call("DEL", pod, &self.config)
    }

    pub fn check(&self, pod: &Pod, result: &Value) -> Answer {
        self.call("CHECK", pod, &self.with(json!({"prevResult": result})))
    }

    pub fn status(&self) -> Answer {
        self.run_plugin(PLUGIN, &[("CNI_COMMAND", "STATUS")], &self.config)
    }

    /// With the pods that are valid.
    pub fn gc(&self, valid: &[&Pod]) -> Answer {
        let valid: Vec<Value> =
            valid.iter().map(|pod| json!({"containerID": pod.id, "ifname": "eth0"})).collect();
        let config = self.with(json!({"cni.dev/valid-attachments": valid}));
        self.run_plugin(PLUGIN, &[("CNI_COMMAND", "GC")], &config)
    }

    pub fn call(&self, command: &str, pod: &Pod, config: &Value) -> Answer {
        self.run_plugin(PLUGIN, &variables(command, pod), config)
    }

    pub fn run_plugin(&self, program: &str, variables: &[(&str, impl AsRef<str>)], config: &Value) -> Answer {
        let mut command = self.namespace.command(program).unwrap();
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_PATH", DEBIAN);
        command.envs(variables.iter().map(|(name, value)| (*name, value.as_ref())));
        let output = feed(&mut command, config);
        let text = String::from_utf8(output.stdout).unwrap();
        let value = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Answer { ok: output.status.success(), value, stderr }
    }

    /// Names of the links to pods.
    pub fn links(&self) -> BTreeSet<String> {
        read(&self.namespace, "ip -json link show")
            .iter()
            .map(|link| link["ifname"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with(NODE_END_PREFIX))
            .collect()
    }

    /// Destinations of the routes to pods, both families.
    pub fn routes(&self) -> BTreeSet<IpAddr> {
        ["-4", "-6"]
            .iter()
            .flat_map(|family| {
                read(&self.namespace, &format!("ip {family} -json route show proto {POD_ROUTE_PROTOCOL}"))
            })
            .map(|route| route["dst"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Container ids with an address on record.
    pub fn holders(&self) -> Vec<String> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        let live = text.lines().skip(1).filter(|line| line.contains(" ---------- "));
        live.map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect()
    }

    /// That no pod has left anything.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!((self.links(), self.routes(), self.holders()), Default::default());
    }
}

fn move_link(mut ip: Command, link: &str, namespace: &str) {
    let status = ip.args(["link", "set", link, "netns", namespace]).status().unwrap();
    assert!(status.success());
}

fn set_up_segment(namespace: &Namespace, link: &str, [v4, v6]: [&str; 2]) {
    run(namespace, &format!("ip address add {v4}/24 dev {link}"));
    run(namespace, &format!("ip address add {v6}/64 dev {link} nodad"));
    run(namespace, &format!("ip link set {link} up"));
}

pub fn variables(command: &str, pod: &Pod) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", pod.id.clone()),
        ("CNI_NETNS", pod.path()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-{}", pod.id)),
    ]
}

pub fn feed(command: &mut Command, config: &Value) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever is killed does not read to the end.
    let _ = write!(child.stdin.take().unwrap(), "{config}");
    child.wait_with_output().unwrap()
}

impl Pod {
    pub fn new(id: &str) -> Self {
        Pod { id: id.to_owned(), namespace: Namespace::new().unwrap() }
    }

    /// Of the network namespace, as long as the pod is there.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_fd().as_raw_fd())
    }

    pub fn node_end(&self) -> String {
        AttachmentKey { container_id: self.id.clone(), interface: "eth0".into() }.node_end("pods")
    }

    /// Of its interface, without link-local ones.
    pub fn addresses(&self) -> Vec<String> {
        let links = read(&self.namespace, "ip -json address show dev eth0 scope global");
        let infos = links[0]["addr_info"].as_array().unwrap();
        let address = |info: &Value| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"]));
        infos.iter().filter_map(address).collect()
    }

    pub fn has_interface(&self) -> bool {
        self.namespace
            .command("ip")
            .unwrap()
            .args(["link", "show", "eth0"])
            .output()
            .unwrap()
            .status
            .success()
    }
}

/// The addresses in a result, without prefix lengths.
pub fn ips(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}
