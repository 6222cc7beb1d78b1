//! The loop of the pod network: a thread of its own, so that neither Services nor pods wait for the other.
//!
//! Routes come first, then what the firewall must let through, then what runtimes read: a node whose pods could not reach
//! anybody does not say that it can have pods.

mod pace;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::conflist::{self, Installer, Places, PodLinks};
use super::firewall::{Firewall, Policy, Written};
use super::host_gw::HostGw;
use super::problem::{Obstacle, Problem};
use super::report::{Reporter, Status};
use super::state::NodeState;
use super::sysctls;
use crate::kernel::directories::DirectoryWatch;
use crate::kernel::routes::{Notice, Routes};
use crate::kernel::sysctl::{self, InterfaceName};
use crate::kernel::uplink::{self, Uplink};
use crate::sync::objects::{Event, Kind, Object, PodNetworkNotes};
use pace::Pace;

/// What wakes the loop.
#[derive(Debug)]
pub enum Input {
    Object(Event),
    /// Somebody else did something to routes, links or addresses.
    Kernel(Vec<Notice>),
    /// Somebody else may have done something to rules.
    Rules,
    /// Or to what runtimes read.
    Files,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Input::Object(event)
    }
}

/// Of this pod network, as operators call it.
const KIND: &str = "host-gw";
/// Inputs taken up before anything is written.
const BATCH: usize = 4096;
/// How often rules and files are looked after. nf_tables and inotify tell of changes as they happen; of those in x_tables
/// nobody does, nor where inotify has nothing to give. A look costs a few system calls.
const RULES_PERIOD: Duration = Duration::from_secs(2);
/// Between two looks at rules, however much others do to theirs.
const RULES_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at files: somebody who undoes what is written costs no more than ten writes in a second.
const FILES_PAUSE: Duration = Duration::from_millis(100);

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks outside the cluster that see pods' own addresses.
    pub non_masquerade: Vec<IpNet>,
    pub places: Places,
}

/// Owns everything from Nodes to the kernel.
pub struct Driver<R> {
    host_gw: HostGw<R>,
    firewalls: Vec<Firewall>,
    settings: Settings,
    reporter: Reporter,
    pace: Pace,
    routes: Progress,
    rules: Progress,
    rules_due: Instant,
    rules_looked: Instant,
    files: Option<DirectoryWatch>,
    files_due: Option<Instant>,
    files_looked: Instant,
    policies: Vec<Policy>,
    node: ThisNode,
    installer: Installer,
}

/// How far one part of the work has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    NotYet,
    Done,
    Failed(String),
}

/// What was found out and written about this node.
#[derive(Debug, Default)]
struct ThisNode {
    networks: Vec<IpNet>,
    addresses: Box<[IpAddr]>,
    uplink: Option<Uplink>,
    links_changed: bool,
    told: Option<NodeState>,
    /// What its Node says of the pod network, by the last word of the API server.
    annotated: Option<PodNetworkNotes>,
    /// What it was asked to say since.
    asked: Option<PodNetworkNotes>,
    /// Whether that is to be looked at.
    annotations_due: bool,
}

impl ThisNode {
    /// Takes in what its Node says. One that is written for another reason while an answer is on its way, as kubelet does again
    /// and again, is no news.
    fn hear(&mut self, annotated: &PodNetworkNotes) {
        if self.annotated.as_ref() != Some(annotated) {
            (self.annotated, self.asked) = (Some(annotated.clone()), None);
            self.annotations_due = true;
        }
    }
}

impl<R: Routes> Driver<R> {
    /// Without a watch, changes of files are found by looking.
    pub fn new(
        host_gw: HostGw<R>,
        firewalls: Vec<Firewall>,
        files: Option<DirectoryWatch>,
        settings: Settings,
        reporter: Reporter,
    ) -> Self {
        let now = Instant::now();
        Driver {
            host_gw,
            firewalls,
            settings,
            reporter,
            pace: Pace::new(now),
            routes: Progress::NotYet,
            rules: Progress::NotYet,
            rules_due: now,
            rules_looked: now,
            files,
            files_due: None,
            files_looked: now,
            policies: Vec::new(),
            node: ThisNode::default(),
            installer: Installer::default(),
        }
    }

