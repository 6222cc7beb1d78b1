//! What the listeners were told, and what they are to be told.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::model::{Affinity, ByName, Endpoint, NodePolicy, Protocol, ServicePort, ServicePortName, Verdict};

/// The ServicePorts that the listeners serve.
#[derive(Debug, Default)]
pub struct Served {
    ports: BTreeSet<ByName<ServicePort>>,
    node: Option<NodePolicy>,
}

/// What is new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    pub node: Option<NodePolicy>,
    /// Told before packets come.
    pub set: Vec<Arc<ServicePort>>,
    /// Told when packets come no more.
    pub removed: Vec<ServicePortName>,
}

pub enum Change {
    Set(Arc<ServicePort>),
    Removed(ServicePortName),
}

impl Served {
    pub fn names(&self) -> impl Iterator<Item = &ServicePortName> {
        self.ports.iter().map(|ByName(port)| &port.name)
    }

    pub fn node_change(&self, wanted: &NodePolicy) -> Option<NodePolicy> {
        (self.node.as_ref() != Some(wanted)).then(|| wanted.clone())
    }

    /// What is new about a ServicePort. One that is not TCP or UDP is not there.
    pub fn change(&self, name: &ServicePortName, wanted: Option<&Arc<ServicePort>>) -> Option<Change> {
        let wanted = wanted.filter(|port| port.name.protocol != Protocol::Sctp);
        match (self.ports.get(name), wanted) {
            (Some(ByName(served)), Some(wanted)) if Arc::ptr_eq(served, wanted) || served == wanted => None,
            (_, Some(wanted)) => Some(Change::Set(Arc::clone(wanted))),
            (Some(_), None) => Some(Change::Removed(name.clone())),
            (None, None) => None,
        }
    }

    pub fn learn(&mut self, edit: &Edit) {
        for port in &edit.set {
            self.ports.replace(ByName(Arc::clone(port)));
        }
        for name in &edit.removed {
            self.ports.remove(name);
        }
        if let Some(node) = &edit.node {
            self.node = Some(node.clone());
        }
    }
}

impl Edit {
    pub fn len(&self) -> usize {
        self.set.len() + self.removed.len() + usize::from(self.node.is_some())
    }
}

impl Extend<Change> for Edit {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, changes: I) {
        for change in changes {
            match change {
                Change::Set(port) => self.set.push(port),
                Change::Removed(name) => self.removed.push(name),
            }
        }
    }
}

/// One line for each ServicePort.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.iter().try_for_each(|port| write_port(f, port))?;
        self.removed.iter().try_for_each(|name| writeln!(f, "# serve {name} no more"))
    }
}

fn write_port(f: &mut fmt::Formatter<'_>, port: &ServicePort) -> fmt::Result {
    write!(f, "# serve {} by {}", port.name, port.scheduler)?;
    if let Some(Affinity { timeout_seconds }) = port.affinity {
        write!(f, ", clients for {timeout_seconds}s")?;
    }
    for (what, verdict) in [("internal", port.internal), ("external", port.external)] {
        write!(f, ", {what} {}", Ruled(verdict))?;
    }
    for (what, endpoints) in
        [("cluster", &port.cluster), ("local", &port.local), ("draining", &port.draining)]
    {
        write_endpoints(f, what, endpoints)?;
    }
    f.write_str("\n")
}

fn write_endpoints(f: &mut fmt::Formatter<'_>, what: &str, endpoints: &[Endpoint]) -> fmt::Result {
    if endpoints.is_empty() {
        return Ok(());
    }
    write!(f, "; {what}")?;
    for Endpoint { address, port, weight, .. } in endpoints {
        write!(f, " {}", std::net::SocketAddr::new(*address, *port))?;
        if *weight != 1 {
            write!(f, " x {weight}")?;
        }
    }
    Ok(())
}

struct Ruled(Verdict);

impl fmt::Display for Ruled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::model::TrafficPolicy::{Cluster, Local};
        f.write_str(match self.0 {
            Verdict::Forward(Cluster) => "to cluster",
            Verdict::Forward(Local) => "to local",
            Verdict::Reject => "rejected",
            Verdict::Drop => "dropped",
        })
    }
}
