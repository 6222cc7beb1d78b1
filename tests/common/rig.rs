//! A lab with the real program running in it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ferrovia::lab::proxy::{LAB_FLAGS, Proxy, get, healthz, remove_manifest, write_manifest};
use ferrovia::lab::runner::{self, Spread};
use ferrovia::lab::{Lab, LabError, Observed, flows};
use ferrovia::model::Protocol;

use super::data_plane::DataPlane;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ferrovia");
/// Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Within this time a change has to be in force. A machine that runs many tests at once is slow, a guest kernel on it is
/// slower.
pub const SOON: Duration = Duration::from_secs(10);

pub struct Rig {
    pub lab: Arc<Lab>,
    proxy: Option<Proxy>,
    plane: DataPlane,
    flags: Vec<String>,
}

impl Rig {
    /// A lab with these manifests, and no proxy yet.
    pub fn without_proxy(plane: DataPlane, manifests: &[(&str, &str)], flags: &[String]) -> Self {
        let lab = Lab::new().unwrap_or_else(|error| panic!("this test needs root: {}", chain(error)));
        let rig = Rig { lab: Arc::new(lab), proxy: None, plane, flags: flags.to_vec() };
        if !manifests.iter().any(|(_, text)| text.contains("kind: Node\n")) {
            rig.write("node.yaml", NODES);
        }
        manifests.iter().for_each(|(file, text)| rig.write(file, text));
        rig
    }

    /// With these on the proxy's command line from now on.
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// A lab with these manifests in force.
    pub fn start(plane: DataPlane, manifests: &[(&str, &str)]) -> Self {
        let mut rig = Self::without_proxy(plane, manifests, &[]);
        rig.start_proxy();
        rig
    }

    pub fn start_proxy(&mut self) {
        self.spawn(self.command());
        self.wait_until_healthy();
    }

    /// The command line that is started on the manifests.
    pub fn command(&self) -> Command {
        let mut command =
            Proxy::command(&self.lab, Path::new(PROGRAM)).unwrap_or_else(|error| panic!("{}", chain(error)));
        self.add_flags(&mut command);
        command
    }

    fn add_flags(&self, command: &mut Command) {
        command.args(self.plane.flags()).args(["-v", "4"]).args(&self.flags);
    }

    /// Kills the proxy and starts one that forwards in another way.
    pub fn switch_to(&mut self, plane: DataPlane) {
        self.kill_proxy();
        self.plane = plane;
        self.start_proxy();
    }

    /// Starts a proxy that forwards in this way beside the one that runs, has it take over, and ends the other one.
    pub fn hand_over_to(&mut self, plane: DataPlane) {
        let from_userspace = self.plane.is_userspace();
        self.plane = plane;
        let new = Proxy::spawn(self.command()).unwrap_or_else(|error| panic!("{}", chain(error)));
        // The sockets of the userspace mode, and those of NodePorts on loopback.
        let handovers = if from_userspace && plane.is_userspace() { 2 } else { 1 };
        let is_relieved =
            || self.log().matches("Another process takes the place of this one").count() == handovers;
        assert!(eventually(PATIENCE, is_relieved), "{}\n{}", self.log(), new.log());
        self.run(&format!("kill -TERM {}", self.process()));
        let old = self.proxy.as_mut().expect("it was started");
        assert!(eventually(PATIENCE, || !old.is_running()), "{}", old.log());
        self.proxy = Some(new);
        self.wait_until_healthy();
        // It asks for the addresses again until it has them.
        self.metrics();
    }

    /// The command line that is started on an API server.
    pub fn command_for(&self, kubeconfig: &Path) -> Command {
        let mut command = self.lab.here().command(PROGRAM).unwrap();
        command.arg("proxy").args(LAB_FLAGS).arg("--kubeconfig").arg(kubeconfig);
        self.add_flags(&mut command);
        command
    }

    /// Starts a command line and waits for nothing.
    pub fn spawn(&mut self, command: Command) {
        self.proxy = Some(Proxy::spawn(command).unwrap_or_else(|error| panic!("{}", chain(error))));
    }

    pub fn wait_until_healthy(&mut self) {
        let proxy = self.proxy.as_mut().expect("it was started");
        proxy.wait_until_healthy(&self.lab, PATIENCE).unwrap_or_else(|error| panic!("{}", chain(error)));
    }

    /// Status and body of `/healthz`; 0 and the reason where there is no answer.
    pub fn healthz(&self) -> (u16, String) {
        healthz(&self.lab).unwrap_or_else(|error| (0, chain(error)))
    }

    /// In Prometheus' text format. The server may be busy, or begin only now.
    pub fn metrics(&self) -> String {
        let mut answer = None;
        let is_answered = || {
            answer = get(&self.lab, address("127.0.0.1:10249"), "/metrics").ok();
            answer.is_some()
        };
        assert!(eventually(PATIENCE, is_answered), "{}", self.log());
        answer.map(|(_, text)| text).unwrap_or_default()
    }

    /// Rules and chains, without counters and what is built in.
    pub fn rules(&self, flavour: &str) -> Vec<String> {
        let saved = self.run(&format!("iptables-{flavour}-save"));
        let added = |line: &&str| line.starts_with("-A") || line.starts_with(':') && line.contains(" - ");
        saved.lines().filter(added).map(str::to_owned).collect()
    }

