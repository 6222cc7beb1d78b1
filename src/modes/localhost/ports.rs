//! The sockets: one for each NodePort, as there is no rule that would lead packets to a common one in every mode.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::model::{Family, Frontend, Protocol, ServicePort, ServicePortName};
use crate::modes::userspace::served::Edit;
use crate::modes::userspace::{Engine, LoopbackListener};

/// Of one family, in the network namespace of the process.
#[derive(Debug)]
pub struct LocalPorts {
    family: Family,
    engine: Arc<Engine>,
    services: Services,
    open: BTreeMap<(Protocol, u16), Open>,
}

/// Who tells the engine of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// The mode does, which serves them all.
    OfMode,
    /// Nobody else does.
    Own,
}

#[derive(Debug)]
struct Open {
    owner: ServicePortName,
    /// `None` where somebody else has the port.
    listener: Option<LoopbackListener>,
}

impl LocalPorts {
    pub fn new(family: Family, engine: Arc<Engine>, services: Services) -> Self {
        LocalPorts { family, engine, services, open: BTreeMap::new() }
    }

    /// Connections that are there go on.
    pub fn change(&mut self, edit: &Edit) {
        if self.services == Services::Own {
            self.engine.shared.frontends.tell(self.family, edit);
        }
        for port in &edit.set {
            let wanted: Vec<_> = node_ports(port).collect();
            self.open.retain(|key, open| open.owner != port.name || wanted.contains(key));
            wanted.into_iter().for_each(|key| self.listen(key, &port.name));
        }
        for name in &edit.removed {
            self.open.retain(|_, open| open.owner != *name);
        }
        if self.services == Services::Own {
            self.engine.shared.frontends.forget(self.family, &edit.removed);
        }
        self.engine.open_loopback(self.family);
    }

    fn listen(&mut self, key: (Protocol, u16), owner: &ServicePortName) {
        let is_open = |open: &Open| open.owner == *owner && open.listener.is_some();
        if self.open.get(&key).is_some_and(is_open) {
            return;
        }
        self.open.remove(&key);
        let listener = self.engine.listen_on_loopback(self.family, key.0, key.1);
        let report = |error: io::Error| {
            let (protocol, port) = key;
            tracing::warn!(%owner, family = %self.family, %protocol, port, %error, "Cannot listen for a NodePort on loopback");
        };
        let listener = listener.map_err(report).ok().flatten();
        self.open.insert(key, Open { owner: owner.clone(), listener });
    }
}

fn node_ports(port: &ServicePort) -> impl Iterator<Item = (Protocol, u16)> {
    let protocol = port.name.protocol;
    port.frontends.iter().filter_map(move |frontend| match frontend {
        Frontend::NodePort(number) => Some((protocol, *number)),
        _ => None,
    })
}