    /// Runs until all senders are gone. What was written outlives the process.
    pub fn run(&mut self, inputs: &Receiver<Input>) {
        self.reporter.status(&Status::NotReady("Nodes have not been listed yet".into()));
        loop {
            self.work(Instant::now());
            match inputs.recv_timeout(self.idle_time(Instant::now())) {
                Ok(first) => {
                    for input in std::iter::once(first).chain(inputs.try_iter()).take(BATCH) {
                        match input {
                            Input::Object(event) => self.take(&event),
                            Input::Rules => {
                                self.rules_due = self.rules_due.min(self.rules_looked + RULES_PAUSE);
                            }
                            Input::Files => {
                                self.files_due.get_or_insert(self.files_looked + FILES_PAUSE);
                            }
                            Input::Kernel(notices) => {
                                notices.into_iter().for_each(|notice| self.notice(notice))
                            }
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if *event == Event::ListStarted(Kind::Node) {
            // Whatever happened to it meanwhile.
            (self.node.annotated, self.node.asked) = (None, None);
        }
        if let Event::Applied(Object::Node(node)) = event
            && node.name == *self.host_gw.node_name()
        {
            self.node.hear(&node.pod_network);
        }
        self.host_gw.handle(event, Instant::now());
    }

    fn notice(&mut self, notice: Notice) {
        let uplink = self.node.uplink.as_ref().map(|uplink| uplink.link);
        match notice {
            Notice::Link(link) | Notice::Address { link, .. } => {
                self.node.links_changed |= uplink.is_none_or(|uplink| uplink == link);
            }
            Notice::Lost => {
                tracing::warn!("Notifications about routes were lost; reading everything again");
                self.node.links_changed = true;
            }
            Notice::OwnRoute(_) | Notice::OtherRoute(_) => {}
        }
        self.host_gw.notice(notice);
    }

    fn idle_time(&self, now: Instant) -> Duration {
        if !self.host_gw.is_listed() {
            return RULES_PERIOD;
        }
        let routes = if self.host_gw.is_due(now) { Some(self.pace.not_before) } else { self.host_gw.wake() };
        let next = [routes, self.files_due].into_iter().flatten().fold(self.rules_due, Instant::min);
        next.saturating_duration_since(now)
    }

    fn work(&mut self, now: Instant) {
        if !self.host_gw.is_listed() {
            return;
        }
        let is_routing = self.host_gw.is_due(now) && self.pace.not_before <= now;
        let is_looking = is_routing || self.node.links_changed;
        if is_routing {
            self.host_gw.look(now);
        }
        if is_looking {
            self.look_at_node();
        }
        if is_looking {
            let wanted = self.policies();
            if is_routing {
                self.widen_rules(&wanted);
                self.sync_routes(now);
            }
            self.policies = wanted;
        }
        self.annotate();
        if is_routing || self.rules_due <= now {
            self.rules_looked = now;
            self.rules_due = now + RULES_PERIOD;
            self.sync_rules(&self.policies.clone());
            self.publish(now);
        } else if self.files_due.is_some_and(|due| due <= now) {
            self.publish(now);
        }
    }

    /// Whoever is reached directly must not see this node's address instead of a pod's, not even at first: rules know of
    /// networks before there are routes to them, and until these are gone.
    fn widen_rules(&mut self, wanted: &[Policy]) {
        let mut policies = wanted.to_vec();
        for (policy, before) in policies.iter_mut().zip(&self.policies) {
            policy.widen(before);
        }
        self.sync_rules(&policies);
    }

    fn sync_routes(&mut self, started: Instant) {
        let result = self.host_gw.sync(started);
        let now = Instant::now();
        self.reporter.routes(&self.host_gw, &result, now - started);
        self.routes = match result {
            Ok(synced) if synced.refusals == 0 => {
                self.pace.succeeded(started, now);
                Progress::Done
            }
            Ok(synced) => {
                self.pace.failed(now);
                Progress::Failed(format!("the kernel refused {} routes", synced.refusals))
            }
            Err(error) => {
                self.pace.failed(now);
                Progress::Failed(format!("{:#}", anyhow::Error::new(error)))
            }
        };
    }

    /// Says in the Node's annotations what there is, whenever these say something else. Nobody else writes them.
    fn annotate(&mut self) {
        if !std::mem::take(&mut self.node.annotations_due) {
            return;
        }
        let uplink = self.node.uplink.as_ref();
        let wanted = PodNetworkNotes {
            kind: Some(KIND.into()),
            interface: uplink.map(|uplink| uplink.name.as_str().into()),
            mtu: uplink.map(|uplink| uplink.mtu.to_string().into()),
        };
        let is_said = self.node.annotated.as_ref().is_none_or(|annotated| *annotated == wanted);
        if !is_said && self.node.asked.as_ref() != Some(&wanted) {
            self.node.asked = Some(wanted.clone());
            self.reporter.annotate(wanted);
        }
    }

    /// What of the node itself has to be known and set.
    fn look_at_node(&mut self) {
        let networks = self.host_gw.own_networks();
        let addresses = self.host_gw.this_node().map(|node| node.addresses.clone()).unwrap_or_default();
        let is_news = networks != self.node.networks || addresses != self.node.addresses;
        if !is_news && !std::mem::take(&mut self.node.links_changed) {
            return;
        }
        self.node.links_changed = false;
        let found = addresses.iter().find_map(|address| uplink::of(*address).transpose());
        self.node.uplink =
            found.and_then(|found| found.inspect_err(|error| self.reporter.cannot_look(error)).ok());
        (self.node.networks, self.node.addresses) = (networks, addresses);
        self.node.annotations_due = true;
        if is_news {
            self.set_sysctls();
        }
    }

    fn set_sysctls(&self) {
        let uplink = self.node.uplink.as_ref().and_then(|uplink| InterfaceName::new(&uplink.name));
        let wanted = sysctls::plan(&self.node.networks, uplink, &sysctl::Kernel);
        let errors = sysctl::apply(&mut sysctl::Kernel, &wanted);
        self.reporter.sysctls(&errors, &sysctls::remarks(uplink, &sysctl::Kernel));
    }

    /// What the rules of each family are to say.
    fn policies(&self) -> Vec<Policy> {
        let inside = self.host_gw.inside();
        let inside = || inside.iter().chain(&self.settings.non_masquerade).copied();
        let families = self.firewalls.iter().map(Firewall::family);
        families.map(|family| Policy::new(family, &self.node.networks, inside())).collect()
    }

    fn sync_rules(&mut self, policies: &[Policy]) {
        let mut progress = Progress::Done;
        for (firewall, policy) in self.firewalls.iter_mut().zip(policies) {
            match firewall.sync(policy) {
                Ok(Written::Nothing) => {}
                Ok(Written::Rules) => self.reporter.rules(policy),
                Ok(Written::Repair) => self.reporter.rules_repaired(policy),
                Err(error) => progress = Progress::Failed(format!("{:#}", anyhow::Error::new(error))),
            }
        }
        if progress != self.rules
            && let Progress::Failed(reason) = &progress
        {
            self.reporter.rules_failed(reason);
        }
        self.rules = progress;
    }

    /// The last of all: tells whoever starts pods what there is.
    fn publish(&mut self, now: Instant) {
        (self.files_looked, self.files_due) = (now, None);
        let is_watched = self.watch_files();
        let problems = self.host_gw.problems();
        let mut status = self.status(&problems);
        if status.is_ready() {
            let links = PodLinks {
                ranges: self.node.networks.clone(),
                mtu: self.node.uplink.as_ref().map(|uplink| uplink.mtu),
            };
            let places = &self.settings.places;
            // The state first: a plugin that is called at once must find it.
            let written = self.installer.install(places).map_err(anyhow::Error::from);
            let written = written.and_then(|()| self.tell(&status));
            let written = written.and_then(|()| Ok(conflist::write(&links, &self.settings.places)?));
            if let Err(error) = written {
                status = Status::NotReady(format!("{error:#}"));
            }
        }
        if !status.is_ready()
            && let Err(error) = self.tell(&status)
        {
            self.reporter.cannot_look(&*error);
        }
        self.reporter.status(&status);
        if !is_watched {
            self.watch_files();
        }
    }

    /// Whether all directories are there to be watched.
    fn watch_files(&self) -> bool {
        let Some(watch) = &self.files else { return true };
        watch.forget_what_was_told();
        let places = &self.settings.places;
        let watched =
            [&places.configurations, &places.plugins].map(|directory| watch.watch(directory).is_ok());
        watched == [true; 2]
    }

    fn tell(&mut self, status: &Status) -> anyhow::Result<()> {
        let (condition, reason) = status.condition();
        let state = NodeState::new(self.node.networks.clone(), condition, reason);
        if self.node.told.as_ref() == Some(&state) {
            return Ok(());
        }
        let path = &self.settings.places.state;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        state.write(path)?;
        self.node.told = Some(state);
        Ok(())
    }

    fn status(&self, problems: &BTreeSet<Problem>) -> Status {
        for (progress, what) in [(&self.routes, "routes"), (&self.rules, "rules")] {
            match progress {
                Progress::Done => {}
                Progress::NotYet => return Status::NotReady(format!("{what} are not in place yet")),
                Progress::Failed(reason) => return Status::NotReady(reason.clone()),
            }
        }
        if let Some(reason) = self.without_network(problems) {
            return Status::NotReady(reason);
        }
        match problems.len() {
            0 => Status::Ready,
            1 => Status::Limited(problems.iter().map(Problem::to_string).collect()),
            count => Status::Limited(format!("{count} pod CIDRs of other nodes have no direct route")),
        }
    }

    /// Why pods of this node can have no addresses.
    fn without_network(&self, problems: &BTreeSet<Problem>) -> Option<String> {
        let Some(node) = self.host_gw.this_node() else {
            return Some("there is no Node object of this node".into());
        };
        let is_own = |problem: &&Problem| problem.node == node.name;
        let lost =
            problems.iter().filter(is_own).find(|problem| matches!(problem.obstacle, Obstacle::Clash(_)));
        match (lost, node.pod_cidrs.is_empty()) {
            (Some(lost), _) => Some(lost.to_string()),
            (None, true) => Some(format!("Node {} has no pod CIDR", node.name)),
            (None, false) => None,
        }
    }
}