    /// How often an endpoint is forwarded to whose address and port begin like this.
    pub fn forwards_to(&self, endpoint: &str) -> usize {
        self.run(self.plane.listing()).matches(&self.plane.listed(endpoint)).count()
    }

    /// `kill -9`
    pub fn kill_proxy(&mut self) {
        self.proxy = None;
    }

    pub fn write(&self, file: &str, text: &str) {
        write_manifest(&self.lab, file, text).unwrap_or_else(|error| panic!("{}", chain(error)));
    }

    pub fn remove(&self, file: &str) {
        remove_manifest(&self.lab, file).unwrap_or_else(|error| panic!("{}", chain(error)));
    }

    /// The number of the proxy's process.
    pub fn process(&self) -> u32 {
        self.proxy.as_ref().expect("it was started").id()
    }

    pub fn log(&self) -> String {
        self.proxy.as_ref().map(Proxy::log).unwrap_or_default()
    }

    /// For the message of a failure: what the proxy says, and where the kernel forwards to.
    pub fn evidence(&self) -> String {
        let listed = self.output(self.plane.listing()).stdout;
        format!("{}\n{}", self.log(), String::from_utf8_lossy(&listed))
    }

    /// Runs a program on the proxy's node and returns what it prints.
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let mut command = self.lab.here().command(program).unwrap();
        command.args(words).output().unwrap_or_else(|error| panic!("this test needs {program}: {error}"))
    }

    pub fn ask(&self, from: &str, protocol: Protocol, to: &str) -> Observed {
        self.lab
            .probe(ip(from), protocol, address(to), PATIENCE.min(Duration::from_secs(3)))
            .unwrap_or_else(|error| panic!("{}", chain(error)))
    }

    /// Every line that does not hold, with what was seen instead.
    pub fn mismatches(&self, table: &flows::FlowTable, spread: Spread) -> Vec<String> {
        let table = self.plane.expected(table);
        let mismatches =
            runner::run(&self.lab, &table, spread).unwrap_or_else(|error| panic!("{}", chain(error)));
        mismatches.iter().map(ToString::to_string).collect()
    }

    /// Holds the node to a flow table, now.
    pub fn expect(&self, flows: &str) {
        let mismatches = self.mismatches(&flows::parse(flows).unwrap(), Spread::All);
        assert!(mismatches.is_empty(), "{}\n{}", mismatches.join("\n"), self.evidence());
    }

    /// Holds the node to a flow table soon.
    pub fn expect_soon(&self, flows: &str) {
        let table = flows::parse(flows).unwrap();
        let mut mismatches = Vec::new();
        let holds = eventually(SOON, || {
            mismatches = self.mismatches(&table, Spread::All);
            mismatches.is_empty()
        });
        assert!(holds, "{}\n{}", mismatches.join("\n"), self.evidence());
    }

    /// The tracked flows of a protocol with their ids, as conntrack-tools prints them.
    pub fn tracked(&self, protocol: &str) -> String {
        self.run(&format!("conntrack -L -o id -p {protocol}"))
    }
}

/// Tries until it holds or the time is over.
pub fn eventually(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn chain(error: LabError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

pub const NODES: &str = include_str!("../../manifests/examples/node.yaml");

/// A Service `default/NAME`; `spec` is the inside of a flow mapping.
pub fn service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// An EndpointSlice of one unnamed port. An endpoint is an address, or an address and conditions: `10.244.1.5
/// ready: false`.
pub fn endpoints(service: &str, protocol: &str, port: u16, endpoints: &[&str]) -> String {
    let family = if endpoints.iter().any(|endpoint| endpoint.starts_with("fd")) { "IPv6" } else { "IPv4" };
    let list: Vec<_> = endpoints.iter().map(|text| endpoint(text)).collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n  \
         name: {service}-{}\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\n\
         ports: [{{protocol: {protocol}, port: {port}}}]\nendpoints: [{}]\n",
        family.to_lowercase(),
        list.join(", ")
    )
}

fn endpoint(text: &str) -> String {
    let (address, conditions) = text.split_once(' ').unwrap_or((text, "ready: true"));
    let on_other_node = address.starts_with("10.244.2.") || address.starts_with("fd00:244:2:");
    let node = if on_other_node { "elsewhere" } else { "here" };
    format!("{{addresses: [\"{address}\"], nodeName: {node}, conditions: {{{conditions}}}}}")
}

/// A port of 10.96.0.10 over TCP, in front of port 8080 of some pods.
pub fn web(spec: &str, pods: &[&str]) -> String {
    let spec = format!("clusterIP: 10.96.0.10, ports: [{{port: 80, nodePort: 30080}}], {spec}");
    service("web", &spec) + &endpoints("web", "TCP", 8080, pods)
}

/// The same over UDP, on 10.96.0.53.
pub fn dns(pods: &[&str]) -> String {
    let spec = "type: NodePort, clusterIP: 10.96.0.53, ports: [{protocol: UDP, port: 53, nodePort: 30053}]";
    service("dns", spec) + &endpoints("dns", "UDP", 8080, pods)
}
